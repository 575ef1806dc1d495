"""A map → polygons of its classes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from cwsam_cli.console import log
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.files import refuse_existing, refuse_input, reserved, staged
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.vector.layers import (
    beside_layer,
    copy_geopackage,
    refuse_other_layer,
    vector_driver,
    within_shapefile,
    write_layer_style,
    write_stream,
)
from cwsam_cli.vectorize.codes import Strip
from cwsam_cli.vectorize.coverage import Coverage, counted
from cwsam_cli.vectorize.features import CONFIDENCE, Columns, dissolve, wkb, wkb_of
from cwsam_cli.vectorize.legend import Legend
from cwsam_cli.vectorize.measure import measure_regions, pixel_areas, to_ground, with_areas
from cwsam_cli.vectorize.polygonize import Regions, Simplify, polygonize
from cwsam_cli.vectorize.reproject import Reprojection, crs_of, densify, densify_edges, split_at_antimeridian
from cwsam_cli.vectorize.sieve import holes, new_codes, recode, without_holes
from cwsam_cli.vectorize.strips import ClassRaster, on_grid, open_classes
from cwsam_cli.vectorize.units import AREAS, LENGTHS, area_text, metres_a_step, quantity, sieve_weights

_GEOJSON = ("GeoJSON", "GeoJSONSeq")
_GEODESIC, _PROJECTED = "geodesic, on the map's ellipsoid", "projected, in the map's CRS"
_ROUNDING = 1e-9
"""Relative difference of areas that sums of many doubles may have."""


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """What is made of a map's regions."""

    min_area: str | None = None
    """Smallest mapping unit, `1ha`, `900m2` or `10px`: smaller regions join a neighbour."""
    fill_nodata_holes: bool = False
    """Nodata that does not reach the map's edge joins a neighbour, as a small region does."""
    simplify: str | None = None
    """How far a border may move, `15m` or `2px`."""
    smooth: bool = False
    """Round bends, after simplifying."""
    only: Sequence[str] = ()
    """Names of the classes that are written; all if empty."""
    dissolve: bool = False
    """One multipolygon a class."""
    dst_crs: str | None = None
    """Another CRS than the map's."""
    statistics: Mapping[str, Path] = field(default_factory=dict)
    """Other rasters, by name, whose mean, minimum and maximum become attributes."""
    check: bool = False
    """Prove that the polygons are a coverage."""

    @property
    def measures_rows(self) -> bool:
        """Whether a row's pixels must be of one size on the ground."""
        return bool(self.min_area or self.fill_nodata_holes or self.simplify or self.smooth or self.check)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the proof found."""

    edges: int
    unmatched_edges: int
    invalid_polygons: int
    largest_area_error: float
    """Relative, of any class against the raster; other than 0 only where borders were simplified."""


@dataclass(frozen=True, slots=True)
class VectorResult:
    """What was written."""

    path: Path
    polygons: int
    areas: str
    """Of what kind they are."""
    lengths: str
    """Of what kind perimeters are."""
    area_m2: dict[str, float] = field(default_factory=dict)
    """By class name."""
    check: CheckResult | None = None


def vectorize(
    map_path: Path,
    output: Path,
    options: VectorOptions | None = None,
    *,
    band: int | None = None,
    classes: str | None = None,
    format_name: str | None = None,
    layer: str | None = None,
    append: bool = False,
    allow_overlap: bool = False,
    overwrite: bool = False,
) -> VectorResult:
    """Turn a class raster into polygons along its pixel edges.

    Args:
        map_path: a raster of whole numbers.
        output: its suffix tells the format.
        options: what is made of the regions.
        band: the map's, where there are several.
        classes: class table instead of the map's own.
        format_name: the format, where the suffix is another.
        layer: its name; the output's stem if None.
        append: to a layer of an older GeoPackage, or beside its layers.
        allow_overlap: append also where the layer has polygons already.
        overwrite: replace an older file.

    Raises:
        DataError: the raster is no class raster, the polygons are no coverage, or they lie where the layer
            to append to has polygons already.
        MissingCRS: it has no CRS, so areas would have no unit.
        MachineError: another process is writing the output.
    """
    options = options or VectorOptions()
    driver = vector_driver(output, format_name)
    refuse_input(output, map_path, *options.statistics.values())
    if append and (driver != "GPKG" or overwrite):
        raise UsageError("--append is for a GeoPackage, without --overwrite", hint="write a .gpkg")
    if allow_overlap and not append:
        raise UsageError("--allow-overlap is for --append", hint="add --append, or leave it out")
    refuse_existing(output, overwrite=overwrite or append)
    layer = layer or output.stem
    with (
        open_classes(map_path, band) as source,
        on_grid(list(options.statistics.values()), source) as values,
    ):
        if source.grid.crs is None:
            others = [(value.src_dataset.name, Grid.of(value.src_dataset)) for value in values]
            raise missing_crs(map_path, source.grid, "so areas would have no unit", others)
        if options.measures_rows and source.grid.is_geographic and source.grid.transform.d:
            raise DataError(
                f"`{map_path}` is rotated in degrees, so pixels of one row differ on the ground",
                hint=f"turn it north first: gdalwarp -t_srs EPSG:4326 {map_path} north.tif",
            )
        legend = _legend(source, classes)
        columns = Columns.of(list(options.statistics), shapefile=driver == "ESRI Shapefile")
        job = _Job(source, options, legend, columns, driver)
        batches = job.batches(values)
        geometry_type = "MultiPolygon" if options.dissolve or job.is_multi else "Polygon"
        if driver == "ESRI Shapefile":
            batches = within_shapefile(batches, output.name)
        with reserved(output), staged(output, overwrite=overwrite or append) as path:
            if append and output.exists():
                refuse_other_layer(output, layer, job.crs, columns.schema, geometry_type)
                copy_geopackage(output, path)
                if not allow_overlap:
                    batches = beside_layer(batches, output, layer)
            write_stream(
                batches,
                columns.schema,
                path,
                driver=driver,
                crs=job.crs,
                layer=layer,
                geometry_type=geometry_type,
                metadata=job.metadata(),
                append=path.exists(),
            )
            if driver == "GPKG":
                colors = {code: (legend.name(code), legend.color(code)) for code in job.areas}
                write_layer_style(path, layer, colors, "code")
            checked = job.verdict()
    for name, code in zip(options.only, job.codes, strict=True):
        if code not in job.areas:
            log.warning("`%s` has no polygon of class `%s`", map_path, name)
    areas = {legend.name(code): area for code, area in sorted(job.areas.items())}
    return VectorResult(output, job.polygons, job.kind_of_areas, job.kind_of_lengths, areas, checked)


def _legend(source: ClassRaster, classes: str | None) -> Legend:
    if classes is None:
        return Legend.read(source.dataset, source.band)
    from cwsam_cli.config.load import load_taxonomy  # pydantic is slow to import

    return Legend.of(load_taxonomy(classes))


class _Job:
    """One map on its way through strips, regions and batches."""

    def __init__(
        self, source: ClassRaster, options: VectorOptions, legend: Legend, columns: Columns, driver: str
    ) -> None:
        assert source.grid.crs is not None
        self.source, self.options, self.legend, self.columns, self.driver = source, options, legend, columns, driver
        self.crs = CRS.from_wkt(source.grid.crs.to_wkt())
        self.codes = [_code(legend, name) for name in options.only]
        self.polygons = 0
        self.areas: dict[int, float] = {}
        self.coverage = Coverage()
        self.min_area = quantity(options.min_area, AREAS, "--min-area") if options.min_area else None
        self.simplify = self._simplify()
        self.reprojection: Reprojection | None = None
        target = crs_of(options.dst_crs) if options.dst_crs else self.crs
        if driver in _GEOJSON:
            degrees = CRS.from_epsg(4326)
            if options.dst_crs and target != degrees:
                raise UsageError(
                    "GeoJSON is in longitude and latitude only (RFC 7946)", hint="leave out --dst-crs, or write a .gpkg"
                )
            target = degrees
        crosses = False
        if target != self.crs:
            self.reprojection = Reprojection(self.crs, target)
            self.crs = target
            lines = (to_ground(line, source.grid.transform) for line in source.grid.transects())
            crosses = any(map(self.reprojection.jumps, lines))
        self.is_multi = crosses and driver not in _GEOJSON
        """Whether every polygon is written as a multipolygon, since some are split."""

    def _simplify(self) -> Simplify | None:
        options, grid = self.options, self.source.grid
        if not options.simplify and not options.smooth:
            return None
        size, in_pixels = quantity(options.simplify, LENGTHS, "--simplify") if options.simplify else (0.0, False)
        return Simplify(size * (grid.gsd_m or 1.0) if in_pixels else size, metres_a_step(grid), options.smooth)

    @property
    def kind_of_areas(self) -> str:
        """What areas are."""
        return _PROJECTED if self.source.grid.keeps_areas else _GEODESIC

    @property
    def kind_of_lengths(self) -> str:
        """What perimeters and the tolerance of simplifying are."""
        return _PROJECTED if self.source.grid.keeps_lengths else _GEODESIC

    def metadata(self) -> dict[str, str]:
        """What is said of the layer."""
        return {
            "source": self.source.path.name,
            "areas": self.kind_of_areas,
            "lengths": self.kind_of_lengths,
            "smallest mapping unit": self.options.min_area or "none",
            "holes filled": "yes" if self.options.fill_nodata_holes else "no",
            "simplified": self.options.simplify or "no",
            "smoothed": "yes" if self.options.smooth else "no",
        }

    def batches(self, values: tuple[rasterio.vrt.WarpedVRT, ...]) -> Iterator[pa.RecordBatch]:
        """The layer's rows, as regions close."""
        grid, dissolved = self.source.grid, []
        pixels_differ = not grid.keeps_areas and not grid.is_geographic
        found = polygonize(
            self._strips(values, pixels_differ),
            grid.width,
            grid.height,
            statistics=len(values) + pixels_differ,
            simplify=self.simplify,
            outline=self.options.check,
        )
        for regions in found:
            pixels_m2 = regions.sums[:, -1, 1] if pixels_differ else None
            areas, perimeters = measure_regions(regions, grid, pixels_m2)
            placed = self._placed(regions, areas)
            if self.codes:
                chosen = np.flatnonzero(np.isin(placed.codes, self.codes))
                placed, areas, perimeters = placed.take(chosen), areas[chosen], perimeters[chosen]
            for code in np.unique(placed.codes).tolist():
                self.areas[code] = self.areas.get(code, 0.0) + float(areas[placed.codes == code].sum())
            if self.options.dissolve:
                dissolved.append((placed, areas, perimeters))
            elif len(placed):
                self.polygons += len(placed)
                yield self.columns.batch(placed, areas, perimeters, self.legend, self._geometry(placed))
        if dissolved:
            whole, areas, perimeters, geometry = dissolve(dissolved)
            self.polygons = len(whole)
            yield self.columns.batch(whole, areas, perimeters, self.legend, wkb_of(self._on_globe(geometry)))

    def _strips(self, values: tuple[rasterio.vrt.WarpedVRT, ...], pixels_differ: bool) -> Iterator[Strip]:
        """The map as it becomes polygons: holes filled, small regions joined."""
        width = self.source.grid.width

        def read(what: str) -> Iterator[Strip]:
            return self.source.strips(what, values if what == "polygons" else ())

        def filled(what: str) -> Iterator[Strip]:
            return read(what) if filling is None else without_holes(recode(holes(read(what)), width, filling))

        filling = None
        if self.options.fill_nodata_holes:
            weights, _ = sieve_weights(self.source.grid, 1, in_pixels=True)
            filling = new_codes(holes(read("holes")), width, weights, 1)
        strips = filled("polygons")
        if self.min_area is not None:
            weights, minimum = sieve_weights(self.source.grid, *self.min_area)
            strips = recode(strips, width, new_codes(filled("small regions"), width, weights, minimum))
        if self.options.check:
            strips = counted(strips, partial(pixel_areas, self.source.grid), self.coverage.mapped)
        return with_areas(strips, self.source.grid) if pixels_differ else strips

    def _placed(self, regions: Regions, areas: NDArray[np.float64]) -> Regions:
        """The regions with coordinates of the output's CRS; the check looks at these."""
        edges = regions.outline
        if self.reprojection is not None:
            regions, edges = densify(regions), densify_edges(edges)
        placed = replace(regions, xy=self._to_output(regions.xy))
        if self.options.check:
            self.coverage.add_rings(placed.xy, placed.ring_offsets)
            edges = self._to_output(edges.reshape(-1, 2)).reshape(-1, 2, 2)
            self.coverage.add_edges(edges[:, 0], edges[:, 1])
            self.coverage.add_polygons(self._on_globe(placed.polygons()))
            self.coverage.add_areas(placed.codes, areas)
        return placed

    def _to_output(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        ground = to_ground(xy, self.source.grid.transform)
        return ground if self.reprojection is None else self.reprojection(ground)

    def _geometry(self, regions: Regions) -> pa.Array:
        x = regions.xy[:, 0]
        if self.is_multi:
            parts, polygons = shapely.get_parts(self._on_globe(regions.polygons()), return_index=True)
            return wkb_of(np.asarray(shapely.multipolygons(parts, indices=polygons)))
        if self.driver in _GEOJSON and (np.abs(np.diff(x) if self.reprojection else x) > 180).any():
            return wkb_of(self._on_globe(regions.polygons()))
        return wkb(regions.xy, regions)

    def _on_globe(self, geometry: NDArray[np.object_]) -> NDArray[np.object_]:
        if self.driver not in _GEOJSON and not self.is_multi:
            return geometry
        return split_at_antimeridian(geometry, wrapped=self.reprojection is not None)

    def verdict(self) -> CheckResult | None:
        """What the check found.

        Raises:
            DataError: the polygons are no coverage of the map.
        """
        if not self.options.check:
            return None
        found = self.coverage
        result = CheckResult(found.edges, found.unmatched, found.invalid, found.area_error)
        exact = self.simplify is None
        if found.unmatched or found.invalid or (exact and found.area_error > _ROUNDING):
            raise DataError(
                f"the polygons of `{self.source.path}` are no coverage: {found.unmatched} edges without their"
                f" opposite, {found.invalid} invalid polygons, class areas off by {100 * found.area_error:.2g} %",
                hint="nothing was written; please report this with the map",
            )
        return result


def _code(legend: Legend, name: str) -> int:
    for code, known in legend.names.items():
        if known == name:
            return code
    if number := re.fullmatch(r"(?:class )?(-?\d+)", name):
        return int(number[1])
    raise UsageError(
        f"--class `{name}` is no class of the map", hint=f"it knows: {', '.join(legend.names.values()) or 'codes only'}"
    )


def statistics(confidence: Path | None, named: Sequence[str]) -> dict[str, Path]:
    """`--confidence` and `--stats NAME=RASTER` as rasters by name.

    Raises:
        UsageError: a name or raster is missing, or a name is given twice.
    """
    rasters = {CONFIDENCE: confidence} if confidence else {}
    for text in named:
        name, _, path = text.partition("=")
        if not name.isidentifier() or not path or name.casefold() in map(str.casefold, rasters):
            raise UsageError(
                f"--stats `{text}` is not of the form NAME=RASTER, with a name of its own",
                hint="for example: --stats height=dem.tif",
            )
        rasters[name] = Path(path)
    return rasters


def summary(result: VectorResult) -> str:
    """The result in a line, and the check's figures in another."""
    area = area_text(sum(result.area_m2.values()))
    lengths = "too" if result.lengths == result.areas else result.lengths
    text = f"{result.path}: {result.polygons:,} polygons, {area} ({result.areas}; lengths {lengths})"
    if result.check:
        found = result.check
        text += (
            f"\nchecked: {found.edges:,} edges, {found.unmatched_edges} without their opposite;"
            f" {found.invalid_polygons} invalid polygons; class areas off by {100 * found.largest_area_error:.2g} %"
            " at most"
        )
    return text
