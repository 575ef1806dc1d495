"""Everything that is decided about a layer before the map's pixels are read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyproj import CRS

from cwsam_cli.config.sizes import Size
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.strips import ClassRaster, on_grid, open_classes
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.mapfile import MODEL_TAG
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.sources.scenes import file_name
from cwsam_cli.vectorize.measure import to_ground
from cwsam_cli.vectorize.reproject import Reprojection, crs_of
from cwsam_cli.vectorize.request import VectorizeRequest

GEOJSON = ("GeoJSON", "GeoJSONSeq")
_GEODESIC, _PROJECTED = "geodesic, on the map's ellipsoid", "projected, in the map's CRS"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorizePlan:
    """How a map becomes a layer. All values are plain, so `dataclasses.asdict` can be written as JSON."""

    map_path: Path | str
    band: int
    """Counted from 1."""
    crs: str
    """The map's CRS, as WKT."""
    transform: tuple[float, ...]
    """The map's transform: a, b, c, d, e, f."""
    width: int
    height: int
    legend: Legend
    selected: Mapping[str, int]
    """Codes to write, by the name that the user gave; all codes if empty."""
    fill_nodata_holes: bool
    min_area: Size | None
    """The smallest mapping unit, in m² or pixels."""
    tolerance_m: float | None
    """The largest distance that a border may move, in metres; None keeps every vertex."""
    smooth: bool
    dissolve: bool
    statistics: Mapping[str, Path | str]
    """Other rasters by name."""
    check: bool
    output: Path
    driver: str
    """The name of GDAL's driver."""
    layer: str
    layer_crs: str
    """The layer's CRS, as WKT."""
    is_split: bool
    """Polygons are cut at the antimeridian, and each is written as a multipolygon."""
    geometry_type: str
    areas: str
    """The kind of areas, geodesic or projected."""
    lengths: str
    """The kind of perimeters and of the tolerance."""
    metadata: Mapping[str, str]
    """What a GeoPackage or GeoParquet file says of the layer."""
    append: bool
    allow_overlap: bool
    overwrite: bool
    stac: bool

    @property
    def is_reprojected(self) -> bool:
        """Return whether the layer has another CRS than the map."""
        return self.layer_crs != self.crs


def make_plan(request: VectorizeRequest) -> VectorizePlan:
    """Look at the map and decide how it becomes a layer.

    Raises:
        DataError: the raster is not a class raster, or its pixels cannot be measured as needed.
        MissingCRS: the map or another raster has no CRS.
        UsageError: a class or a CRS is not known.
    """
    with open_classes(request.map_path, request.band) as source:
        grid = source.grid
        _refuse_unmeasurable(request, grid)
        with on_grid(list(request.statistics.values()), source):
            pass  # each raster can be opened on the map's grid
        legend = _legend(source, request.classes)
        target, is_split = _target(request, grid)
        tolerance = request.tolerance
        tolerance_m = tolerance.value * (grid.gsd_m or 1.0 if tolerance.in_pixels else 1.0) if tolerance else None
        kinds = [_PROJECTED if kept else _GEODESIC for kept in (grid.keeps_areas, grid.keeps_lengths)]
        assert grid.crs is not None
        return VectorizePlan(
            map_path=request.map_path,
            band=source.band,
            crs=grid.crs.to_wkt(),
            transform=tuple(grid.transform)[:6],
            width=grid.width,
            height=grid.height,
            legend=legend,
            selected={name: _code(legend, name) for name in request.only},
            fill_nodata_holes=request.fill_nodata_holes,
            min_area=request.smallest_area,
            tolerance_m=0.0 if tolerance_m is None and request.smooth else tolerance_m,
            smooth=request.smooth,
            dissolve=request.dissolve,
            statistics=dict(request.statistics),
            check=request.check,
            output=request.output,
            driver=request.driver,
            layer=request.layer_name,
            layer_crs=target,
            is_split=is_split,
            geometry_type="MultiPolygon" if request.dissolve or is_split else "Polygon",
            areas=kinds[0],
            lengths=kinds[1],
            metadata={
                "source": file_name(str(request.map_path)),
                "models (SHA-256)": source.dataset.tags().get(MODEL_TAG, "not known"),
                "areas": kinds[0],
                "lengths": kinds[1],
                "smallest mapping unit": request.min_area or "none",
                "holes filled": "yes" if request.fill_nodata_holes else "no",
                "simplified": request.simplify or "no",
                "smoothed": "yes" if request.smooth else "no",
            },
            append=request.append,
            allow_overlap=request.allow_overlap,
            overwrite=request.overwrite,
            stac=request.stac,
        )


def _refuse_unmeasurable(request: VectorizeRequest, grid: Grid) -> None:
    if grid.crs is None:
        others = []
        for path in request.statistics.values():
            with open_raster(path) as dataset:
                others.append((path, Grid.of(dataset)))
        raise missing_crs(request.map_path, grid, "so areas would have no unit", others)
    needs_rows_of_one_size = (
        request.min_area or request.fill_nodata_holes or request.simplify or request.smooth or request.check
    )
    if needs_rows_of_one_size and grid.is_geographic and grid.transform.d:
        raise DataError(
            f"`{request.map_path}` is rotated in degrees, so the pixels of a row differ in size on the ground",
            hint=f"turn it north first: gdalwarp -t_srs EPSG:4326 {request.map_path} north.tif",
        )


def _legend(source: ClassRaster, classes: str | None) -> Legend:
    if classes is None:
        return Legend.read(source.dataset, source.band)
    from cwsam_cli.config.load import load_taxonomy  # pydantic is slow to import

    return Legend.of(load_taxonomy(classes))


def _target(request: VectorizeRequest, grid: Grid) -> tuple[str, bool]:
    """Return the layer's CRS as WKT, and whether polygons must be split at the antimeridian there."""
    assert grid.crs is not None
    own = grid.crs.to_wkt()
    source = CRS.from_wkt(own)
    target = crs_of(request.dst_crs) if request.dst_crs else source
    if request.driver in GEOJSON:
        degrees = CRS.from_epsg(4326)
        if request.dst_crs and target != degrees:
            raise UsageError(
                "GeoJSON is in longitude and latitude only (RFC 7946)", hint="leave out --dst-crs, or write a .gpkg"
            )
        target = degrees
    if target == source:
        return own, False
    reprojection = Reprojection(source, target)
    crosses = any(reprojection.jumps(to_ground(line, grid.transform)) for line in grid.transects())
    return target.to_wkt(), crosses and request.driver not in GEOJSON


def _code(legend: Legend, name: str) -> int:
    for code, known in legend.names.items():
        if known == name:
            return code
    if number := re.fullmatch(r"(?:class )?(-?\d+)", name):
        return int(number[1])
    known = ", ".join(legend.names.values())
    raise UsageError(
        f"--class `{name}` is not a class of the map",
        hint=f"its classes are: {known}" if known else "the map has no class names: give a code",
    )
