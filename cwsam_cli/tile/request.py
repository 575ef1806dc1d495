"""The wish behind one `cwsam tile`, validated before rasterio is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Literal

from cwsam_cli.distributed.scheduler import LOCAL
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_input
from cwsam_cli.raster.sources.network import is_plain_file
from cwsam_cli.raster.sources.scenes import from_any_folder, refuse_repeated
from cwsam_cli.raster.sources.views import public_name
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.selection import Selection

TileFormat = Literal["gtiff", "windows"]
"""Image tiles are GeoTIFFs, or virtual rasters (VRT) that point into the scenes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRequest:
    """What a user asks of `cwsam tile`.

    Raises:
        UsageError: two values contradict each other, or the output is an input.
    """

    scenes: tuple[str, ...]
    """Images with the same bands and dtype: paths, URLs or GDAL's virtual paths."""
    labels: Path | None
    """A class raster, a vector file, a folder of class rasters, or a pattern with `{stem}` or `{name}` of the scene."""
    output: Path
    """The dataset's folder."""
    labels_for: tuple[tuple[str, Path], ...] = ()
    """Labels of single scenes, each after the scene's path, name or stem."""
    bands: tuple[str, ...] = ()
    """Names or numbers of the scenes' bands in the order of the tiles' bands; empty takes all."""
    size: int = 512
    """Pixels per side of a tile."""
    overlap: int = 0
    """Pixels that neighbouring training tiles share. Validation and test tiles share none."""
    corrections: Path | None = None
    """A vector file whose features override the labels. Its class field is `class_field`."""
    classes: str | None = None
    """A class table's path or shipped name; None takes the classes from the labels."""
    class_field: str | None = None
    """The field of a vector file that holds class codes or names."""
    where: str | None = None
    """A condition in OGR SQL that chooses features of a vector file."""
    priority: tuple[str, ...] = ()
    """Names or codes of classes, the highest first, that win where features of different classes overlap."""
    all_touched: bool = False
    """Whether polygons also label pixels that they touch, if no polygon contains the pixel's centre."""
    label_buffer_m: float = 0.0
    """Radius in metres by which points and lines become areas."""
    shares: tuple[float, float, float] = (70, 15, 15)
    """Shares of the ground for train, val and test. Their sum need not be 1."""
    seed: int = 0
    """The seed of the split."""
    block_size: Length | None = None
    """Side of a block of ground that goes to one split; None chooses it by the number of tiles."""
    buffer: Length | None = None
    """Distance between tiles of different splits; None is one tile, or less where the ground is small."""
    split_by: str = "block"
    """What goes to one split: `block`, `scene`, `date`, or the path of polygons that say the split."""
    split_field: str = "split"
    """The field of those polygons that holds train, val or test."""
    selection: Selection = field(default_factory=Selection)
    """What a tile must have."""
    focus: tuple[tuple[str, int], ...] = ()
    """Classes (name or code) with the number of additional training tiles that show them."""
    preview: Path | None = None
    """A PNG for a contact sheet."""
    folds: int | None = None
    """Number of folds for cross-validation; None makes a validation split instead."""
    overlaps_to: Path | None = None
    """A GeoPackage for the overlaps of label polygons, if they are refused because of them."""
    format: TileFormat = "gtiff"
    workers: int = 1
    """Processes that read and write."""
    scheduler: str = ""
    """Address or file of a Dask scheduler whose workers read and write; `local` starts workers on this machine."""
    append: bool = False
    """Add the scenes to the dataset that `output` holds."""
    overwrite: bool = False
    """Replace an older dataset, and an older layer of overlaps."""
    command: str = ""
    """The command line, for the record in `dataset.yaml`."""

    @property
    def label_files(self) -> Path:
        """The labels, for messages."""
        return self.labels or self.labels_for[0][1]

    def __post_init__(self) -> None:
        if self.append and self.overwrite:
            raise UsageError(
                "--append and --overwrite exclude each other, because one keeps the dataset and the other replaces it",
                hint="leave one of them out",
            )
        if self.labels is None and not self.labels_for:
            raise UsageError("no labels are given", hint="name a file or folder: --labels")
        if not 0 <= self.overlap < self.size:
            raise UsageError(
                f"an overlap of {self.overlap} pixels does not fit tiles of {self.size} pixels",
                hint="choose an overlap below the size",
            )
        if not all(0 <= share < inf for share in self.shares) or self.shares[0] == 0:
            raise UsageError(
                f"--split {tuple(self.shares)} cannot be shares of train, val and test",
                hint="for example: --split 70 15 15",
            )
        if self.folds is not None and self.overlap:
            raise UsageError(
                "--folds and --overlap exclude each other, because validation would count pixels twice",
                hint="leave one of them out",
            )
        if self.folds is not None and (self.folds < 2 or self.has_zones):
            raise UsageError(
                "polygons of splits have no folds" if self.has_zones else "--folds needs at least 2 folds",
                hint="--folds 5 --split-by block",
            )
        if self.buffer is not None and self.split_by == "date":
            raise UsageError(
                "--buffer and --split-by date exclude each other, because dates share ground",
                hint="leave one of them out",
            )
        if self.workers > 1 and self.scheduler not in ("", LOCAL):
            raise UsageError("--workers is for this machine, and --scheduler for others", hint="remove --workers")
        refuse_repeated(self.scenes)
        secret = next((scene for scene in self.scenes if public_name(scene) != scene), None)
        if self.format == "windows" and secret is not None:
            raise UsageError(
                f"--format windows would keep the query or login of `{secret}` in the tiles",
                hint="leave out --format, or give GDAL the credentials by its environment variables",
            )
        inputs = [Path(scene) for scene in self.scenes if is_plain_file(scene)]
        inputs += filter(None, (self.labels, self.corrections, *(path for _, path in self.labels_for)))
        refuse_input(self.output, *inputs)
        if self.focus and (self.folds is not None or self.selection.limit is not None):
            raise UsageError(
                "--focus adds training tiles, so it excludes --folds and --limit", hint="leave one of them out"
            )
        if self.preview is not None:
            refuse_input(self.preview, *inputs)
            if self.output.resolve() in self.preview.resolve().parents:
                raise UsageError(
                    f"--preview `{self.preview}` lies inside the dataset, whose folder holds its own files only",
                    hint=f"choose another place: --preview {self.preview.name}",
                )
            if self.preview.suffix.lower() != ".png":
                raise UsageError(f"--preview `{self.preview}` is not the name of a PNG", hint="give it the suffix .png")
        if self.overlaps_to is not None:
            refuse_input(self.overlaps_to, *inputs)
            if self.overlaps_to.suffix.lower() != ".gpkg":
                raise UsageError(
                    f"--overlaps-to `{self.overlaps_to}` is not the name of a GeoPackage",
                    hint="give it the suffix .gpkg",
                )

    def for_workers(self) -> "TileRequest":
        """Return the same request with paths of inputs and output that hold in other working folders."""
        return replace(
            self,
            scenes=tuple(map(from_any_folder, self.scenes)),
            labels=self.labels and self.labels.absolute(),
            labels_for=tuple(
                (from_any_folder(name) if name in self.scenes else name, path.absolute())
                for name, path in self.labels_for
            ),
            corrections=self.corrections and self.corrections.absolute(),
            output=self.output.absolute(),
        )

    @property
    def has_zones(self) -> bool:
        """Whether polygons say which ground goes to which split."""
        return self.split_by not in ("block", "scene", "date")


def parse_focus(pairs: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Read `--focus CLASS=N`.

    Raises:
        UsageError: a pair is of another form, or its number is not above 0.
    """
    found = []
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or int(number) == 0:
            raise UsageError(f"--focus `{pair}` is not of the form CLASS=N", hint="for example: --focus water=50")
        found.append((name, int(number)))
    return tuple(found)
