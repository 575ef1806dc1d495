"""Bring labels of any kind onto a scene's pixel grid.

A label raster may have another CRS and resolution. It is resampled to the nearest neighbour. Polygons are
burnt by the pixel-centre rule. Both give class codes, with `NO_LABEL` where there is no label.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from cwsam_cli.console import ONCE, ONCE_A_KIND, log
from cwsam_cli.errors import DataError
from cwsam_cli.raster.globe import globe_width, unwrap, views_on
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.raster.scene import open_raster, reading, warn_of_pages
from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, default_color

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

NO_LABEL = -1

_ON_BORDER = 1e-6  # pixels; rounding moves borders, so a centre this close to a border counts as on it
_CHUNK = 10_000  # pixels whose claims are looked up together

Codes = NDArray[np.int32]
Conflicts = Counter[tuple[int, ...]]
"""Numbers of pixels by the ids of the features that contain them."""


class Labels(Protocol):
    """Labels on a scene's grid."""

    def read(self, window: Window) -> Codes:
        """Return the class codes (H, W) of a window, `NO_LABEL` where there is none."""

    def conflicts(self, window: Window) -> Conflicts:
        """Count the pixels of a window that features of different classes contain, by the ids of those features."""


@dataclass(frozen=True, slots=True)
class RasterLabels:
    """An open label raster on the scene's grid."""

    path: Path
    views: tuple[rasterio.DatasetReader | WarpedVRT, ...]
    """Views of the raster. All but the first find ground on the other side of the antimeridian."""

    def read(self, window: Window) -> Codes:
        """See `Labels`."""
        codes = self._read(self.views[0], window)
        for view in self.views[1:]:
            unknown = codes == NO_LABEL
            if unknown.any():
                codes[unknown] = self._read(view, window)[unknown]
        return codes

    def _read(self, view: rasterio.DatasetReader | WarpedVRT, window: Window) -> Codes:
        with reading(self.path):
            values = view.read(1, window=window, masked=True)
            if view.count > 1:  # the view's alpha, which GDAL applies as a mask only in uint8 and uint16
                values[view.read(2, window=window) == 0] = np.ma.masked
        if np.issubdtype(values.dtype, np.floating):
            values = np.ma.masked_invalid(values)
            odd = np.unique(values.compressed()[np.mod(values.compressed(), 1) != 0])
            if odd.size:
                raise DataError(
                    f"`{self.path}` holds {odd[0]:g}, but a class code is a whole number",
                    hint="is this the label raster, and not an image?",
                )
        far = values.compressed()
        if far.size and (far.min() < 0 or far.max() > IGNORE):
            worst = far.min() if far.min() < 0 else far.max()
            raise DataError(
                f"`{self.path}` holds the class code {worst:g}",
                hint=f"class codes are 0-254; if {worst:g} means no label, declare it as nodata: "
                f"gdal_translate -a_nodata {worst:g} {self.path} declared.tif",
            )
        codes = values.filled(0).astype(np.int32)
        codes[np.ma.getmaskarray(values) | (codes == IGNORE)] = NO_LABEL
        return np.asarray(codes, np.int32)

    def conflicts(self, window: Window) -> Conflicts:
        """Return none, because a raster has one class per pixel."""
        return Counter()


@dataclass(frozen=True, slots=True)
class VectorLabels:
    """Polygons with a class code each, in the scene's CRS, sorted by code. The frame's index is the feature id."""

    frame: "GeoDataFrame"
    grid: Grid

    def read(self, window: Window) -> Codes:
        """See `Labels`."""
        return self._burn(window, highest_wins=True)

    def conflicts(self, window: Window) -> Conflicts:
        """See `Labels`.

        Polygons are burnt in ascending and in descending order of their codes. Where the results differ, two classes
        contain a pixel, or its centre lies on their border.
        """
        rows, cols = np.nonzero(self._burn(window, highest_wins=True) != self._burn(window, highest_wins=False))
        found: Conflicts = Counter()
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            found += self._claims(cols[part] + window.col_off, rows[part] + window.row_off)
            if found:
                break  # some examples are enough for the message
        return found

    def _claims(self, cols: NDArray[np.int64], rows: NDArray[np.int64]) -> Conflicts:
        """Count the features of different classes that contain pixel centres, not on their border."""
        squares = np.stack([cols, rows], axis=1)[:, None] + [(0, 0), (1, 0), (1, 1), (0, 1)]
        a, b, c, d, e, f = self.grid.transform[:6]
        pixels = np.asarray(shapely.polygons(squares @ np.array([[a, d], [b, e]]) + (c, f)))
        pixel, row = self.frame.sindex.query(pixels, predicate="intersects")
        near, which = np.unique(row, return_inverse=True)
        shapes = self.frame.geometry.to_numpy()[near]
        borders = np.asarray(shapely.boundary(shapes))
        shapely.prepare(shapes)
        shapely.prepare(borders)
        centres = shapely.centroid(pixels[pixel])
        on_border = shapely.dwithin(borders[which], centres, _ON_BORDER * abs(self.grid.transform.a))
        is_area = shapely.get_dimensions(shapes)[which] == 2
        claims = ~is_area | (shapely.intersects(shapes[which], centres) & ~on_border)
        claimants: dict[int, list[int]] = {}
        for number, claimant in zip(pixel[claims].tolist(), row[claims].tolist(), strict=True):
            claimants.setdefault(number, []).append(claimant)
        codes, ids = self.frame["code"].to_numpy(), self.frame.index.to_numpy()
        return Counter(
            tuple(sorted(set(ids[rows].tolist()))) for rows in claimants.values() if len(set(codes[rows].tolist())) > 1
        )

    def _burn(self, window: Window, *, highest_wins: bool) -> Codes:
        shape = (int(window.height), int(window.width))
        x, y = zip(*self.grid.corners(window), strict=True)
        rows = np.sort(self.frame.sindex.query(shapely.box(min(x), min(y), max(x), max(y))))
        if not rows.size:
            return np.full(shape, NO_LABEL, np.int32)
        near = self.frame.iloc[rows if highest_wins else rows[::-1]]
        burnt = rasterize(
            zip(near.geometry, near["code"], strict=True),
            out_shape=shape,
            transform=window_transform(window, self.grid.transform),
            fill=NO_LABEL,
            dtype="int32",
        )
        return np.asarray(burnt)


def is_vector(path: Path) -> bool:
    """Return whether labels are polygons and not a raster.

    Raises:
        DataError: the file is missing, or is neither a raster nor a vector file.
    """
    import pyogrio

    if not path.exists():
        raise DataError(f"there are no labels at `{path}`", hint="check the path")
    try:
        with rasterio.open(path):
            return False
    except rasterio.errors.RasterioIOError:
        pass
    try:
        return len(pyogrio.list_layers(path)) > 0
    except Exception:
        raise DataError(
            f"`{path}` is neither a raster nor a vector file",
            hint="labels can be a GeoTIFF or a GeoPackage, for example",
        ) from None


@contextmanager
def open_raster_labels(path: Path, grid: Grid, scene: str) -> Iterator[RasterLabels]:
    """Open a label raster on a scene's grid.

    Args:
        path: the label raster.
        grid: the scene's grid.
        scene: the scene, for messages.

    Raises:
        DataError: its values cannot be class codes, or it cannot be brought onto the grid.
    """
    with open_raster(path) as dataset:
        own = Grid.of(dataset)
        warn_of_pages(dataset, path)
        if dataset.count != 1:
            raise DataError(f"`{path}` has {dataset.count} bands", hint="labels are a raster of one band")
        if "complex" in dataset.dtypes[0]:
            raise DataError(f"`{path}` holds complex values", hint="class codes are whole numbers, 0-254")
        same_pixels = (own.width, own.height) == (grid.width, grid.height) and own.transform.almost_equals(
            grid.transform, 1e-6 * abs(grid.transform.a)
        )
        if own.crs is None or grid.crs is None:
            if not same_pixels:
                both: tuple[tuple[Path | str, Grid], tuple[Path | str, Grid]] = ((scene, grid), (path, own))
                lacking = both[0] if grid.crs is None else both[1]
                raise missing_crs(*lacking, "so labels and scene cannot be combined", both)
            if own.crs is None and grid.crs is not None:
                log.warning(
                    "`%s` has no CRS; its pixels coincide with the scene's, so the scene's CRS is used",
                    path,
                    extra=ONCE_A_KIND,
                )
            yield RasterLabels(path, (dataset,))
            return
        if own.crs == grid.crs and same_pixels:
            yield RasterLabels(path, (dataset,))
            return
        log.info("labels (%s) are resampled to the scene's grid (%s)", own, grid, extra=ONCE)
        options: dict[str, Any] = {} if dataset.nodata is not None else {"add_alpha": True}
        try:
            with ExitStack() as stack:
                yield RasterLabels(path, views_on(grid, dataset, stack, **options))
        except (rasterio.errors.CRSError, rasterio.errors.WarpOperationError, CPLE_BaseError) as error:
            reason = str(error).partition(" from '")[0]  # PROJ appends both CRSs as JSON
            raise DataError(
                f"`{path}` cannot be brought from {own} to {grid}: {reason}",
                hint="give both a CRS that PROJ knows",
            ) from None


def read_polygons(path: Path, class_field: str, taxonomy: Taxonomy | None) -> "tuple[GeoDataFrame, Taxonomy]":
    """Read labelled polygons and their class table.

    Args:
        path: any vector file that GDAL reads.
        class_field: the field with each polygon's class code or class name.
        taxonomy: the class table; None makes one of the field's values.

    Returns:
        The polygons with a column `code`, sorted by it, and the class table.

    Raises:
        DataError: the field is missing or holds classes that the table does not know.
    """
    import geopandas

    frame = geopandas.read_file(path, fid_as_index=True)
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise DataError(
            f"`{path}` is a table without geometry", hint="labels can be a GeoTIFF or a GeoPackage, for example"
        )
    if class_field not in frame.columns.drop("geometry"):
        known = ", ".join(map(str, frame.columns.drop("geometry")))
        raise DataError(f"`{path}` has no field `{class_field}`", hint=f"its fields are: {known}")
    if frame.crs is None:
        raise DataError(
            f"`{path}` has no coordinate reference system, so its polygons cannot be placed on the scene",
            hint=f"if you know it: ogr2ogr -a_srs EPSG:<code> placed.gpkg {path}",
        )
    frame = frame[frame[class_field].notna() & frame.geometry.notna()]
    lost = _not_finite(frame)
    if lost:
        raise DataError(
            f"`{path}`: feature(s) {lost} have coordinates that are not finite numbers",
            hint="draw them again, or delete them",
        )
    values = frame[class_field].map(_plain)
    odd = [value for value in values if isinstance(value, float)]
    if odd:
        raise DataError(
            f"`{path}`: field `{class_field}` holds {odd[0]:g}, but a class code is a whole number",
            hint="name another field",
        )
    frame, values = frame[values != ""], values[values != ""]
    if taxonomy is None:
        if all(isinstance(value, str) and value.isdecimal() for value in values):
            values = values.map(int)
        taxonomy = _taxonomy_of(sorted(set(values), key=str), path, class_field)
    codes: dict[int | str, int] = {code: code for code in taxonomy.codes} | {str(code): code for code in taxonomy.codes}
    codes |= {
        entry.name: entry.code for entry in taxonomy.classes
    }  # a name has priority over a code with the same digits
    codes |= dict.fromkeys(taxonomy.unlabelled, NO_LABEL)
    unknown = sorted({str(value) for value in values if value not in codes})
    if unknown:
        shown = ", ".join(f"`{value}`" for value in unknown[:8])
        raise DataError(
            f"`{path}`: field `{class_field}` holds classes that are not in the class table: {shown}",
            hint="add them to the table; its classes are " + ", ".join(taxonomy.names),
        )
    frame = frame.assign(code=values.map(codes).astype("int32"))[["code", "geometry"]]
    return frame[frame["code"] != NO_LABEL].sort_values("code", kind="stable"), taxonomy


def place_polygons(frame: "GeoDataFrame", grid: Grid, scene: str) -> VectorLabels:
    """Place polygons on a scene's grid.

    Args:
        frame: polygons with a column `code`, from `read_polygons`.
        grid: the scene's grid.
        scene: the scene, for messages.

    Raises:
        DataError: the scene has no CRS, or polygons cannot be transformed to it.
    """
    import pandas

    if grid.crs is None:
        raise missing_crs(scene, grid, "so polygons cannot be placed on it")
    wkt = grid.crs.to_wkt()
    try:
        moved = frame.to_crs(wkt)
    except ProjError:
        raise DataError(
            f"there is no transformation from the labels' CRS, {frame.crs.name}, to that of `{scene}`",
            hint="give both a CRS that PROJ knows",
        ) from None
    lost = _not_finite(moved)
    if lost:
        raise DataError(
            f"feature(s) {lost} of the labels lie outside the CRS of `{scene}`",
            hint="keep only features near the scene: ogr2ogr -spat <west> <south> <east> <north> near.gpkg <labels>",
        )
    width = globe_width(wkt)
    if width is not None:
        before = globe_width(frame.crs.to_wkt())
        moved.geometry = unwrap(moved.geometry.to_numpy(), frame.geometry.to_numpy(), width, before)
        x, y = zip(*grid.corners(Window(0, 0, grid.width, grid.height)), strict=True)
        turns = [moved.set_geometry(moved.translate(turn * width)) for turn in (0, 1, -1)]
        moved = pandas.concat([turn.cx[min(x) : max(x), min(y) : max(y)] for turn in turns])
        moved = moved.sort_values("code", kind="stable")
    return VectorLabels(moved, grid)


def _not_finite(frame: "GeoDataFrame") -> str:
    """Return the first ids of features with an infinite or NaN coordinate."""
    xy, feature = shapely.get_coordinates(frame.geometry.to_numpy(), return_index=True)
    ids = frame.index[np.unique(feature[~np.isfinite(xy).all(axis=1)])].tolist()
    return ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")


def _plain(value: Any) -> int | float | str:
    """Return a field's value as a code or a name; `3.0` is the code 3."""
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, Real):
        return str(value)
    number = float(value)
    return int(number) if number.is_integer() else number


def _taxonomy_of(values: list[int | str], path: Path, class_field: str) -> Taxonomy:
    codes = [value for value in values if isinstance(value, int)]
    if codes and len(codes) < len(values):
        raise DataError(f"`{path}`: field `{class_field}` mixes codes and names", hint="give a class table: --classes")
    if len(values) > IGNORE - 1 or (codes and not 0 <= min(codes) <= max(codes) < IGNORE):
        raise DataError(f"`{path}`: field `{class_field}` holds no class codes (0-254)", hint="name another field")
    if not values:
        raise DataError(f"`{path}`: field `{class_field}` is empty", hint="name another field")
    named = [(code, f"class {code}") for code in sorted(codes)] or [(i, str(v)) for i, v in enumerate(values, start=1)]
    classes = tuple(
        LandCoverClass(code=code, name=name, color=default_color(i)) for i, (code, name) in enumerate(named)
    )
    try:
        return Taxonomy(name=path.stem, classes=classes)
    except ValueError as error:
        raise DataError(
            f"`{path}`: field `{class_field}`: {error}", hint="correct the field, or give a class table: --classes"
        ) from None
