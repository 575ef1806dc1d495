"""Lengths of time and numbers of steps, as people write them."""

import pytest

from cwsam_cli.config.durations import Interval, parse_duration, parse_interval


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("15m", 900), ("1.5h", 5400), ("11h30min", 41_400), ("1d 12h", 129_600)],
)
def test_a_length_of_time_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "soon", "-5min", "5 parsecs", "0s", "h", "1h and a bit"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be above 0" if text == "0s" else "not a length of time"):
        parse_duration(text)


def test_how_often_is_a_time_or_a_number_of_steps() -> None:
    assert parse_interval("30min") == Interval(1800, None)
    assert parse_interval("500 steps") == Interval(None, 500)
    assert parse_interval("1 step") == Interval(None, 1)
    for text in ("500", "steps", "-1 steps", "0 steps"):
        with pytest.raises(ValueError, match=r"not an interval|above 0"):
            parse_interval(text)
