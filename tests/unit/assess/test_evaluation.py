"""Figures follow from counts: blocks carry the intervals, scenes and tiles their own accuracy."""

import numpy as np
import pytest

from cwsam_cli.metrics.confusion import compute_metrics
from cwsam_cli.taxonomy import from_names
from tests.unit.assess.counted import evaluation, places

CLASSES = from_names(["water", "forest", "rock"])
RNG = np.random.default_rng(0)


def matrices(count: int) -> np.ndarray:
    found = RNG.integers(1, 30, (count, 3, 3)) + np.eye(3, dtype=np.int64) * RNG.integers(20, 90, (count, 1, 1))
    found[:, 2, :] = 0  # no rock in the reference
    return found


def test_figures_are_those_of_the_sum_whatever_the_blocks_are() -> None:
    own = matrices(6)
    result = evaluation(own, CLASSES)
    other = evaluation(own, CLASSES, places(*[("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("b", "3"), ("a", "3")]))
    assert result.metrics == other.metrics == compute_metrics(own.sum(axis=0))
    assert (result.blocks, other.blocks) == (6, 3)


def test_intervals_hold_the_figure_and_are_wider_from_fewer_blocks() -> None:
    own = matrices(40)
    many = evaluation(own, CLASSES)
    few = evaluation(own, CLASSES, places(*(("scene", str(number // 10)) for number in range(40))))
    for result in (many, few):
        low, high = result.intervals["accuracy"]
        assert low <= result.metrics.accuracy <= high
        low, high = result.class_intervals["iou"][0]
        assert low <= result.metrics.classes[0].iou <= high
    assert many.is_reliable and not few.is_reliable


def test_a_block_shared_by_two_scenes_is_one_block() -> None:
    result = evaluation(matrices(4), CLASSES, places(("a", "1"), ("b", "1"), ("a", "2"), ("b", "2")))
    assert result.blocks == 2
    assert [scene.tiles for scene in result.scenes] == [2, 2]


def test_blocks_without_labels_do_not_count() -> None:
    own = matrices(4)
    own[1] = 0
    result = evaluation(own, CLASSES)
    assert result.blocks == 3
    assert result.class_blocks == (3, 3, 0)
    assert result.tiles[-1].tile == "tile_1" and result.tiles[-1].accuracy is None


def test_one_block_has_figures_and_no_interval() -> None:
    result = evaluation(matrices(1), CLASSES)
    assert result.metrics.accuracy is not None
    assert result.intervals["accuracy"] is None
    assert set(result.class_intervals["iou"]) == {None}


def test_an_absent_class_has_no_interval() -> None:
    assert evaluation(matrices(12), CLASSES).class_intervals["iou"][2] is None


def test_scenes_have_their_own_accuracy() -> None:
    own = matrices(4)
    result = evaluation(
        own, CLASSES, places(("/data/a.tif", "1"), ("b.tif", "2"), ("/data/a.tif", "3"), ("b.tif", "4"))
    )
    assert [scene.scene for scene in result.scenes] == ["a.tif", "b.tif"]
    for scene, metrics in zip(result.scenes, map(compute_metrics, (own[0] + own[2], own[1] + own[3])), strict=True):
        assert (scene.pixels, scene.accuracy, scene.kappa) == (metrics.pixels, metrics.accuracy, metrics.kappa)


def test_the_least_accurate_tiles_come_first_and_hardly_labelled_ones_are_not_among_the_worst() -> None:
    own = np.zeros((4, 3, 3), np.int64)
    own[:, 0, 0] = [90, 50, 0, 80]
    own[:, 0, 1] = [10, 50, 2, 20]
    result = evaluation(own, CLASSES)
    assert [tile.tile for tile in result.tiles] == ["tile_2", "tile_1", "tile_3", "tile_0"]
    assert [tile.tile for tile in result.worst] == ["tile_1", "tile_3", "tile_0"]
    assert result.tiles[1].accuracy == pytest.approx(0.5)
