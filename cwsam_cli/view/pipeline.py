"""Make the page of `cwsam view`: find out what each file is, prepare its layer, and serve or write them all."""

import json
import shutil
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rasterio.crs import CRS

from cwsam_cli import __version__
from cwsam_cli.console import loading, log
from cwsam_cli.errors import DataError
from cwsam_cli.files import staged
from cwsam_cli.maps.regions import is_raster
from cwsam_cli.raster.mapfile import beside
from cwsam_cli.raster.sources.network import is_plain_file
from cwsam_cli.view.compare import share_legend
from cwsam_cli.view.features import FeatureSource, inspect_features, prepare_features
from cwsam_cli.view.frame import Frame
from cwsam_cli.view.rasters import RasterSource, inspect_raster, kind_of, prepare_classes, prepare_image
from cwsam_cli.view.request import LAYERS_JSON, Layer, ViewRequest
from cwsam_cli.view.server import PageServer

ASSETS = Path(__file__).with_name("assets")
"""Folder of the page; `make viewer` builds its script from `page/`."""

Source = RasterSource | FeatureSource


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is ready to be served."""

    files: dict[str, Path]
    """Every file by its address relative to the page."""


def view(request: ViewRequest, *, opens_browser: bool, tell: Callable[[str], None]) -> None:
    """Serve the page until the user presses Ctrl-C, or write it to a folder.

    Args:
        request: the files.
        opens_browser: whether the browser is opened.
        tell: receives the page's address, or the folder.

    Raises:
        DataError: a file cannot be shown.
    """
    if request.export is not None:
        export(request, request.export)
        tell(f"{request.export}: put this folder on a web server that has range requests")
        return
    with tempfile.TemporaryDirectory(prefix="cwsam-view-") as name:
        page = make_page(request, Path(name))
        with PageServer(page.files) as server:
            tell(server.address)
            if opens_browser:  # in a thread, because a browser in the terminal ends only after it had the page
                threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                log.info("stopped")


def export(request: ViewRequest, target: Path) -> None:
    """Write the page and its files to a folder."""
    with (
        staged(target, overwrite=request.overwrite, marker=LAYERS_JSON) as folder,
        tempfile.TemporaryDirectory() as name,
    ):
        page = make_page(request, Path(name))
        for address, file in page.files.items():
            if address:
                copy = folder / address
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def make_page(request: ViewRequest, folder: Path) -> Page:
    """Prepare all layers.

    Args:
        request: the files.
        folder: where files are written that the page needs.

    Raises:
        DataError: a file is missing, is neither a raster nor a vector file, or has no place beside the others; or fewer
            than two maps are to be compared.
    """
    sources = sorted((source for path in request.paths for source in _inspect(path, request.paths)), key=_level)
    maps = [
        number for number, source in enumerate(sources) if isinstance(source, RasterSource) and source.holds_classes
    ]
    if request.compare and len(maps) < 2:
        found = f"only `{sources[maps[0]].name}` is one" if maps else "none of the files is one"
        raise DataError(f"--compare needs two class maps, and {found}", hint="name two maps")
    frame = Frame(_common_crs(sources))
    layers: list[Layer] = []
    with loading("layers"):
        for number, source in enumerate(sources):
            place = folder / str(number)
            place.mkdir()
            layers.append(_prepare(source, frame, place, layers))
    if request.compare:
        layers = share_legend(layers, maps)
    tables = list(dict.fromkeys(layer.classes for layer in layers if layer.classes or layer.kind == "classes"))
    files = {name: ASSETS / name for name in ("index.html", "viewer.js", "viewer.css", "licenses.txt")}
    told = []
    for number, layer in enumerate(layers):
        address = f"data/{number}{layer.file.suffix.lower()}"
        files[address] = layer.file
        told.append(layer.as_dict(address, tables.index(layer.classes) if layer.classes in tables else None))
    extents = [layer.extent for layer in layers if layer.extent is not None]
    if not extents:
        raise DataError(f"`{request.paths[0]}` has no features", hint="give a raster or a layer with features")
    west, south, east, north = zip(*extents, strict=True)
    extent = (min(west), min(south), max(east), max(north))
    finest = min((layer.finest for layer in layers if layer.finest is not None), default=(extent[2] - extent[0]) / 4096)
    described = {
        "version": __version__,
        "title": next((layer.name for layer in layers if layer.kind == "classes"), layers[0].name),
        "crs": frame.describe(extent),
        "extent": extent,
        "finest": finest,
        "tables": [{"classes": [asdict(entry) for entry in table]} for table in tables],
        "layers": told,
        "compare": maps[:2] if request.compare else [],
    }
    files[LAYERS_JSON] = folder / LAYERS_JSON
    files[LAYERS_JSON].write_text(json.dumps(described, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return Page(files | {"": files["index.html"]})


def _level(source: Source) -> int:
    """Images are the lowest layers and features the highest; others keep the order of the command line."""
    return 2 if isinstance(source, FeatureSource) else int(source.holds_classes)


def _inspect(path: str, named: Sequence[str]) -> Iterator[Source]:
    """Yield the layers of a file. A map comes with the layer of confidence beside it, if there is one."""
    if is_plain_file(path) and not is_raster(Path(path)):
        yield from inspect_features(Path(path))
        return
    source = inspect_raster(path)
    if source.holds_classes and is_plain_file(path):
        confidence = beside(Path(path), "confidence")
        if confidence.is_file() and str(confidence) not in named:
            yield inspect_raster(str(confidence))
    yield source


def _common_crs(sources: list[Source]) -> CRS | None:
    rasters = [source for source in sources if isinstance(source, RasterSource)]
    leading = next((source for source in rasters if source.holds_classes), next(iter(rasters), None))
    if leading is not None:
        return leading.grid.crs
    (first, *_) = (source for source in sources if isinstance(source, FeatureSource))
    return CRS.from_wkt(first.crs.to_wkt()) if first.crs is not None else None


def _prepare(source: Source, frame: Frame, folder: Path, earlier: list[Layer]) -> Layer:
    if isinstance(source, FeatureSource):
        known = next((layer.classes for layer in earlier if layer.kind == "classes"), ())
        return prepare_features(source, frame, folder, known)
    if source.holds_classes:
        return prepare_classes(source, frame, folder)
    return prepare_image(source, frame, folder, visible=kind_of(source.path) == "")
