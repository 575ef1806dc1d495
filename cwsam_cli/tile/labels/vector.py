"""Read label features near a scene through the layer's spatial index, and burn them onto the scene's pixel grid.

A pixel belongs to the polygon that contains its centre.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.globe import globe_width, unwrap
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.taxonomy import IGNORE, LabelTable
from cwsam_cli.tile.labels.bounds import bounds_near, center
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED, Codes, Conflicts, Labels, Value

_ON_BORDER = 1e-6  # pixels; rounding moves borders, so a centre this close to a border counts as on it
_LARGE = 100  # coordinates of a polygon that is cut before it is burnt
_BORDER = 2  # pixels around a window
_CHUNK = 10_000  # pixels whose claims are looked up together
_FAILED = (
    ValueError,
    OSError,  # pyarrow's
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSource:
    """A layer of labels, and how its features become labels of pixels."""

    path: Path
    layer: str
    class_field: str
    """The field with each feature's class code, class name or value of the class table."""
    where: str | None = None
    """A condition in OGR SQL; other features are left out."""
    priority: tuple[int, ...] = ()
    """Class codes, the highest first. They win over each other in this order, and over all other classes."""
    all_touched: bool = False
    """Whether polygons also label pixels that they touch, if no polygon contains the pixel's centre."""
    buffer_m: float = 0.0
    """Points and lines become areas with this radius, in metres on the ground."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the labels."""
        return (self.path,)

    @contextmanager
    def opened(self, grid: Grid, scene: Path | str, table: LabelTable | None) -> "Iterator[Labels]":
        """Read the features near a scene.

        Args:
            grid: the scene's grid.
            scene: the scene's path, for messages.
            table: the class table.

        Raises:
            DataError: the features cannot be used, or cannot be placed on the scene.
        """
        assert table is not None
        if grid.crs is None:
            raise missing_crs(scene, grid, "so polygons cannot be placed on it")
        frame = self.near(grid, table)
        if self.buffer_m:
            frame = _buffered(frame, grid, self.buffer_m)
        yield place_polygons(frame, grid, scene, all_touched=self.all_touched)

    def near(self, grid: Grid, table: LabelTable) -> geopandas.GeoDataFrame:
        """Return the features near a grid, in their own CRS; the index is the feature id.

        Columns: `code` (`UNEXPECTED` where the class table has no such value), `value` as in the file, and `rank`,
        which is larger for features that win over others.
        """
        frame = self.features(grid)
        frame = frame[frame["value"] != ""]
        lost = _not_finite(frame)
        if lost:
            raise DataError(
                f"`{self.path}`: feature(s) {lost} have coordinates that are not finite numbers",
                hint="draw them again, or delete them",
            )
        codes = field_codes(table)
        own = np.array([codes.get(value, UNEXPECTED) for value in frame["value"].tolist()], np.int32)
        ranks = {code: len(self.priority) - i for i, code in enumerate(self.priority)}
        frame = frame.assign(code=own, rank=[ranks.get(code, 0) for code in own.tolist()])
        return frame[frame["code"] != NO_LABEL].sort_values(["rank", "code"], kind="stable")

    def features(self, grid: Grid) -> geopandas.GeoDataFrame:
        """Return the features near a grid, in their own CRS; the index is the feature id.

        The column `value` has each feature's class as in the file, and an empty text where there is none.
        """
        with self._reading():
            crs = pyogrio.read_info(self.path, layer=self.layer)["crs"]
            parts = [
                pyogrio.read_dataframe(
                    self.path,
                    layer=self.layer,
                    columns=[self.class_field],
                    where=self.where,
                    bbox=bounds,
                    fid_as_index=True,
                )
                for bounds in bounds_near(grid, crs, self.buffer_m)
            ]
        frame = pandas.concat(parts) if len(parts) > 1 else parts[0]
        frame = frame[~frame.index.duplicated() & frame.geometry.notna()]
        field = frame[self.class_field]
        values = [self.plain(value) for value in field.astype(object).where(field.notna(), "").tolist()]
        return geopandas.GeoDataFrame(
            {"value": pandas.Series(values, frame.index, object)},
            geometry=frame.geometry.to_numpy(),
            index=frame.index,
            crs=frame.crs,
        )

    def values(self) -> set[Value]:
        """Return all values of the class field. This reads the field of the whole layer, batch by batch."""
        found: set[Any] = set()
        options = {"layer": self.layer, "columns": [self.class_field], "where": self.where, "read_geometry": False}
        with (
            self._reading(),
            pyogrio.raw.open_arrow(self.path, **options, use_pyarrow=True) as (_, batches),
        ):
            for batch in batches:
                found.update(batch.column(batch.schema.get_field_index(self.class_field)).unique().to_pylist())
        return {self.plain(value) for value in found if value is not None and value == value} - {""}

    def plain(self, value: Any) -> Value:
        """Return a field's value as a number or a text; `3.0` is the number 3.

        Raises:
            DataError: the value is a fraction.
        """
        if isinstance(value, str):
            return value.strip()
        if not isinstance(value, Real):
            return str(value)
        number: Any = value  # numpy and Python numbers alike
        if not float(number).is_integer():
            raise DataError(
                f"`{self.path}`: field `{self.class_field}` holds {number:g}, but a class code is a whole number",
                hint="name another field",
            )
        return int(number)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _FAILED as error:
            if self.where is not None:
                raise UsageError(
                    f"--where `{self.where}` cannot be used on `{self.path}`: {error}",
                    hint="""give a condition in OGR SQL, for example: --where "year = 2020 AND crop <> 'fallow'\"""",
                ) from None
            raise DataError(
                f"`{self.path}` cannot be read: {error}", hint=f"try: ogrinfo -al -so {self.path}"
            ) from None


def field_codes(table: LabelTable) -> dict[Value, int]:
    """Return class codes by what a class field may hold: names, and values as numbers or texts.

    A name has priority over a number with the same digits. `NO_LABEL` stands for values without a label.
    """
    codes: dict[Value, int] = {str(value): code for value, code in table.values.items()}
    codes |= table.values | {entry.name: entry.code for entry in table.taxonomy.classes}
    return {value: NO_LABEL if code == IGNORE else code for value, code in codes.items()}


def _buffered(frame: geopandas.GeoDataFrame, grid: Grid, buffer_m: float) -> geopandas.GeoDataFrame:
    """Return the features with points and lines widened to areas.

    Distances are taken in an azimuthal projection about the scene's centre. Its scale is wrong by 0.1 % at 500 km.
    """
    thin = shapely.get_dimensions(frame.geometry.to_numpy()) < 2
    if not thin.any():
        return frame
    longitude, latitude = center(grid)
    local = CRS.from_dict({"proj": "aeqd", "lon_0": longitude, "lat_0": latitude, "datum": "WGS84"})
    areas = frame[thin].to_crs(local)
    areas.geometry = areas.buffer(buffer_m)
    moved = areas.to_crs(frame.crs)
    width = globe_width(frame.crs.to_wkt())
    if width is not None:
        moved.geometry = unwrap(moved.geometry.to_numpy(), areas.geometry.to_numpy(), width, None)
    return pandas.concat([frame[~thin], moved]).sort_values(["rank", "code"], kind="stable")


@dataclass(frozen=True, slots=True)
class VectorLabels:
    """Features in the scene's CRS, sorted by rank and code. The frame's index is the feature id."""

    frame: geopandas.GeoDataFrame
    grid: Grid
    all_touched: bool = False

    def read(self, window: Window) -> Codes:
        """See `Labels`."""
        near = self._near(window)
        centres = self._burn(window, near, near["code"])
        if self.all_touched:
            touched = self._burn(window, near, near["code"], all_touched=True)
            centres = np.where(centres == NO_LABEL, touched, centres)
        return centres.astype(np.int16)

    def unexpected(self, window: Window) -> Counter[Value]:
        """See `Labels`."""
        near = self._near(window)
        near = near[near["code"] == UNEXPECTED]
        burnt = self._burn(window, near, range(len(near)), all_touched=self.all_touched)
        row, counts = np.unique(burnt, return_counts=True)
        found: Counter[Value] = Counter()
        for value, count in zip(
            near["value"].iloc[row[row != NO_LABEL]], counts[row != NO_LABEL].tolist(), strict=True
        ):
            found[value] += count
        return found

    def conflicts(self, window: Window) -> Conflicts:
        """See `Labels`.

        Features of equal rank are burnt in ascending and in descending order of their codes. Where the results
        differ, two classes contain a pixel, or its centre lies on their border.
        """
        near = self._near(window)
        back = near.iloc[::-1].sort_values("rank", kind="stable")
        up, down = self._burn(window, near, near["code"]), self._burn(window, back, back["code"])
        rows, cols = np.nonzero(up != down)
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
        codes, ranks, ids = self.frame["code"].to_numpy(), self.frame["rank"].to_numpy(), self.frame.index.to_numpy()
        found: Conflicts = Counter()
        for own in claimants.values():
            best = [row for row in own if ranks[row] == ranks[own].max()]
            if len(set(codes[best].tolist())) > 1:
                found[tuple(sorted(set(ids[best].tolist())))] += 1
        return found

    def _near(self, window: Window) -> geopandas.GeoDataFrame:
        x, y = zip(*self.grid.corners(window), strict=True)
        return self.frame.iloc[np.sort(self.frame.sindex.query(shapely.box(min(x), min(y), max(x), max(y))))]

    def _clipped(self, near: geopandas.GeoDataFrame, window: Window) -> NDArray[Any]:
        """Cut large polygons to a window and a border around it, because burning takes time for each vertex."""
        large = near["large"].to_numpy()
        wide = Window(
            window.col_off - _BORDER,
            window.row_off - _BORDER,
            window.width + 2 * _BORDER,
            window.height + 2 * _BORDER,
        )
        x, y = zip(*self.grid.corners(wide), strict=True)
        shapes = near.geometry.to_numpy().copy()
        shapes[large] = shapely.clip_by_rect(shapes[large], min(x), min(y), max(x), max(y))
        return np.asarray(shapes)

    def _burn(
        self, window: Window, near: geopandas.GeoDataFrame, values: Any, *, all_touched: bool = False
    ) -> NDArray[np.int32]:
        shape = (int(window.height), int(window.width))
        shapes = self._clipped(near, window)
        inside = ~shapely.is_empty(shapes)
        if not inside.any():
            return np.full(shape, NO_LABEL, np.int32)
        burnt = rasterize(
            zip(shapes[inside], np.asarray(values)[inside], strict=True),
            out_shape=shape,
            transform=window_transform(window, self.grid.transform),
            fill=NO_LABEL,
            dtype="int32",
            all_touched=all_touched,
        )
        return np.asarray(burnt)


def place_polygons(
    frame: geopandas.GeoDataFrame, grid: Grid, scene: Path | str, *, all_touched: bool = False
) -> VectorLabels:
    """Place features on a scene's grid, which has a CRS.

    Args:
        frame: features from `VectorSource.near`.
        grid: the scene's grid.
        scene: the scene's path, for messages.
        all_touched: see `VectorSource`.

    Raises:
        DataError: features cannot be transformed to the scene's CRS.
    """
    assert grid.crs is not None
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
            hint="cut them to the ground of the scenes, or leave them out with --where",
        )
    width = globe_width(wkt)
    if width is not None:
        before = globe_width(frame.crs.to_wkt())
        moved.geometry = unwrap(moved.geometry.to_numpy(), frame.geometry.to_numpy(), width, before)
        x, y = zip(*grid.corners(Window(0, 0, grid.width, grid.height)), strict=True)
        turns = [moved.set_geometry(moved.translate(turn * width)) for turn in (0, 1, -1)]
        moved = pandas.concat([turn.cx[min(x) : max(x), min(y) : max(y)] for turn in turns])
        moved = moved.sort_values(["rank", "code"], kind="stable")
    return burnable(moved, grid, all_touched=all_touched)


def burnable(frame: geopandas.GeoDataFrame, grid: Grid, *, all_touched: bool = False) -> VectorLabels:
    """Return labels of features in the coordinates of a grid.

    Args:
        frame: features with the columns `code`, `value` and `rank`, sorted by rank and code.
        grid: the scene's grid.
        all_touched: see `VectorSource`.
    """
    shapes = frame.geometry.to_numpy()
    large = (shapely.get_num_coordinates(shapes) > _LARGE) & (shapely.get_dimensions(shapes) == 2)
    large[large] = shapely.is_valid(shapes[large])
    return VectorLabels(frame.assign(large=large), grid, all_touched)


def _not_finite(frame: geopandas.GeoDataFrame) -> str:
    """Return the first ids of features with an infinite or NaN coordinate."""
    xy, feature = shapely.get_coordinates(frame.geometry.to_numpy(), return_index=True)
    ids = frame.index[np.unique(feature[~np.isfinite(xy).all(axis=1)])].tolist()
    return ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
