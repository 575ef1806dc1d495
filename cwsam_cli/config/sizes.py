"""Areas and lengths as people write them, such as `1ha` or `15m`. This module loads no other package."""

import math
import re
from dataclasses import dataclass

from cwsam_cli.errors import UsageError

_AREAS = {"px": 1.0, "m2": 1.0, "ha": 1e4, "km2": 1e6}
_LENGTHS = {"px": 1.0, "m": 1.0, "km": 1e3}


@dataclass(frozen=True, slots=True)
class Size:
    """An area in m² or a length in m, or either in pixels."""

    value: float
    in_pixels: bool


def area(text: str, option: str) -> Size:
    """Read an area.

    Args:
        text: a number with a unit, `1ha`, `900m2` or `10px`.
        option: the option that has this value, for the message.

    Raises:
        UsageError: the text is not an area, or its unit is missing.
    """
    return _size(text, _AREAS, option)


def length(text: str, option: str) -> Size:
    """Read a length.

    Args:
        text: a number with a unit, `15m` or `2px`.
        option: the option that has this value, for the message.

    Raises:
        UsageError: the text is not a length, or its unit is missing.
    """
    return _size(text, _LENGTHS, option)


def length_m(text: str, option: str) -> float:
    """Read a length on the ground in metres.

    Args:
        text: a number with a unit, `15m` or `2km`.
        option: the option that has this value, for the message.

    Raises:
        UsageError: the text is not a length, or its unit is missing.
    """
    return _size(text, {"m": 1.0, "km": 1e3}, option).value


def _size(text: str, units: dict[str, float], option: str) -> Size:
    number, unit = split_unit(text)
    if unit not in units or number <= 0:
        examples = ", ".join(f"10{unit}" for unit in units)
        raise UsageError(f"{option} `{text}` is not a size", hint=f"give a number with its unit: {examples}")
    return Size(number * units[unit], unit == "px")


def split_unit(text: str) -> tuple[float, str]:
    """Split a text such as `15m` into a number and its unit, in lower case. Other texts give NaN and no unit."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*2?)\s*", text.lower().replace("²", "2"))
    return (float(match[1]), match[2]) if match is not None else (math.nan, "")


def area_text(area_m2: float) -> str:
    """Return an area for people: whole hectares, or three digits if it is small."""
    value, unit = (area_m2 / 1e4, "ha") if area_m2 >= 1e3 else (area_m2, "m²")
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(0, digits)}f} {unit}"
