"""Find the label file of each scene, and the class table of all."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyogrio
import rasterio

from cwsam_cli.config.class_files import SUFFIXES, table_keys
from cwsam_cli.config.load import load_label_table, make_label_table
from cwsam_cli.console import log
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.raster.style import has_wide_values, read_label_table
from cwsam_cli.taxonomy import LabelTable
from cwsam_cli.tile.labels.coco import CocoSource, is_coco
from cwsam_cli.tile.labels.codes import JoinedLabels, Labels
from cwsam_cli.tile.labels.corrections import CorrectionSource
from cwsam_cli.tile.labels.fields import field_table
from cwsam_cli.tile.labels.pairs import Footprints, is_raster, pair_labels
from cwsam_cli.tile.labels.raster import open_raster_labels
from cwsam_cli.tile.labels.vector import VectorSource, field_codes
from cwsam_cli.tile.request import TileRequest

_RASTERS = {".tif", ".tiff", ".vrt", ".img", ".jp2", ".png"}
_KINDS = "labels can be a GeoTIFF or a GeoPackage, for example"


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterSource:
    """Label rasters. Where several overlap, the first that has a label counts."""

    paths: tuple[Path, ...]

    @contextmanager
    def opened(self, grid: Grid, scene: Path | str, table: LabelTable | None) -> Iterator[Labels]:
        """Open the rasters on a scene's grid; see `open_raster_labels`. `LabelFiles.of` has checked them."""
        with ExitStack() as stack:
            parts = [
                stack.enter_context(open_raster_labels(path, grid, scene, table, is_checked=True))
                for path in self.paths
            ]
            yield parts[0] if len(parts) == 1 else JoinedLabels(tuple(parts))


LabelSource = RasterSource | VectorSource | CocoSource


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """The labels of a dataset."""

    named: dict[str, LabelSource]
    """Labels by scene."""
    folder: "Footprints | None"
    """Label rasters that belong to the scenes whose ground they show; for scenes that are not in `named`."""
    table: LabelTable | None
    """The class table; None if only the pixels of the labels can tell it."""
    corrections: CorrectionSource | None = None
    """Features that override the labels of all scenes."""

    def of(self, scene: str, grid: Grid) -> LabelSource:
        """Return the labels of a scene.

        Args:
            scene: the scene's path or URL.
            grid: the scene's grid.

        Raises:
            DataError: there are none, or they cannot be brought onto the grid.
        """
        source = self.named.get(scene)
        if source is None:
            assert self.folder is not None
            source = RasterSource(paths=self.folder.on(scene, grid))
        if isinstance(source, RasterSource):
            for path in source.paths:
                with open_raster_labels(path, grid, scene, self.table):
                    pass  # the labels can be brought onto the scene's grid
        return source


def find_labels(request: TileRequest, earlier: LabelTable | None = None) -> LabelFiles:
    """Look into the labels.

    Args:
        request: the wish.
        earlier: the class table of the dataset to which the scenes are added.

    Raises:
        DataError: the labels cannot be used, or the class table is not that of the dataset.
        UsageError: an option for vector labels is missing, or is given for rasters.
    """
    table = _read_table(request.classes) if request.classes else earlier
    if table is not None and earlier is not None and not table.taxonomy.same_classes(earlier.taxonomy):
        raise DataError(
            f"`{request.classes}` has other classes than `{request.output}`",
            hint="leave out --classes to use the class table of the dataset",
        )
    paths = pair_labels(request)
    sources = {path: _source(path, request) for path in dict.fromkeys(paths.values())}
    vectors = [source for source in sources.values() if isinstance(source, VectorSource)]
    annotated = [source for source in sources.values() if isinstance(source, CocoSource)]
    if not vectors:
        _refuse_vector_options(request, has_objects=bool(annotated))
    if table is None and vectors:
        table = field_table(vectors)
    elif table is None and annotated:
        table = _common_table(annotated)
    if table is not None:
        for source in annotated:
            source.warn_of_ids(table)
        wanted = _priority(request.priority, table)
        sources |= {
            path: replace(source, priority=wanted)
            for path, source in sources.items()
            if isinstance(source, VectorSource | CocoSource)
        }
    elif len(sources) == 1:
        table = _wide_table(next(iter(sources)))
    named = {scene: sources[path] for scene, path in paths.items()}
    left = [scene for scene in request.scenes if scene not in named]
    folder = Footprints.of(request.labels) if left and request.labels else None
    files = LabelFiles(named, folder, table)
    return replace(files, corrections=_corrections(request, files)) if request.corrections else files


def _corrections(request: TileRequest, labels: LabelFiles) -> CorrectionSource:
    """Find the layer of corrections, and check its class field.

    Without a class table, a class raster that names its classes also names those of the corrections.

    Raises:
        DataError: the layer cannot be used, or a value is no class.
        UsageError: the class field is missing.
    """
    assert request.corrections is not None
    file, layer = _layer_of(request.corrections)
    if not is_vector(file, "corrections"):
        raise DataError(f"the corrections `{file}` are a raster", hint="corrections are polygons: fixed.gpkg")
    source = _vector_source(file, layer, request, "--corrections")
    table = labels.table
    first = labels.named.get(request.scenes[0])
    if table is None and isinstance(first, RasterSource):
        with open_raster(first.paths[0]) as dataset, suppress(DataError):  # which says that it names no classes
            table = read_label_table(dataset)
    corrections = CorrectionSource(source=replace(source, where=None, all_touched=False, buffer_m=0.0), table=table)
    corrections.refuse_unknown()
    return corrections


def _source(path: Path, request: TileRequest) -> LabelSource:
    file, layer = _layer_of(path)
    if file.suffix.lower() in _RASTERS and file.exists():
        return RasterSource(paths=(file,))  # it is opened later, once for each of thousands of scenes
    if layer is None and is_coco(file):
        return CocoSource(path=file, all_touched=request.all_touched)
    if layer is None and not is_vector(file):
        return RasterSource(paths=(file,))
    return _vector_source(file, layer, request)


def _common_table(sources: Sequence[CocoSource]) -> LabelTable:
    """Return the class table of files with the same categories.

    Raises:
        DataError: their categories differ.
    """
    tables = [source.table() for source in sources]
    other = next((n for n, table in enumerate(tables) if not table.taxonomy.same_classes(tables[0].taxonomy)), None)
    if other is not None:
        raise DataError(
            f"`{sources[other].path}` has other categories than `{sources[0].path}`",
            hint="give a class table with the names of all: --classes classes.yaml",
        )
    return tables[0]


def _read_table(classes: str) -> LabelTable:
    """Read a class table from any file that `load_label_table` reads, an ESRI attribute table or a raster.

    Raises:
        ConfigError: a file is missing, or is not a valid class table.
        DataError: a raster has no class table.
    """
    path = Path(classes)
    if not path.is_file() or path.suffix.lower() in (*SUFFIXES, ".yaml", ".yml"):
        return load_label_table(classes)
    refuse_unusable_layer(path)
    if path.suffix.lower() == ".dbf":
        frame = pyogrio.read_dataframe(path, read_geometry=False)
        return make_label_table(table_keys(list(frame.columns), frame.to_numpy().tolist(), path), classes)
    try:
        dataset = rasterio.open(path)
    except rasterio.errors.RasterioIOError:
        return load_label_table(classes)  # which says what is wrong with it
    with dataset:
        return read_label_table(dataset)


def _wide_table(path: Path) -> LabelTable | None:
    """Return the class table in a label raster if its values cannot be class codes; else its codes tell the classes."""
    with open_raster(path) as dataset:
        if dataset.count != 1 or not has_wide_values(dataset):
            return None
        table = read_label_table(dataset)
    log.info("`%s` has values outside 0-254, so its %d classes are numbered from 1", path, len(table.taxonomy))
    return table


def _refuse_vector_options(request: TileRequest, *, has_objects: bool) -> None:
    """Stop if an option has no meaning for rasters, or for annotated objects."""
    given: dict[str, object] = {
        "--class-field": request.class_field if request.corrections is None else None,
        "--where": request.where,
        "--label-buffer": request.label_buffer_m,
    }
    if not has_objects:
        given |= {"--priority": request.priority, "--all-touched": request.all_touched}
    named = next((option for option, value in given.items() if value), None)
    if named is not None:
        kind = "annotations of images" if has_objects else "rasters"
        raise UsageError(f"{named} is for vector labels, but the labels are {kind}", hint="leave it out")


def _layer_of(labels: Path) -> tuple[Path, str | None]:
    """Split `file.gpkg:layer` into file and layer."""
    file, colon, layer = str(labels).rpartition(":")
    if colon and not labels.exists() and Path(file).is_file():
        return Path(file), layer
    return labels, None


def is_vector(path: Path, what: str = "labels") -> bool:
    """Return whether labels are features and not a raster.

    Args:
        path: the file.
        what: what it holds, for messages.

    Raises:
        DataError: the file is missing, or is neither a raster nor a vector file.
    """
    if not path.exists():
        raise DataError(f"there are no {what} at `{path}`", hint="check the path")
    refuse_unusable_layer(path)
    if is_raster(path):
        return False
    try:
        return len(pyogrio.list_layers(path)) > 0
    except Exception:
        raise DataError(f"`{path}` is neither a raster nor a vector file", hint=_KINDS) from None


def _vector_source(path: Path, layer: str | None, request: TileRequest, option: str = "--labels") -> VectorSource:
    """Find the layer that has the class field.

    Args:
        path: the file.
        layer: a layer that the user names.
        request: what the user asks.
        option: the option that names the file.

    Raises:
        DataError: no layer has geometries, the field or a CRS.
        UsageError: the field is not named, or several layers have it.
    """
    layers = [name for name, kind in pyogrio.list_layers(path).tolist() if kind is not None]
    if not layers:
        raise DataError(f"`{path}` is a table without geometry", hint=_KINDS)
    if layer is not None and layer not in layers:
        raise DataError(f"`{path}` has no layer `{layer}`", hint=f"its layers are: {', '.join(layers)}")
    infos = {name: pyogrio.read_info(path, layer=name) for name in ([layer] if layer is not None else layers)}
    field = request.class_field
    if field is None:
        names = " or ".join(dict.fromkeys(name for info in infos.values() for name in info["fields"]))
        raise UsageError(
            f"`{path}` holds features, so the field of their classes is needed", hint=f"--class-field {names}"
        )
    found = [name for name, info in infos.items() if field in info["fields"]]
    if not found:
        known = [
            ", ".join(info["fields"]) + (f" (layer {name})" if len(infos) > 1 else "") for name, info in infos.items()
        ]
        raise DataError(f"`{path}` has no field `{field}`", hint=f"its fields are: {'; '.join(known)}")
    if len(found) > 1:
        raise UsageError(
            f"several layers of `{path}` have a field `{field}`",
            hint="name the layer: " + " or ".join(f"{option} {path}:{name}" for name in found),
        )
    if infos[found[0]]["crs"] is None:
        raise DataError(
            f"`{path}` has no coordinate reference system, so its features cannot be placed on the scene",
            hint=f"if you know it: ogr2ogr -a_srs EPSG:<code> placed.gpkg {path}",
        )
    return VectorSource(
        path=path,
        layer=found[0],
        class_field=field,
        where=request.where,
        all_touched=request.all_touched,
        buffer_m=request.label_buffer_m,
    )


def _priority(wanted: tuple[str, ...], table: LabelTable) -> tuple[int, ...]:
    """Return the class codes of names or codes.

    Raises:
        UsageError: one is not in the class table, or is named twice.
    """
    codes = field_codes(table) | {str(code): code for code in table.taxonomy.codes}
    codes |= {entry.name: entry.code for entry in table.taxonomy.classes}
    for name in wanted:
        if codes.get(name, -1) < 0:
            raise UsageError(f"--priority `{name}` is no class", hint=f"classes: {', '.join(table.taxonomy.names)}")
    found = tuple(codes[name] for name in wanted)
    if len(set(found)) < len(found):
        raise UsageError(f"--priority {','.join(wanted)} names a class twice", hint="name each class once")
    return found
