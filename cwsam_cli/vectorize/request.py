"""The wish behind one `cwsam vectorize`, validated before rasterio is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cwsam_cli.config import sizes
from cwsam_cli.config.sizes import Size
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input
from cwsam_cli.raster.sources.network import path_or_name
from cwsam_cli.raster.sources.scenes import from_any_folder
from cwsam_cli.vector.formats import Format, layer_name, vector_driver

CONFIDENCE = "conf"
"""The name of the statistic for `--confidence`. Its maximum is not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorizeRequest:
    """What a user asks of `cwsam vectorize`.

    Raises:
        UsageError: two values contradict each other, a size has no unit, or the output is an input.
        OutputExists: the output exists and may not be changed.
    """

    map_path: Path | str = field(repr=False)
    """A raster of whole numbers; text if it is no plain file. Dask logs the arguments of calls that fail, so `repr`
    leaves out URLs."""
    output: Path
    """The layer's file."""
    format: Format | None = None
    """The format, if the output's suffix is another one."""
    layer: str | None = None
    """The layer's name; see `layer_name`."""
    band: int | None = None
    """The map's band, counted from 1; None if there is only one."""
    classes: str | None = None
    """A class table's path or shipped name, instead of the map's own legend."""
    min_area: str | None = None
    """The smallest mapping unit, `1ha`, `900m2` or `10px`. Smaller regions join a neighbour."""
    fill_nodata_holes: bool = False
    """Nodata that does not reach the map's edge joins a neighbour."""
    simplify: str | None = None
    """The largest distance that a border may move, `15m` or `2px`."""
    smooth: bool = False
    """Round bends, after simplifying."""
    only: Sequence[str] = ()
    """Names or codes of the classes that are written; all if empty."""
    dissolve: bool = False
    """Write one multipolygon per class."""
    dst_crs: str | None = None
    """The layer's CRS, if it is not the map's."""
    statistics: Mapping[str, Path | str] = field(default_factory=dict, repr=False)
    """Other rasters by name. Their mean, minimum and maximum in each region become fields."""
    check: bool = False
    """Check that the polygons are a coverage."""
    append: bool = False
    """Add the polygons to a layer of an existing GeoPackage, or as a further layer."""
    allow_overlap: bool = False
    """Append also where the layer already has polygons."""
    stac: bool = False
    """Write a STAC item beside the layer."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        if self.append and (self.driver != "GPKG" or self.overwrite):
            raise UsageError("--append needs a GeoPackage and excludes --overwrite", hint="write a .gpkg")
        if self.allow_overlap and not self.append:
            raise UsageError("--allow-overlap needs --append", hint="add --append, or leave it out")
        if self.stac and (self.append or self.output.suffix.lower() == ".json"):
            raise UsageError(
                "--stac describes a file of one map, and its item ends in .json",
                hint="leave out --append, and give the output another suffix",
            )
        _ = self.layer_name, self.smallest_area, self.tolerance  # a wrong one raises
        inputs = (self.map_path, *self.statistics.values())
        refuse_input(self.output, *(path for path in inputs if isinstance(path, Path)))
        refuse_existing(self.output, overwrite=self.overwrite or self.append)
        if self.stac:
            item = self.output.with_suffix(".json")
            of_map = self.map_path.with_suffix(".json") if isinstance(self.map_path, Path) else None
            if of_map is not None and item.exists() and item.resolve() == of_map.resolve():
                raise UsageError(
                    f"`{item}` describes the map, and --stac would replace it by the item of the polygons",
                    hint="give the polygons another name or folder",
                )
            refuse_existing(item, overwrite=self.overwrite)

    @property
    def driver(self) -> str:
        """Return the name of GDAL's driver for the output."""
        return vector_driver(self.output, self.format)

    @property
    def layer_name(self) -> str:
        """Return the name of the layer, by default that of the output."""
        return layer_name(self.output, self.driver, self.layer)

    @property
    def smallest_area(self) -> Size | None:
        """Return `min_area` in m² or pixels."""
        return sizes.area(self.min_area, "--min-area") if self.min_area else None

    @property
    def tolerance(self) -> Size | None:
        """Return `simplify` in m or pixels."""
        return sizes.length(self.simplify, "--simplify") if self.simplify else None

    def for_workers(self) -> "VectorizeRequest":
        """Return the same request with paths that hold in other working folders."""
        classes = self.classes and Path(self.classes)
        return replace(
            self,
            map_path=path_or_name(from_any_folder(str(self.map_path))),
            output=self.output.absolute(),
            classes=str(classes.absolute()) if classes and classes.is_file() else self.classes,
            statistics={name: path_or_name(from_any_folder(str(path))) for name, path in self.statistics.items()},
        )


def statistics(confidence: str | None, named: Sequence[str]) -> dict[str, Path | str]:
    """Return the rasters of `--confidence` and `--stats NAME=RASTER` by name.

    Raises:
        UsageError: a name or a raster is missing, or two rasters have the same name.
    """
    rasters = {CONFIDENCE: path_or_name(confidence)} if confidence else {}
    for text in named:
        name, _, path = text.partition("=")
        if not name.isidentifier() or not path or name.casefold() in map(str.casefold, rasters):
            raise UsageError(
                f"--stats `{text}` is not NAME=RASTER with a new name", hint="for example: --stats height=dem.tif"
            )
        rasters[name] = path_or_name(path)
    return rasters
