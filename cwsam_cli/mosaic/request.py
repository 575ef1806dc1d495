"""The wish behind one `cwsam mosaic`, validated before rasterio is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cwsam_cli.config import sizes
from cwsam_cli.config.sizes import Size
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input

Rule = Literal["first", "last", "date", "vote", "confidence"]
"""How a class is chosen where maps overlap."""

INDEX = "mosaic.vrt"
"""The file in a folder of tiles that shows all of them. Only folders with this file are replaced."""
_STEPS = {"deg": 1.0, "m": 1.0, "km": 1e3}


@dataclass(frozen=True, slots=True)
class Step:
    """A distance along the axes of a CRS."""

    value: float
    """Degrees or metres."""
    in_degrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsRequest:
    """Maps and the pixels on which they are compared.

    Raises:
        UsageError: the pixel size has no unit.
    """

    maps: tuple[str, ...]
    """Paths or URLs of the maps; the first one decides CRS, pixels and class codes."""
    crs: str | None = None
    """The CRS, such as `EPSG:3035`; the first map's if None."""
    res: str | None = None
    """The pixel size, `30m` or `0.0003deg`; the first map's if None."""
    cutline: Path | None = None
    """Polygons; pixels whose centre lies outside do not count."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        _ = self.pixel  # a wrong one raises

    @property
    def pixel(self) -> Step | None:
        """Return `res` in degrees or metres."""
        return _step(self.res, "--res", "30m, 0.0003deg") if self.res else None

    @property
    def inputs(self) -> list[Path]:
        """Return the files that an output must not replace."""
        return [*map(Path, self.maps), *([self.cutline] if self.cutline else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicRequest(MapsRequest):
    """What a user asks of `cwsam mosaic`.

    Raises:
        UsageError: a size has no unit, the output has another suffix or is an input.
        OutputExists: the output exists and may not be replaced.
    """

    output: Path
    """The mosaic, a GeoTIFF; a folder if it is cut into tiles."""
    by: Rule = "first"
    by_tile: str | None = None
    """Size of the tiles, `100km` or `1deg`; None writes one file."""
    min_area: str | None = None
    """The smallest mapping unit, `1ha`, `900m2` or `10px`."""
    command: str = ""
    """The command line, for the record in the mosaic."""

    def __post_init__(self) -> None:
        MapsRequest.__post_init__(self)
        if not self.by_tile and self.output.suffix.lower() not in (".tif", ".tiff"):
            raise UsageError(f"`{self.output}` is not the name of a GeoTIFF", hint="give it the suffix .tif")
        if self.by_tile and self.output.suffix:
            raise UsageError(f"--by-tile needs a folder, not `{self.output}`", hint="for example: -o tiles/")
        _ = self.tile, self.smallest_area  # a wrong one raises
        refuse_input(self.output, *self.inputs)
        refuse_existing(self.output, overwrite=self.overwrite, marker=self.marker)

    @property
    def marker(self) -> str:
        """Return the file that a folder must contain to be replaced."""
        return INDEX if self.by_tile else ""

    @property
    def tile(self) -> Step | None:
        """Return `by_tile` in degrees or metres."""
        return _step(self.by_tile, "--by-tile", "100km, 1deg") if self.by_tile else None

    @property
    def smallest_area(self) -> Size | None:
        """Return `min_area` in m² or pixels."""
        return sizes.area(self.min_area, "--min-area") if self.min_area else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest(MapsRequest):
    """What a user asks of `cwsam mosaic --change`.

    Raises:
        UsageError: there are not two maps, or the output has another suffix or is an input.
        OutputExists: the output exists and may not be replaced.
    """

    output: Path | None = None
    """A CSV file; None only prints."""

    def __post_init__(self) -> None:
        MapsRequest.__post_init__(self)
        if len(self.maps) != 2:
            raise UsageError(f"--change compares two maps, not {len(self.maps)}", hint="name the older one first")
        if self.output is not None:
            if self.output.suffix.lower() != ".csv":
                raise UsageError(f"`{self.output}` is not the name of a CSV file", hint="give it the suffix .csv")
            refuse_input(self.output, *self.inputs)
            refuse_existing(self.output, overwrite=self.overwrite)


def _step(text: str, option: str, examples: str) -> Step:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower())
    if match is None or match[2] not in _STEPS or float(match[1]) <= 0:
        raise UsageError(f"{option} `{text}` is not a size", hint=f"give a number with its unit: {examples}")
    return Step(float(match[1]) * _STEPS[match[2]], match[2] == "deg")
