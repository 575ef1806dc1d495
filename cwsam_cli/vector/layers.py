"""Read and write vector layers. Layers are written batch by batch, so memory does not depend on their size."""

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from cwsam_cli.console import log
from cwsam_cli.errors import DataError, MachineError
from cwsam_cli.raster.style import qml, read_qml
from cwsam_cli.vector.formats import vector_driver
from cwsam_cli.vector.whole import FULL, has_index, refuse_half

if TYPE_CHECKING:
    import geopandas  # only data frames need it

GEOMETRY = "geometry"
SHAPEFILE_LIMIT = 2**31 - 1
"""Largest size of a shapefile's .shp and .dbf in bytes, because many readers use offsets of 32 bits."""

_FAILED = (pyogrio.errors.FeatureError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError)
_TOUCHING = 1e-6
"""The largest shared part of two neighbours, relative to the smaller one, that rounding can cause."""
_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
"""SQL for the time in the form that GeoPackage demands; `CURRENT_TIMESTAMP` has another form."""
_OPTIONS = {
    "ESRI Shapefile": {"ENCODING": "UTF-8"},
    "GeoJSON": {"RFC7946": "YES"},
    "GeoJSONSeq": {"RS": "NO"},
}


def write_stream(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    *,
    driver: str,
    crs: CRS,
    layer: str,
    geometry_type: str = "Polygon",
    metadata: Mapping[str, str] | None = None,
    append: bool = False,
) -> None:
    """Write record batches as they come, without keeping them.

    Args:
        batches: record batches with WKB in the column `GEOMETRY`.
        schema: the schema of all batches.
        path: the file.
        driver: the name of GDAL's driver, from `vector_driver`.
        crs: the CRS of the geometries.
        layer: the layer's name, if the format has layers.
        geometry_type: `Polygon` or `MultiPolygon`.
        metadata: texts about the layer, if the format can store them.
        append: add the rows to an existing layer.

    Raises:
        MachineError: the file could not be written whole.
    """
    if driver == "Parquet":
        return _write_parquet(batches, schema, path, crs, geometry_type, metadata or {})
    raised: list[BaseException] = []
    rows = 0
    is_foreign = append and layer in pyogrio.list_layers(path)[:, 0] and not has_index(path, layer)

    def recorded() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        try:
            for batch in batches:
                rows += batch.num_rows
                yield batch
        except BaseException as error:  # GDAL reports only that the stream broke
            raised.append(error)
            raise

    try:
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always", RuntimeWarning)
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, recorded()),
                path,
                layer=layer,
                driver=driver,
                geometry_name=GEOMETRY,
                geometry_type=geometry_type,
                crs=crs.to_wkt(),
                append=append,
                layer_metadata=dict(metadata) if metadata and driver == "GPKG" else None,
                **_OPTIONS.get(driver, {}),
            )
        for warning in issued:
            log.warning("`%s`: %s", path.name, warning.message)
    except (*_FAILED, RuntimeError) as error:
        if raised:
            raise raised[0] from None
        raise MachineError(f"`{path.name}` could not be written: {error}", hint=FULL) from None
    if not is_foreign:  # another program wrote the layer without a spatial index
        refuse_half(path, driver, layer, rows)


def _write_parquet(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    crs: CRS,
    geometry_type: str,
    metadata: Mapping[str, str],
) -> None:
    """Write GeoParquet 1.1, https://geoparquet.org/releases/v1.1.0/."""
    from pyarrow import parquet

    column = {"encoding": "WKB", "geometry_types": [geometry_type], "crs": crs.to_json_dict()}
    geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    schema = schema.with_metadata({**metadata, "geo": json.dumps(geo)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def check_size(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches while they fit into a shapefile.

    Args:
        batches: record batches.
        name: the file's name, for the message.

    Raises:
        DataError: the file would be larger than 2 GB.
    """
    shapes = table = 0
    for batch in batches:
        texts = [i for i, field in enumerate(batch.schema) if field.type == pa.string()]
        numbers = batch.num_columns - 1 - len(texts)
        shapes += batch.column(GEOMETRY).nbytes + 44 * batch.num_rows
        table += batch.num_rows * (80 * len(texts) + 24 * numbers)
        if max(shapes, table) > SHAPEFILE_LIMIT:
            raise DataError(
                f"`{name}` would be larger than 2 GB, the limit of a shapefile", hint="write a .gpkg or .fgb"
            )
        yield batch


def check_overlap(batches: Iterator[pa.RecordBatch], path: Path, layer: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches while they overlap no polygon of an existing layer.

    Args:
        batches: record batches.
        path: the GeoPackage.
        layer: the layer's name; it need not exist.

    Raises:
        DataError: a polygon overlaps one of the layer.
    """
    if layer not in pyogrio.list_layers(path)[:, 0]:
        yield from batches
        return
    for batch in batches:
        shared = _shared(batch, path, layer) if batch.num_rows else ()
        if len(shared):
            west, south, east, north = shapely.total_bounds(shared)
            raise DataError(
                f"layer `{layer}` of `{path}` already has polygons on the ground of the map,"
                f" for example from {west:.10g}, {south:.10g} to {east:.10g}, {north:.10g}",
                hint="name another --layer, or add --allow-overlap, which counts that ground twice",
            )
        yield batch


def _shared(batch: pa.RecordBatch, path: Path, layer: str) -> NDArray[Any]:
    """Return the intersections of a batch's polygons with those of a layer."""
    new = shapely.from_wkb(batch.column(GEOMETRY).to_numpy(zero_copy_only=False))
    near = pyogrio.raw.read(path, layer=layer, columns=[], bbox=tuple(shapely.total_bounds(new)))[2]
    old = shapely.make_valid(shapely.from_wkb(near))  # other programs may have written invalid ones
    one, other = shapely.STRtree(old).query(new, predicate="intersects")
    shared = shapely.intersection(new[one], old[other])
    smaller = np.minimum(shapely.area(new[one]), shapely.area(old[other]))
    return np.asarray(shared[shapely.area(shared) > _TOUCHING * smaller])


def copy_geopackage(source: Path, target: Path) -> None:
    """Copy a GeoPackage, including changes that are still in its write-ahead log.

    Raises:
        MachineError: the file is locked, or is not a database.
    """
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise MachineError(
            f"`{source}` could not be copied: {error}", hint="is another program writing to it?"
        ) from None


def refuse_other_layer(path: Path, layer: str, crs: CRS, schema: pa.Schema, geometry_type: str) -> None:
    """Raise an error if rows cannot be appended to an existing layer.

    Args:
        path: the GeoPackage.
        layer: the layer's name; it need not exist.
        crs: the CRS of the rows.
        schema: the schema of the rows.
        geometry_type: the geometry type of the rows.

    Raises:
        DataError: the layer has another CRS, another geometry type or other fields.
    """
    if layer not in pyogrio.list_layers(path)[:, 0]:
        return
    info = pyogrio.read_info(path, layer=layer)
    fields = [name for name in schema.names if name != GEOMETRY]
    if info["crs"] is None or CRS.from_user_input(info["crs"]) != crs:
        raise DataError(
            f"layer `{layer}` of `{path}` has the CRS {info['crs']}, the polygons have {crs.name}",
            hint="write that CRS with --dst-crs, or name another --layer",
        )
    if info["geometry_type"] not in (geometry_type, "Unknown"):
        raise DataError(
            f"layer `{layer}` of `{path}` is of type {info['geometry_type']}, not {geometry_type}",
            hint="name another --layer",
        )
    if list(info["fields"]) != fields:
        raise DataError(
            f"layer `{layer}` of `{path}` has the fields {', '.join(info['fields'])}, not {', '.join(fields)}",
            hint="name another --layer",
        )


def write_layer_style(path: Path, layer: str, colors: Mapping[int, tuple[str, str]], field: str) -> None:
    """Write the default QGIS style of a layer of polygons into its GeoPackage.

    Classes of an older style of the layer are kept.

    Args:
        path: the GeoPackage.
        layer: the layer's name.
        colors: name and `#rrggbb` by code.
        field: the field that holds the code.

    Raises:
        MachineError: the file could not be written.
    """
    with _styles(path) as package:
        older = package.execute("SELECT styleQML FROM layer_styles WHERE f_table_name = ?", (layer,)).fetchall()
        for (text,) in older:
            colors = read_qml(text) | dict(colors)
        _put_style(package, layer, qml(colors, field))


def may_write_style(path: Path, *, overwrite: bool) -> bool:
    """Return whether a layer's QGIS style may be written beside it: a map of the same name has its own style there.

    Args:
        path: the layer.
        overwrite: whether a style of polygons may be replaced.
    """
    style = path.with_suffix(".qml")
    return not style.exists() or (overwrite and bool(read_qml(style.read_text(encoding="utf-8", errors="replace"))))


def write_default_style(path: Path, layer: str, style: str) -> None:
    """Write the default QGIS style of a layer into its GeoPackage.

    Args:
        path: the GeoPackage.
        layer: the layer's name.
        style: content of a `.qml` file.

    Raises:
        MachineError: the file could not be written.
    """
    with _styles(path) as package:
        _put_style(package, layer, style)


@contextmanager
def _styles(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a GeoPackage that has a table of styles, as QGIS creates it with "Save style → in database"."""
    try:
        with closing(sqlite3.connect(path)) as package, package:
            package.execute(
                "CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,"
                " f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),"
                " f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,"
                " useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
                f" update_time DATETIME DEFAULT ({_NOW}))"
            )
            package.execute(
                "INSERT OR REPLACE INTO gpkg_contents (table_name, data_type, identifier, description)"
                " VALUES ('layer_styles', 'attributes', 'layer_styles', '')"
            )
            yield package
    except sqlite3.Error as error:
        raise MachineError(f"`{path.name}` could not be written: {error}", hint=FULL) from None


def _put_style(package: sqlite3.Connection, layer: str, style: str) -> None:
    package.execute("DELETE FROM layer_styles WHERE f_table_name = ?", (layer,))
    package.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
        " styleQML, styleSLD, useAsDefault, description, owner, update_time)"
        f" SELECT '', '', table_name, column_name, ?, ?, '', 1, '', '', {_NOW} FROM gpkg_geometry_columns"
        " WHERE table_name = ?",
        (layer[:30], style, layer),
    )


def write_frame(frame: "geopandas.GeoDataFrame", path: Path, *, layer: str, **options: Any) -> None:
    """Write a data frame in the format of the path's suffix.

    Raises:
        MachineError: the file could not be written whole.
    """
    driver = vector_driver(path)
    try:
        frame.to_file(path, driver=driver, layer=layer, **options)
    except _FAILED as error:
        raise MachineError(f"`{path.name}` could not be written: {error}", hint=FULL) from None
    refuse_half(path, driver, layer, len(frame))
