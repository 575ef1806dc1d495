"""Read lengths of time and intervals from text such as `11h30min` or `500 steps`."""

import re
from typing import NamedTuple

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*")
_STEPS = re.compile(r"(\d+)\s*steps?")


class Interval(NamedTuple):
    """The time between two events, in seconds or in steps; the other one is None."""

    seconds: float | None
    steps: int | None


def parse_duration(text: str) -> float:
    """Read a length of time such as `90s`, `30min` or `1d12h`.

    Returns:
        Seconds, above 0.

    Raises:
        ValueError: the text is not a length of time.
    """
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise ValueError(f"`{text}` is not a length of time: write it as 90s, 30min, 11h30min or 2d")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not total:
        raise ValueError(f"`{text}` must be above 0")
    return total


def parse_interval(text: str) -> Interval:
    """Read a length of time, or a number of steps such as `500 steps`.

    Raises:
        ValueError: the text is neither.
    """
    match = _STEPS.fullmatch(text.strip())
    if match is None:
        try:
            return Interval(parse_duration(text), None)
        except ValueError:
            raise ValueError(f"`{text}` is not an interval: write it as 30min or `500 steps`") from None
    if not int(match[1]):
        raise ValueError(f"`{text}` must be above 0")
    return Interval(None, int(match[1]))
