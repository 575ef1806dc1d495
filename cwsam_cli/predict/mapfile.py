"""The files of a map: which of them a run may replace, and how finished pieces become GeoTIFFs that explain themselves.

Maps, their layers and previews carry the digest of their plan. So a repeated run recognises them, and files without a
digest, or with another one, are replaced only on request.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetWriter

from cwsam_cli import __version__
from cwsam_cli.errors import OutputExists
from cwsam_cli.files import refuse_existing
from cwsam_cli.predict.layers import MapLayers
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.raster.mapfile import COG_CREATION, GTIFF_CREATION, KINDS, MODEL_TAG, Tally, beside
from cwsam_cli.raster.quicklook import draw_map, read_text
from cwsam_cli.raster.scene import FAILED, open_raster, reading, verify_written, writing
from cwsam_cli.raster.sources.catalog import KEY as ITEM_KEY
from cwsam_cli.raster.sources.catalog import (
    ItemSource,
    addresses,
    class_entry,
    describe_file,
    item_path,
    make_item,
    read_own,
    write_json,
)
from cwsam_cli.raster.sources.network import gdal_settings, stored_name
from cwsam_cli.raster.sources.vsi import read_headers, remove
from cwsam_cli.raster.style import tag_classes, write_sidecar, write_style
from cwsam_cli.taxonomy import IGNORE, from_names

KEY = "CWSAM_KEY"


def is_made(plan: MapPlan) -> bool:
    """Whether the map is there already, with all its layers, or is in the object store that it goes to.

    With `overwrite` it is made again, unless other parts may just have completed it, or its upload failed.

    Raises:
        OutputExists: another map is there, and the request does not say that it may be replaced.
    """
    request, output = plan.request, plan.request.target
    if request.upload and not output.exists():
        return _is_uploaded(plan)
    if not output.exists() or (request.overwrite and not request.is_part and not request.upload):
        return False
    if _read_tags(output).get(KEY) != plan.digest:
        if request.overwrite:
            return False
        raise OutputExists(output)
    return all(beside(output, kind).exists() for kind in request.kinds)


def _is_uploaded(plan: MapPlan) -> bool:
    request = plan.request
    if request.overwrite and not request.is_part:
        return False
    names = [_address_of(beside(request.target, kind), request) for kind in request.kinds]
    stored = {name: _read_tags(stored_name(name)) for name in (request.upload, *names)}
    other = next((name for name, tags in stored.items() if tags and tags.get(KEY) != plan.digest), None)
    if other is not None:
        raise OutputExists(other)
    return all(stored.values()) and (not request.stac or _has_stored_item(request))


def _address_of(path: Path, request: MapRequest) -> str:
    """Return where a file beside a map goes in the object store."""
    return f"{request.upload.rpartition('/')[0]}/{path.name}"


def _has_stored_item(request: MapRequest) -> bool:
    return bool(read_headers(stored_name(_address_of(item_path(request.target), request))))


def refuse_others(plan: MapPlan) -> None:
    """Stop before files are replaced that this plan did not write.

    Raises:
        UsageError: there is one, and the request does not say that it may be replaced.
    """
    request, output = plan.request, plan.request.target
    for path in [output, *(beside(output, kind) for kind in request.kinds)]:
        if _read_tags(path).get(KEY) != plan.digest:
            refuse_existing(path, overwrite=request.overwrite)
    if request.preview and read_text(request.preview, KEY) != plan.digest:
        refuse_existing(request.preview, overwrite=request.overwrite)
    item = item_path(output)
    if request.stac and item.exists() and not is_item_of(plan):
        refuse_existing(item, overwrite=request.overwrite)
    if request.upload and request.stac and not request.overwrite and _has_stored_item(request):
        raise OutputExists(_address_of(item, request))
    with tempfile.TemporaryDirectory() as folder:  # class names and style carry no digest: their bytes are compared
        write_sidecar(Path(folder) / output.name, plan.layers.taxonomy)
        write_style(Path(folder) / output.name, plan.layers.taxonomy)
        for own in Path(folder).iterdir():
            there = output.with_name(own.name)
            if not (there.is_file() and there.read_bytes() == own.read_bytes()):
                refuse_existing(there, overwrite=request.overwrite)


def is_item_of(plan: MapPlan) -> bool:
    """Whether the STAC item of a map is there."""
    return (read_own(item_path(plan.request.target)).get("properties") or {}).get(ITEM_KEY) == plan.digest


def remove_stale_layers(plan: MapPlan) -> None:
    """Remove layers and the item of an older map, if this plan does not write them: they would seem to be its own."""
    item = item_path(plan.request.target)
    if not plan.request.stac and read_own(item):
        item.unlink()
    for kind in set(KINDS) - set(plan.request.kinds):
        path = beside(plan.request.target, kind)
        if KEY in _read_tags(path):
            path.unlink()


def remove_stale_uploads(plan: MapPlan) -> None:
    """Remove from the store what `remove_stale_layers` removes here, if the map that is there is one of ours."""
    request = plan.request
    if KEY not in _read_tags(stored_name(request.upload)):
        return
    stale = [beside(request.target, kind) for kind in KINDS if kind not in request.kinds]
    stale += [] if request.stac else [item_path(request.target)]
    for path in stale:
        remove(_address_of(path, request))


def _read_tags(path: Path | str) -> Mapping[str, str]:
    """A raster's tags, also in an object store; none where there is no raster."""
    if isinstance(path, Path) and not path.is_file():
        return {}
    try:
        with rasterio.Env(**gdal_settings(str(path))), rasterio.open(path) as dataset:
            tags: dict[str, str] = dataset.tags()
            return tags
    except FAILED:
        return {}


def read_tally(plan: MapPlan) -> Tally:
    """Count a map that is there."""
    request = plan.request
    path = str(request.target if request.target.exists() else stored_name(request.upload))
    tally = Tally(plan.grid)
    with rasterio.Env(**gdal_settings(path)), open_raster(path) as dataset, reading(path):
        for _, window in dataset.block_windows(1):
            tally.add(dataset.read(1, window=window), window)
    return tally


def write_map(target: Path, plan: MapPlan, read: Callable[[int, int, int], bytes], *, scratch: Path) -> Tally:
    """Write a map, its layers and the files that explain it.

    Args:
        target: the map's file; layers go beside it, see `beside`.
        plan: of the map.
        read: returns the bytes of a piece (L, rows, width), by row, column and number of bytes.
        scratch: a folder for the drafts that a COG is made from.

    Returns:
        Pixels and ground by class code.

    Raises:
        MachineError: a file could not be written whole.
    """
    tally, layers, request = Tally(plan.grid), plan.layers, plan.request
    is_cog = request.format == "COG"
    files = {"codes": target} | {kind: beside(target, kind) for kind in layers.kinds}
    drafts = {kind: scratch / f"{kind}.tif" for kind in files} if is_cog else files
    own = {key.lower(): value for key, value in request.creation.items()}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        opened: list[tuple[DatasetWriter, int, int]] = []
        at = 0
        for kind, path in drafts.items():
            bands = 1 if kind == "codes" else layers.bands(kind)
            stack.enter_context(writing(files[kind]))
            dataset = stack.enter_context(_create(path, plan, bands, {} if is_cog else own))
            dataset.update_tags(
                CWSAM_VERSION=__version__,
                CWSAM_COMMAND=request.command,
                CWSAM_SCENE=plan.scene_fingerprint,
                CWSAM_CALIBRATION=plan.calibration,
                CWSAM_NORMALIZATION=plan.normalization,
                **{MODEL_TAG: plan.checkpoint_sha256, KEY: plan.digest},
            )
            _describe(dataset, kind, layers)
            opened.append((dataset, at, at + bands))
            at += bands
        for row, column, window in plan.pieces_in_file():
            shape = (layers.count, *plan.piece_shape(row, column))
            piece = np.frombuffer(read(row, column, math.prod(shape)), np.uint8).reshape(shape)
            piece = piece[:, ::-1] if plan.is_south_up else piece
            tally.add(piece[0], window)
            for dataset, first, last in opened:
                dataset.write(piece[first:last], window=window)
    for kind, path in files.items():
        if is_cog:
            resampling = "mode" if kind in ("codes", "experts", "set_size") else "average"
            with writing(path):
                creation = COG_CREATION | {"overview_resampling": resampling} | own
                rasterio.shutil.copy(drafts[kind], path, driver="COG", **creation)
            drafts[kind].unlink()
        verify_written(path)
    write_sidecar(target, layers.taxonomy)
    write_style(target, layers.taxonomy)
    if request.stac:
        write_item(plan, target)
    if request.preview:
        draw_map(target, layers.taxonomy, request.preview, {KEY: plan.digest})
    return tally


def write_item(plan: MapPlan, target: Path) -> None:
    """Write the STAC item of a map whose files are complete, beside `target`."""
    request, form = plan.request, "image/tiff; application=geotiff"
    form += "; profile=cloud-optimized" if request.format == "COG" else ""
    classes = [
        class_entry(entry.code, entry.name, entry.color, description=entry.name, fallback=f"class_{entry.code}")
        for entry in plan.layers.taxonomy.classes
    ]
    layers = {
        kind: describe_file(beside(target, kind), form, kind.replace("_", " "), ["data"]) for kind in request.kinds
    }
    scenes = [placed.scene for placed in plan.scenes] or [request.scene]  # those that the map shows
    folder = Path() if request.upload else request.target.parent  # where an upload is made says nothing to its readers
    codes = {"data_type": "uint8", "nodata": IGNORE, "classification:classes": classes}
    item = make_item(
        ItemSource(
            name=request.target.stem,
            key=plan.digest,
            description=f"Land cover, {len(classes)} classes",
            grid=plan.grid,
            date=plan.date,
            assets={"map": describe_file(target, form, "class codes", ["data"]) | codes, **layers},
            sources=[each for scene in scenes for each in addresses(scene, folder)],
            collection=request.collection,
        )
    )
    write_json(item_path(target), item)


def _create(path: Path, plan: MapPlan, bands: int, creation: dict[str, Any]) -> DatasetWriter:
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=plan.grid.width,
        height=plan.grid.height,
        count=bands,
        dtype="uint8",
        nodata=IGNORE,
        crs=plan.grid.crs,
        transform=plan.grid.transform,
        **GTIFF_CREATION | creation,
    )


def _describe(dataset: DatasetWriter, kind: str, layers: MapLayers) -> None:
    if kind == "codes":
        tag_classes(dataset, layers.taxonomy)
    elif kind == "probabilities":
        dataset.descriptions = tuple(layers.taxonomy.names)
    else:
        dataset.descriptions = (kind,)
    if kind == "experts":
        tag_classes(dataset, from_names([f"group {group}" for group in range(layers.expert_groups)]))
    elif kind not in ("codes", "set_size"):
        dataset.units = ("%",) * dataset.count
