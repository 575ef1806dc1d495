"""Lengths of blocks and buffers as people write them, such as `2tiles`, `512px` or `1.5km`."""

import math
from dataclasses import dataclass

from cwsam_cli.config.sizes import split_unit
from cwsam_cli.errors import DataError, UsageError

_UNITS = {"px": ("px", 1.0), "m": ("m", 1.0), "km": ("m", 1000.0), "tile": ("tile", 1.0), "tiles": ("tile", 1.0)}


@dataclass(frozen=True, slots=True)
class Length:
    """A length in pixels, metres or tiles."""

    value: float
    unit: str
    """`px`, `m` or `tile`."""

    def pixels(self, size: int, gsd_m: float | None, option: str) -> int:
        """Return the length in pixels, rounded up.

        Args:
            size: pixels per side of a tile.
            gsd_m: metres per pixel; None if it is not known.
            option: the option that has this value, for the message.

        Raises:
            DataError: the length is in metres, and the size of a pixel is not known.
        """
        if self.unit == "m" and gsd_m is None:
            raise DataError(
                f"{option} is a length on the ground, but the scenes have no coordinate reference system",
                hint=f"give it in tiles or pixels: {option} 1tile",
            )
        unit = {"px": 1.0, "tile": float(size), "m": 1 / (gsd_m or 1.0)}[self.unit]
        return math.ceil(self.value * unit * (1 - 1e-9))


def parse_length(text: str, option: str, *, zero: bool = False) -> Length:
    """Read a length such as `2tiles`, `512px`, `500m` or `1.5km`.

    Args:
        text: a number with its unit.
        option: the option that has this value, for the message.
        zero: whether 0 is allowed; it needs no unit.

    Raises:
        UsageError: the text is not a length, or its unit is missing.
    """
    number, name = split_unit(text)
    if zero and number == 0:
        return Length(0.0, "px")
    if name not in _UNITS or number == 0:
        raise UsageError(
            f"{option} `{text}` is not a length", hint=f"give a number with its unit: {option} 2tiles, 512px or 1.5km"
        )
    unit, factor = _UNITS[name]
    return Length(number * factor, unit)
