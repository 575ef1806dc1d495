"""Lengths have a unit, and are rounded up to pixels."""

import pytest

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.tile.lengths import parse_length


@pytest.mark.parametrize(
    ("text", "pixels"),
    [("1tile", 64), ("1.5 tiles", 96), ("100px", 100), ("300m", 30), ("0.31km", 31), ("301m", 31), ("1 M", 1)],
)
def test_a_length_in_pixels(text: str, pixels: int) -> None:
    assert parse_length(text, "--buffer").pixels(64, 10.0, "--buffer") == pixels


@pytest.mark.parametrize("text", ["64", "0", "0px", "-3m", "3 miles", "", "m"])
def test_a_number_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--block-size") as caught:
        parse_length(text, "--block-size")
    assert "px" in caught.value.hint


def test_no_buffer_needs_no_unit() -> None:
    assert parse_length("0", "--buffer", zero=True).pixels(64, None, "--buffer") == 0


def test_metres_need_a_crs() -> None:
    with pytest.raises(DataError, match="no coordinate reference system"):
        parse_length("500m", "--buffer").pixels(64, None, "--buffer")
