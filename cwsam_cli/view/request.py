"""What the user asks `cwsam view` for, and what the page shows. This module loads no other package."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing

LAYERS_JSON = "layers.json"
"""File of a folder of `--export` that names its layers; only such folders are replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequest:
    """The files to show, and the folder to write if there is one."""

    paths: tuple[str, ...]
    """Rasters and vector files, the lowest layer first."""
    compare: bool = False
    """Begin with a comparison of the first two class maps, with one legend."""
    export: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        twice = next((path for path in self.paths if self.paths.count(path) > 1), None)
        if twice:
            raise UsageError(f"`{twice}` is given twice", hint="name each file once")
        if self.export is not None:
            refuse_existing(self.export, overwrite=self.overwrite, marker=LAYERS_JSON)


@dataclass(frozen=True, slots=True)
class ClassEntry:
    """A class of the legend."""

    value: int
    """Value in the raster that the page reads, 0-254."""
    code: int
    """Code in the user's file, of any size."""
    name: str
    color: str
    """`#rrggbb`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of the page."""

    kind: Literal["image", "classes", "values", "polygons"]
    name: str
    """Name of the user's file."""
    file: Path
    """What the page reads: the user's file itself, or a file that was made of it."""
    extent: tuple[float, float, float, float] | None
    """West, south, east and north in the CRS of the page; None if there are no features."""
    finest: float | None = None
    """Side of a pixel in units of the CRS; None for polygons."""
    classes: tuple[ClassEntry, ...] = ()
    note: str = ""
    """A line for the list of layers."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the page needs to draw a layer of this kind; plain values."""
    visible: bool = True

    def as_dict(self, url: str, table: int | None) -> dict[str, Any]:
        """Return plain values for the page.

        Args:
            url: where the page finds the file.
            table: number of the class table, None if there is none.
        """
        told = {"kind": self.kind, "name": self.name, "note": self.note, "visible": self.visible}
        return told | {"url": url, "table": table} | self.facts
