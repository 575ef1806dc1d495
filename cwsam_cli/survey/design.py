"""The design of a sample: what a later assessment must know about how its points were drawn."""

import dataclasses
import json
import re
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.config.load import validate
from cwsam_cli.errors import ConfigError
from cwsam_cli.taxonomy import check_printable

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MapClass:
    """One class of the map."""

    code: int
    name: str
    color: str
    """Colour as `#rrggbb`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """A part of the map from which points are drawn at random, each pixel or block with the same chance."""

    number: int
    """Value of the field `stratum`, from 1 on."""
    name: str
    code: int | None
    """The map class whose pixels make up the stratum; None if strata are not classes."""
    pixels: int
    area_m2: float | None
    """Area on the ground; None where the map has no CRS."""
    points: int
    """Points, or blocks, that were drawn."""
    blocks: int | None = None
    """Number of blocks; None if the units are pixels."""

    @property
    def units(self) -> int:
        """Return the number of units: blocks or pixels."""
        return self.pixels if self.blocks is None else self.blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How a sample was drawn."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    map: str
    """Name of the map's file."""
    map_sha256: str
    """Hash of the map's codes and grid."""
    classes: tuple[MapClass, ...]
    strata_from: str
    """Name of the file with the strata; empty if strata are the map's classes."""
    strata: tuple[Stratum, ...]
    allocation: str
    seed: int
    rounds: int = 1
    """Number of draws: each `--more` adds one."""
    command: str = ""
    block_pixels: int = 1
    """Side of the units in pixels; 1 for pixels. Blocks are counted from the map's first row and column."""
    outside_pixels: int = 0
    """Pixels of the map that lie in no stratum, so no point can fall on them."""
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"its version is {self.version}, not {VERSION}")
        if self.block_pixels < 1:
            raise ValueError(f"block_pixels is {self.block_pixels}")
        for entry in self.classes:
            check_printable(entry.code, entry.name)
            if not re.fullmatch("#[0-9a-fA-F]{6}", entry.color):
                raise ValueError(f"color `{entry.color}` of `{entry.name}` is not of the form #rrggbb")
        for stratum in self.strata:
            for name in ("pixels", "points", "blocks", "area_m2"):
                if not 0 <= (getattr(stratum, name) or 0) < inf:
                    raise ValueError(f"{name} of stratum {stratum.number} is {getattr(stratum, name)}")

    @property
    def units(self) -> NDArray[np.int64]:
        """Units of each stratum, (H,): pixels or blocks."""
        return np.array([stratum.units for stratum in self.strata], np.int64)

    @property
    def has_class_strata(self) -> bool:
        """Return whether strata are the map's classes, so that a stratum tells the map's class."""
        return any(stratum.code is not None for stratum in self.strata)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels of each stratum, (H,)."""
        return np.array([stratum.pixels for stratum in self.strata], np.int64)

    @property
    def points(self) -> NDArray[np.int64]:
        """Points of each stratum, (H,)."""
        return np.array([stratum.points for stratum in self.strata], np.int64)

    @property
    def areas_m2(self) -> NDArray[np.float64] | None:
        """Area of each stratum, (H,); None where the map has no CRS."""
        areas = [stratum.area_m2 for stratum in self.strata]
        return None if None in areas else np.array(areas, np.float64)

    def as_json(self) -> str:
        """Return the design as JSON text."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Design":
        """Read a design.

        Raises:
            ValueError: the text is not a design of this version.
        """
        try:
            return validate(cls, json.loads(text), "the design")
        except (ConfigError, RecursionError) as error:
            raise ValueError(str(error)) from None


def describe_outside(outside: int, inside: int) -> str:
    """Say in sentences how much of a map lies in no stratum."""
    share = outside / (outside + inside)
    return (
        f"{outside:,} pixels of the map ({share:.1%}) lie in no stratum. "
        "No point falls on them, and accuracies and areas do not hold for them."
    )
