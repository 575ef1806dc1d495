"""An interpreted sample and maps become units for the estimators."""

import numpy as np

from cwsam_cli.verify.observed import as_units
from tests.unit.verify.assessed import assessment


def test_strata_are_classes_of_the_map_that_was_sampled_only() -> None:
    """Both maps have equal classes at the three points. They may still differ elsewhere."""
    strata, mapped = np.arange(3), np.arange(1, 4)
    _, (own, other) = as_units(assessment().design, strata, np.eye(3), None, (mapped, True), (mapped, False))
    assert own.has_class_strata and not other.has_class_strata
