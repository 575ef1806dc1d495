"""Prepare vector layers for the page, as FlatGeobuf, from which the page reads what lies in view."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.raster.style import read_qml
from cwsam_cli.taxonomy import default_color, name_key
from cwsam_cli.vector.layers import GEOMETRY, write_stream
from cwsam_cli.view.frame import Frame
from cwsam_cli.view.request import ClassEntry, Layer

_CODE, _NAME = "code", "name"
"""Fields that `cwsam vectorize` writes."""
_SMALL_COUNT, _SMALL_BYTES = 20_000, 16 << 20
"""Features and bytes up to which the page reads a layer as a whole. Of larger ones it reads what lies in view."""


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """A vector layer that the user named."""

    path: Path
    layer: str
    is_alone: bool
    crs: CRS | None

    @property
    def name(self) -> str:
        """Name for the page: that of the file, with that of the layer if there are several."""
        return self.path.name if self.is_alone else f"{self.path.name}: {self.layer}"


def inspect_features(path: Path) -> list[FeatureSource]:
    """List the layers of a vector file that have a geometry.

    Raises:
        DataError: there is none.
    """
    refuse_unusable_layer(path)
    layers = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry is not None]
    if not layers:
        raise DataError(f"`{path}` has no layer with geometry", hint="give a layer of polygons")
    found = []
    for layer in layers:
        crs = pyogrio.read_info(path, layer=layer)["crs"]
        found.append(FeatureSource(path, layer, len(layers) == 1, CRS.from_user_input(crs) if crs else None))
    return found


def prepare_features(source: FeatureSource, frame: Frame, folder: Path, known: tuple[ClassEntry, ...]) -> Layer:
    """Write a layer as FlatGeobuf.

    Args:
        source: the layer.
        frame: the CRS of the page.
        folder: where the file is written.
        known: classes of the map, which give codes their names and colours.

    Raises:
        DataError: it has no place in the CRS of the page.
    """
    file = folder / f"{source.path.stem}.fgb"
    stream = _Stream(_transformer(source, frame))
    with pyogrio.open_arrow(source.path, layer=source.layer, use_pyarrow=True) as (meta, reader):
        stream.geometry = meta["geometry_name"] or "wkb_geometry"
        names = [name for name in reader.schema.names if name not in (stream.geometry, GEOMETRY)]
        schema = pa.schema([*(reader.schema.field(name) for name in names), pa.field(GEOMETRY, pa.binary())])
        write_stream(
            stream.batches(reader, names, schema),
            schema,
            file,
            driver="FlatGeobuf",
            crs=CRS.from_wkt(frame.crs.to_wkt()) if frame.crs is not None else CRS.from_epsg(4326),
            layer=source.layer,
            geometry_type="Unknown",
        )
    classes = _classes(source, stream, known)
    bounds = stream.bounds
    return Layer(
        kind="polygons",
        name=source.name,
        file=file,
        extent=(bounds[0], bounds[1], bounds[2], bounds[3]) if np.isfinite(bounds).all() else None,
        classes=classes,
        note=f"{stream.count:,} features",
        facts={
            "field": _CODE if classes else None,
            "filled": not known and bool(classes),
            "small": stream.count <= _SMALL_COUNT and file.stat().st_size <= _SMALL_BYTES,
        },
    )


class _Stream:
    """Batches of a layer in the CRS of the page, and what they held."""

    def __init__(self, transformer: Transformer | None) -> None:
        self.geometry = ""
        self.count = 0
        self.bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self.codes: dict[int, str] = {}
        self._transformer = transformer

    def batches(self, reader: Any, names: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield record batches without features that have no geometry."""
        for batch in reader:
            shapes = shapely.force_2d(shapely.from_wkb(batch.column(self.geometry).to_numpy(zero_copy_only=False)))
            kept = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
            shapes = shapes[kept]
            if self._transformer is not None:
                shapes = shapely.transform(shapes, self._moved)
            self._note(batch.filter(pa.array(kept)), shapes)
            columns = [batch.column(name).filter(pa.array(kept)) for name in names]
            yield pa.RecordBatch.from_arrays([*columns, pa.array(shapely.to_wkb(shapes), pa.binary())], schema=schema)

    def _moved(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self._transformer is not None
        return np.stack(self._transformer.transform(xy[:, 0], xy[:, 1]), axis=1)

    def _note(self, batch: pa.RecordBatch, shapes: NDArray[Any]) -> None:
        self.count += len(shapes)
        if len(shapes):
            west, south, east, north = shapely.total_bounds(shapes)
            low, high = np.minimum(self.bounds[:2], (west, south)), np.maximum(self.bounds[2:], (east, north))
            self.bounds = np.concatenate([low, high])
        if _CODE in batch.schema.names and pa.types.is_integer(batch.schema.field(_CODE).type):
            names = batch.column(_NAME) if _NAME in batch.schema.names else batch.column(_CODE)
            pairs = pa.table({"code": batch.column(_CODE), "name": names}).group_by(["code", "name"]).aggregate([])
            for row in pairs.to_pylist():
                if row["code"] is not None:
                    self.codes.setdefault(row["code"], str(row["code"] if row["name"] is None else row["name"]))


def _transformer(source: FeatureSource, frame: Frame) -> Transformer | None:
    """Return the transformation to the CRS of the page, None if there is nothing to do."""
    frame.refuse_unplaced(source.path, source.crs)
    if source.crs is None or frame.crs is None:
        return None
    target = CRS.from_wkt(frame.crs.to_wkt())
    if source.crs == target:
        return None
    try:
        return Transformer.from_crs(source.crs, target, always_xy=True)
    except ProjError:
        raise DataError(
            f"there is no transformation from the CRS of `{source.path}`, {source.crs.name}, to {target.name}",
            hint="give both a CRS that PROJ knows",
        ) from None


def _classes(source: FeatureSource, stream: _Stream, known: tuple[ClassEntry, ...]) -> tuple[ClassEntry, ...]:
    """Return the classes of a layer: those of the map if they are the same for all its codes, else its own."""
    names = {entry.code: name_key(entry.name) for entry in known}
    if stream.codes and all(
        code in names and (name == str(code) or name_key(name) == names[code]) for code, name in stream.codes.items()
    ):
        return known
    style = _style(source)
    return tuple(
        ClassEntry(index, code, *style.get(code, (name, default_color(code))))
        for index, (code, name) in enumerate(sorted(stream.codes.items()))
    )


def _style(source: FeatureSource) -> dict[int, tuple[str, str]]:
    """Return name and colour by code from the style in a GeoPackage, empty without one."""
    if source.path.suffix.lower() != ".gpkg":
        return {}
    try:
        with closing(sqlite3.connect(f"{source.path.resolve().as_uri()}?mode=ro", uri=True)) as package:
            found = package.execute(
                "SELECT styleQML FROM layer_styles WHERE f_table_name = ?", (source.layer,)
            ).fetchone()
    except sqlite3.Error:
        return {}
    return read_qml(found[0]) if found else {}
