"""Accuracy by parts counts each pixel once, and draws whole blocks for the intervals."""

import numpy as np

from cwsam_cli.assess.breakdown import as_length, measure_parts, measure_ranges


def test_each_part_has_its_own_accuracy_and_blocks() -> None:
    counts = np.array([[[100, 90], [0, 0]], [[100, 70], [50, 10]], [[0, 0], [50, 20]]])
    one, two = measure_parts(counts, ["one", "two"])
    assert (one.part, one.blocks, one.pixels, one.accuracy) == ("one", 2, 200, 0.8)
    assert (two.blocks, two.pixels, two.accuracy) == (2, 100, 0.3)
    assert one.interval is not None and 0.7 <= one.interval[0] < 0.8 < one.interval[1] <= 0.9


def test_a_part_of_one_block_has_no_interval() -> None:
    counts = np.array([[[100, 90], [10, 5]], [[100, 70], [0, 0]]])
    assert [part.interval is None for part in measure_parts(counts, ["wide", "narrow"])] == [False, True]
    assert measure_parts(np.zeros((3, 0, 2), np.int64), []) == ()


def test_ranges_hold_about_as_many_pixels_and_rise() -> None:
    rng = np.random.default_rng(0)
    metres = rng.uniform(100, 5000, 50)
    tiles = np.stack([np.full(50, 1000), (1000 - metres / 10).astype(int)], axis=1)
    parts = measure_ranges(metres, tiles, [str(number // 5) for number in range(50)], as_length)
    assert [part.pixels for part in parts] == [10_000] * 5
    accuracies = [part.accuracy or 0 for part in parts]
    assert accuracies == sorted(accuracies, reverse=True)
    assert parts[0].part.startswith(f"{as_length(metres.min())} to") and parts[-1].part.endswith(
        as_length(metres.max())
    )


def test_lengths_of_any_size_are_short() -> None:
    lengths = [as_length(metres) for metres in (0.0, 899.6, 999.6, 1234.0, 98_760.0, 1_234_567.0)]
    assert lengths == ["0 m", "900 m", "1 km", "1.23 km", "98.8 km", "1,235 km"]


def test_tiles_of_equal_value_stay_together() -> None:
    metres = np.array([0.0] * 8 + [700.0, 2400.0])
    parts = measure_ranges(metres, np.full((10, 2), 10), ["a", "b"] * 5, as_length)
    assert [(part.part, part.pixels) for part in parts] == [("0 m", 80), ("700 m to 2.4 km", 20)]
    tiles = np.array([[10, 5]] * 10 + [[0, 0]])
    with_empty = measure_ranges(np.append(metres, 9000.0), tiles, ["a", "b"] * 5 + ["a"], as_length)
    assert [part.part for part in with_empty] == ["0 m", "700 m to 2.4 km"]
    assert measure_ranges(np.zeros(10), np.full((10, 2), 10), ["a", "b"] * 5, as_length) == ()
