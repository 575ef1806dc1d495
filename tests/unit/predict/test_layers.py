"""What stands beside the class is what the scores say."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cwsam_cli.predict.layers import MapLayers, best_index, entropy
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

TAXONOMY = Taxonomy(
    classes=tuple(
        LandCoverClass(code=code, name=f"c{code}", color="#000000")
        for code in (7, 0, 200, 3)  # neither sorted nor dense
    )
)


def scores(*pixels: list[float]) -> Tensor:
    """Planes (K, 1, n) of some pixels' scores."""
    return torch.tensor(pixels, dtype=torch.float32).T[:, None]


def test_the_best_index_is_argmaxs_also_among_equals() -> None:
    rng = np.random.default_rng(0)
    for classes in (1, 2, 33, 200):
        planes = rng.integers(-2, 3, (classes, 9, 11)).astype(np.float32)
        np.testing.assert_array_equal(best_index(torch.from_numpy(planes)), planes.argmax(axis=0))


def test_a_class_that_is_hidden_is_never_the_best() -> None:
    planes = scores([-np.inf, -5, -7, -9])
    assert best_index(planes)[0, 0] == 1
    probabilities = planes.softmax(dim=0)
    assert probabilities[0, 0, 0] == 0
    assert entropy(probabilities).isfinite().all()


def test_codes_alone_need_no_probabilities() -> None:
    layers = MapLayers(TAXONOMY).finisher("cpu")(scores([1, 2, 3, 4], [4, 3, 2, 1], [0, 0, 9, 0]))
    assert layers.shape == (1, 1, 3)
    assert layers[0, 0].tolist() == [3, 7, 200]


def test_layers_come_in_the_order_asked_for_in_per_cent() -> None:
    plan = MapLayers(TAXONOMY, ("confidence", "probabilities", "entropy"))
    logits = scores([np.log(0.7), np.log(0.1), np.log(0.1), np.log(0.1)], [0, 0, 0, 0], [90, 0, 0, 0])
    layers = plan.finisher("cpu")(logits)
    assert plan.count == len(layers) == 1 + 1 + 4 + 1
    assert layers[0, 0].tolist() == [7, 7, 7]
    assert layers[1, 0].tolist() == [70, 25, 100]
    assert layers[2:6, 0].T.tolist() == [[70, 10, 10, 10], [25, 25, 25, 25], [100, 0, 0, 0]]
    expected = -(0.7 * np.log(0.7) + 0.3 * np.log(0.1)) / np.log(4)
    assert layers[6, 0].tolist() == [round(100 * expected), 100, 0]


@pytest.mark.parametrize(("limit", "code"), [(0, 0), (59, 0), (61, 255)])
def test_below_the_least_confidence_the_map_shows_nodata(limit: float, code: int) -> None:
    layers = MapLayers(TAXONOMY, ("confidence",), limit)
    logits = scores([np.log(0.1), np.log(0.6), np.log(0.2), np.log(0.1)])
    assert layers.finisher("cpu")(logits)[:, 0, 0].tolist() == [code, 60]


def test_a_temperature_changes_how_sure_the_map_is_and_no_class() -> None:
    logits = scores([np.log(0.7), np.log(0.1), np.log(0.1), np.log(0.1)], [0, 2, 0, 0])
    plain = MapLayers(TAXONOMY, ("confidence",)).finisher("cpu")(logits.clone())
    calm = MapLayers(TAXONOMY, ("confidence",), temperature=2.0).finisher("cpu")(logits.clone())
    assert plain[0].tolist() == calm[0].tolist()
    assert calm[1, 0, 0] == round(100 * 0.7**0.5 / (0.7**0.5 + 3 * 0.1**0.5)) < plain[1, 0, 0]


def test_a_set_holds_the_classes_above_their_thresholds_and_always_the_likeliest() -> None:
    shares = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.35, 0.2, 0.05], [0.97, 0.01, 0.01, 0.01]])
    logits = scores(*np.log(shares).tolist())
    plan = MapLayers(TAXONOMY, ("set_size",), thresholds=(0.5, 0.3, 0.0, 2.0))
    assert plan.count == 2
    assert plan.finisher("cpu")(logits)[1, 0].tolist() == [2, 3, 2]
