"""What counts as growth in a long run."""

import numpy as np

from tests.soak.soak import BOUNDS, grown, growth

COUNTS = [*range(0, 4000, 10)]


def measured(**changes):
    """Samples of a run that warms up for 50 scenes and whose figures then only waver."""
    rng = np.random.default_rng(0)
    levels = {"memory (MiB)": 300.0, "handles": 8.0, "threads": 5.0, "temporary files": 2.0}
    warm = np.minimum(np.array(COUNTS) / 50, 1.0)
    samples = {name: warm * level + rng.integers(-1, 2, len(COUNTS)) for name, level in levels.items()}
    slopes = {name: changes.get(name.split()[0], 0.0) for name in samples}
    return {name: [*(values + slopes[name] * np.array(COUNTS))] for name, values in samples.items()}


def test_a_run_that_warms_up_and_wavers_does_not_grow():
    assert grown(COUNTS, measured()) == []


def test_each_kind_of_leak_is_found():
    leaks = {"memory": 0.005, "handles": 0.002, "threads": 0.002, "temporary": 0.002}
    for name, per_scene in leaks.items():
        assert [found.split()[0] for found in grown(COUNTS, measured(**{name: per_scene}))] == [name]
    assert grown(COUNTS, measured(**leaks)) == [*BOUNDS]


def test_a_file_that_is_there_at_some_moments_is_no_growth_in_few_validations():
    few, files = COUNTS[:30], [11.0] * 12 + [12.0] * 18
    assert growth(few, files) > 1
    assert grown(few, dict.fromkeys(BOUNDS, files)) == []


def test_samples_in_which_nothing_was_done_have_no_growth():
    assert growth([0] * 399 + [1], [5.0] * 400) == 0


def test_growth_is_per_thousand_after_the_warm_up():
    values = [0.0 if count < 1000 else 500 + count / 500 for count in COUNTS]
    assert abs(growth(COUNTS, values) - 2.0) < 1e-9
