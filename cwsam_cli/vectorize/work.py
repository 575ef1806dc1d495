"""Carry out a `VectorizePlan`: read the map strip by strip and write its layer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from cwsam_cli.config.sizes import Size
from cwsam_cli.console import log
from cwsam_cli.errors import DataError
from cwsam_cli.files import reserved, staged
from cwsam_cli.maps.codes import Strip
from cwsam_cli.maps.strips import ClassRaster, OtherRaster, on_grid, open_classes
from cwsam_cli.raster.sources.busy import refuse_busy_geopackage
from cwsam_cli.raster.sources.catalog import (
    ItemSource,
    addresses,
    class_entry,
    date_of,
    describe_file,
    item_path,
    make_item,
    read_own,
    write_json,
)
from cwsam_cli.raster.sources.fingerprint import Stamps
from cwsam_cli.raster.style import qml
from cwsam_cli.regions.sieve import choose_codes, drop_holes, recode, select_holes
from cwsam_cli.regions.units import sieve_weights, step_jacobians
from cwsam_cli.vector.formats import MEDIA_TYPES
from cwsam_cli.vector.layers import (
    check_overlap,
    check_size,
    copy_geopackage,
    may_write_style,
    refuse_other_layer,
    write_layer_style,
    write_stream,
)
from cwsam_cli.vectorize.coverage import Coverage, count_areas
from cwsam_cli.vectorize.features import Columns, dissolve, encode_geometries, encode_regions
from cwsam_cli.vectorize.measure import measure_regions, to_ground, with_areas
from cwsam_cli.vectorize.plan import GEOJSON, VectorizePlan
from cwsam_cli.vectorize.polygonize import Regions, Simplify, polygonize
from cwsam_cli.vectorize.reproject import Reprojection, densify, densify_edges, split_at_antimeridian
from cwsam_cli.vectorize.result import CheckResult, ClassArea, VectorizeResult

_ROUNDING = 1e-9
"""Largest relative difference between sums of many doubles in another order."""


def write_polygons(plan: VectorizePlan) -> VectorizeResult:
    """Read the map and write its layer.

    Raises:
        DataError: the polygons are not a coverage, do not fit the format, or overlap those of the layer, or an input
            or the GeoPackage was changed meanwhile.
        MachineError: the layer could not be written whole, or another process is writing it.
    """
    crs = CRS.from_wkt(plan.layer_crs)
    stamps = [Stamps.of((plan.map_path, *plan.statistics.values()))]
    with (
        open_classes(plan.map_path, plan.band) as source,
        on_grid(list(plan.statistics.values()), source) as others,
    ):
        stream = _Polygons(plan, source, others)
        batches = stream.batches()
        if plan.driver == "ESRI Shapefile":
            batches = check_size(batches, plan.output.name)
        with reserved(plan.output), staged(plan.output, overwrite=plan.overwrite or plan.append) as path:
            if plan.append and plan.output.exists():
                refuse_busy_geopackage(plan.output, is_replaced=True)
                stamps.append(Stamps.of((plan.output, f"{plan.output}-wal")))  # no lock is held until it is replaced
                refuse_other_layer(plan.output, plan.layer, crs, stream.columns.schema, plan.geometry_type)
                copy_geopackage(plan.output, path)
                if not plan.allow_overlap:
                    batches = check_overlap(batches, plan.output, plan.layer)
            write_stream(
                batches,
                stream.columns.schema,
                path,
                driver=plan.driver,
                crs=crs,
                layer=plan.layer,
                geometry_type=plan.geometry_type,
                metadata=plan.metadata,
                append=path.exists(),
            )
            colors = {code: (plan.legend.name(code), plan.legend.color(code)) for code in stream.areas}
            if plan.driver == "GPKG":
                write_layer_style(path, plan.layer, colors, "code")
            elif may_write_style(plan.output, overwrite=plan.overwrite):
                path.with_suffix(".qml").write_text(qml(colors, "code"), encoding="utf-8")
            checked = stream.verdict()
            if plan.stac:
                _write_item(plan, source, list(stream.areas), path)
            for stamp in stamps:
                stamp.refuse_changed()
    for name, code in plan.selected.items():
        if code not in stream.areas:
            log.warning("`%s` has no polygon of class `%s`", plan.map_path, name)
    return _result(plan, stream, checked)


def _write_item(plan: VectorizePlan, source: ClassRaster, codes: Sequence[int], path: Path) -> None:
    """Write the STAC item of a layer whose files are complete, beside `path`."""
    names = {code: plan.legend.name(code) for code in sorted(codes)}
    classes = [
        class_entry(code, name, plan.legend.color(code), description=name, fallback=f"class_{code}")
        for code, name in names.items()
    ]
    own = read_own(item_path(plan.map_path)) if isinstance(plan.map_path, Path) else {}
    told = own.get("properties") or {}
    files = {each.name: each for each in sorted(path.parent.iterdir())}
    others = {name: describe_file(each, "application/octet-stream", name, ["metadata"]) for name, each in files.items()}
    del others[path.name]
    layer = describe_file(path, MEDIA_TYPES[plan.driver], plan.layer, ["data"])
    item = make_item(
        ItemSource(
            name=plan.output.stem,
            key=layer["file:checksum"],
            description=f"Polygons of land cover, {len(classes)} classes",
            grid=source.grid,
            date=told.get("datetime") or date_of(str(plan.map_path)),
            assets={"polygons": layer | ({"classification:classes": classes} if classes else {}), **others},
            sources=addresses(str(plan.map_path), plan.output.parent),
        )
    )
    write_json(item_path(path), item)


def _result(plan: VectorizePlan, stream: "_Polygons", checked: CheckResult | None) -> VectorizeResult:
    areas = dict(sorted(stream.areas.items()))
    total = sum(areas.values())
    classes = [
        ClassArea(code, plan.legend.name(code), area / 1e4, area / total if total else 0.0)
        for code, area in areas.items()
    ]
    return VectorizeResult(
        path=plan.output,
        polygons=stream.polygons,
        areas=plan.areas,
        lengths=plan.lengths,
        area_m2={plan.legend.name(code): area for code, area in areas.items()},
        classes=tuple(classes),
        check=checked,
    )


class _Polygons:
    """The polygons of one map as a stream of record batches; counts what passes."""

    def __init__(self, plan: VectorizePlan, source: ClassRaster, others: tuple[OtherRaster, ...]) -> None:
        self.plan, self.source, self.others = plan, source, others
        self.columns = Columns.of(list(plan.statistics), shapefile=plan.driver == "ESRI Shapefile")
        self.polygons = 0
        self.areas: dict[int, float] = {}
        """Areas of the polygons in m², by code."""
        self.coverage = Coverage()
        self.reprojection = (
            Reprojection(CRS.from_wkt(plan.crs), CRS.from_wkt(plan.layer_crs)) if plan.is_reprojected else None
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the layer's rows as regions close."""
        grid, plan, parts = self.source.grid, self.plan, []
        pixels_differ = not grid.keeps_areas and not grid.is_geographic
        simplify = None
        if plan.tolerance_m is not None:
            simplify = Simplify(plan.tolerance_m, step_jacobians(grid), plan.smooth)
        found = polygonize(
            self._strips(pixels_differ),
            grid.width,
            grid.height,
            statistics=len(self.others) + pixels_differ,
            simplify=simplify,
            outline=plan.check,
        )
        codes = list(plan.selected.values())
        for regions in found:
            pixels_m2 = regions.statistics["total"][:, -1] if pixels_differ else None
            areas, perimeters = measure_regions(regions, grid, pixels_m2)
            placed = self._placed(regions, areas)
            if codes:
                chosen = np.flatnonzero(np.isin(placed.codes, codes))
                placed, areas, perimeters = placed.take(chosen), areas[chosen], perimeters[chosen]
            for code in np.unique(placed.codes).tolist():
                self.areas[code] = self.areas.get(code, 0.0) + float(areas[placed.codes == code].sum())
            if plan.dissolve:
                parts.append((placed, areas, perimeters))
            elif len(placed):
                self.polygons += len(placed)
                yield self.columns.batch(placed, areas, perimeters, plan.legend, self._geometry(placed))
        if parts:
            whole, areas, perimeters, geometry = dissolve(parts)
            self.polygons = len(whole)
            yield self.columns.batch(whole, areas, perimeters, plan.legend, encode_geometries(self._split(geometry)))

    def _strips(self, pixels_differ: bool) -> Iterator[Strip]:
        """Yield the map after holes were filled and small regions joined their neighbours."""
        plan, source = self.plan, self.source
        width = source.grid.width

        def read(what: str) -> Iterator[Strip]:
            return source.strips(what, self.others if what == "polygons" else ())

        def filled(what: str) -> Iterator[Strip]:
            return read(what) if filling is None else drop_holes(recode(select_holes(read(what)), width, filling))

        filling = None
        if plan.fill_nodata_holes:
            weights, minimum = sieve_weights(source.grid, Size(1, in_pixels=True))
            filling = choose_codes(select_holes(read("holes")), width, weights, minimum)
        strips = filled("polygons")
        if plan.min_area is not None:
            weights, minimum = sieve_weights(source.grid, plan.min_area)
            joined = choose_codes(filled("small regions"), width, weights, minimum, source.dtype)
            strips = recode(strips, width, joined)
        if plan.check:
            strips = count_areas(strips, source.grid.pixel_areas, self.coverage.mapped)
        return with_areas(strips, source.grid) if pixels_differ else strips

    def _placed(self, regions: Regions, areas: NDArray[np.float64]) -> Regions:
        """Return the regions with coordinates in the layer's CRS, and add them to the check."""
        edges = regions.outline
        if self.reprojection is not None:
            regions, edges = densify(regions), densify_edges(edges)
        placed = replace(regions, xy=self._to_layer(regions.xy))
        if self.plan.check:
            self.coverage.add_rings(placed.xy, placed.ring_offsets)
            edges = self._to_layer(edges.reshape(-1, 2)).reshape(-1, 2, 2)
            self.coverage.add_edges(edges[:, 0], edges[:, 1])
            self.coverage.add_polygons(self._split(placed.polygons()))
            self.coverage.add_areas(placed.codes, areas)
        return placed

    def _to_layer(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        ground = to_ground(xy, self.source.grid.transform)
        return ground if self.reprojection is None else self.reprojection(ground)

    def _geometry(self, regions: Regions) -> pa.Array:
        x = regions.xy[:, 0]
        if self.plan.is_split:
            parts, polygons = shapely.get_parts(self._split(regions.polygons()), return_index=True)
            return encode_geometries(np.asarray(shapely.multipolygons(parts, indices=polygons)))
        if self.plan.driver in GEOJSON and (np.abs(np.diff(x) if self.reprojection else x) > 180).any():
            return encode_geometries(self._split(regions.polygons()))
        return encode_regions(regions.xy, regions)

    def _split(self, geometry: NDArray[np.object_]) -> NDArray[np.object_]:
        """Cut geometries at the antimeridian, if the layer needs it."""
        if self.plan.driver not in GEOJSON and not self.plan.is_split:
            return geometry
        return split_at_antimeridian(geometry, wrapped=self.reprojection is not None)

    def verdict(self) -> CheckResult | None:
        """Return the figures of the check.

        Raises:
            DataError: the polygons are not a coverage of the map.
        """
        if not self.plan.check:
            return None
        found = self.coverage
        result = CheckResult(found.edges, found.unmatched, found.invalid, found.area_error)
        is_exact = self.plan.tolerance_m is None
        if found.unmatched or found.invalid or (is_exact and found.area_error > _ROUNDING):
            raise DataError(
                f"the polygons of `{self.source.path}` are not a coverage: {found.unmatched} edges without their"
                f" opposite, {found.invalid} invalid polygons, class areas off by {100 * found.area_error:.2g} %",
                hint="nothing was written; please report this with the map",
            )
        return result
