"""Which tiles are kept, and why others are not."""

from collections import Counter
from typing import Any

import pytest

from cwsam_cli.errors import UsageError
from cwsam_cli.tile.selection import Selection, draw


@pytest.mark.parametrize(
    ("labelled", "valid", "reason"),
    [
        (0.0, 1.0, "without a label"),
        (0.2, 1.0, "below --min-labelled"),
        (0.3, 0.4, "below --min-valid"),
        (0.3, 0.5, None),
    ],
)
def test_a_tile_is_left_out_for_a_reason(labelled: float, valid: float, reason: str | None) -> None:
    assert Selection(min_valid=0.5, min_labelled=0.3).why_not(labelled, valid) == reason


@pytest.mark.parametrize("values", [{"min_valid": 1.5}, {"min_labelled": -0.1}, {"limit": 0}])
def test_what_is_no_share_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        Selection(**values)


@pytest.mark.parametrize("limit", [3, 10, 50, 99, 100, 200])
def test_a_limit_keeps_the_shares_of_the_splits(limit: int) -> None:
    splits = ["train"] * 70 + ["val"] * 20 + ["test"] * 10
    gone = draw(splits, limit, 0, keep)
    kept = Counter(split for number, split in enumerate(splits) if number not in gone)
    assert kept.total() == min(limit, 100)
    for split, count in Counter(splits).items():
        assert kept[split] == pytest.approx(count * min(limit, 100) / 100, abs=1.5) and kept[split] >= 1
    assert draw(splits, limit, 0, keep) == gone
    assert limit > 90 or draw(splits, limit, 1, keep) != gone


def keep(number: int) -> str | None:
    return None


@pytest.mark.parametrize("limit", [3, 10, 40])
def test_tiles_that_are_left_out_anyway_do_not_count(limit: int) -> None:
    splits = ["train"] * 70 + ["val"] * 20 + ["test"] * 10
    gone = draw(splits, limit, 0, lambda number: "without a label" if number % 2 else None)
    assert len(splits) - len(gone) == limit
    assert {number % 2 for number, reason in gone.items() if reason == "without a label"} == {1}
    assert set(splits) == {splits[number] for number in range(100) if number not in gone}
