"""Look at scenes and decide how to map them.

Each scene is opened once: it is compared with the model and fingerprinted, and the work is cut so that it fits in
memory.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.dataset.fit import find_doubts, find_misfits, find_shifts
from cwsam_cli.dataset.radiometry import NO_VALUES, own_bands, sample
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.predict.layers import MapLayers
from cwsam_cli.predict.memory import MosaicNeeds, Needs, activation_bytes, cut, free_memory, weight_bytes
from cwsam_cli.predict.plan import MapPlan, PlacedScene
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Model
from cwsam_cli.predict.scoring.scorer import AUGMENTATIONS
from cwsam_cli.predict.windows import MARGIN, count_readers
from cwsam_cli.raster.grid import Grid, join
from cwsam_cli.raster.lattice import Lattice, cuts
from cwsam_cli.raster.mapfile import BLOCK
from cwsam_cli.raster.place import refuse_enormous
from cwsam_cli.raster.scene import Scene, open_raster, open_scene
from cwsam_cli.raster.sources.catalog import date_of
from cwsam_cli.raster.sources.fingerprint import fingerprint, fingerprint_of_file
from cwsam_cli.raster.sources.network import GDAL_CACHE, gdal_settings
from cwsam_cli.vector.area import AreaElsewhere, read_area

_MEMORY = 4_000_000_000  # bytes in addition to the program and the weights, unless --max-memory says otherwise
_ONCE = {"fp32": 64 << 20, "bf16": 384 << 20}  # bytes that passes leave behind: threads, kernels
_RUNTIME = 1 << 30  # bytes of main memory that an accelerator's libraries take
_HIGH_BLOCKS = 1 << 30  # bytes of cache for them, at most


class ScenesDiffer(DataError):
    """The scenes of a mosaic have other CRSs or pixels, so their scores cannot be blended."""


def make_plan(request: MapRequest, model: Model) -> MapPlan:
    """Look at a scene, or at the scenes of a mosaic, and decide how to map them.

    Raises:
        DataError: a scene does not suit the model.
        ScenesDiffer: the scenes of a mosaic have other CRSs or pixels.
        MachineError: the memory that may be used is not enough.
    """
    return plan_mosaic(request, model) if request.scenes else plan_scene(request, model)[0]


def plan_scene(request: MapRequest, model: Model) -> tuple[MapPlan, Needs]:
    """Look at a scene and decide how to map it.

    Returns:
        The plan, and what takes memory.

    Raises:
        CwsamError: see `make_plan`.
    """
    trained = model.trained
    pixel_m = trained.gsd_m if request.resample_to_model else None
    if request.resample_to_model and pixel_m is None:
        raise UsageError("--resample-to-model: the model does not know its pixel size", hint="leave it out")
    groups = model.expert_groups(request)
    calibration = trained.calibration
    if request.set_size and not (calibration and calibration.thresholds):
        raise UsageError(
            f"--set-size: `{request.checkpoint}` has no thresholds for sets of classes",
            hint="fit them first: cwsam eval -c MODEL --data DATASET --conformal 0.9 -o sets.pth",
        )
    layers = MapLayers(
        trained.taxonomy,
        request.kinds,
        request.min_confidence,
        groups,
        temperature=calibration.temperature if calibration else 1.0,
        thresholds=calibration.thresholds if calibration else (),
    )
    with (
        warnings.catch_warnings(),
        rasterio.Env(**gdal_settings(request.scene)),
        open_scene(
            request.scene,
            wanted_bands=[band.name for band in trained.bands],
            chosen_bands=request.bands,
            alpha=request.alpha,
            pixel_m=pixel_m,
        ) as scene,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        values, than = sample(scene), "the model was trained on"
        bands = trained.bands if request.normalize == "training" else own_bands(values, trained.bands)
        remarks = [
            *find_doubts(scene, [band.name for band in bands], bands_chosen=bool(request.bands)),
            *find_shifts(scene, values, bands, than=than, advice="compare the map with that of --normalize scene"),
            *find_misfits(
                scene,
                values,
                bands,
                trained.dtype,
                trained.gsd_m,
                than=than,
                advice="--resample-to-model makes a better map",
            ),
        ]
        if request.normalize == "scene" and not values.size:
            remarks.append(NO_VALUES % request.scene)
        north = scene.north_up
        if request.aoi:
            read_area(request.aoi, north)
        shown = north.within(request.bounds) if request.bounds else Window(0, 0, north.width, north.height)
        refuse_enormous(shown.width, shown.height, request.scene, "a part: --bounds; ")
        size = trained.architecture.inp_size
        lattice = Lattice.over(north.width, north.height, size, int(size * request.overlap), MARGIN)
        gdal_cache, needs = _needs(scene, model, request, layers, lattice)
        waiting = model.program_bytes if request.gpus > 1 else 0
        own = _MEMORY + model.program_bytes + weight_bytes(trained)
        limit = request.max_memory or own * request.gpus + waiting
        room = 0 if model.device.type == "cpu" else request.gpu_memory or free_memory(model.device)
        width, batch = cut(needs, int(shown.width), request, limit=limit, waiting=waiting, room=room)
        plan = MapPlan(
            request=request,
            scene_fingerprint=fingerprint(request.scene, scene.original or scene.dataset, whole=request.verify),
            checkpoint_sha256=model.digest,
            area_fingerprint=fingerprint_of_file(request.aoi, whole=request.verify) if request.aoi else None,
            device=model.device.type,
            precision=model.precision,
            is_shared=model.is_shared,
            bands=bands,
            pixel_m=pixel_m,
            grid=scene.grid.part(scene.mirrored(shown) if scene.is_south_up else shown),
            is_south_up=scene.is_south_up,
            lattice=lattice,
            shown=shown,
            row_cuts=cuts(int(shown.row_off), int(shown.height), BLOCK, from_end=scene.is_south_up),
            col_cuts=cuts(int(shown.col_off), int(shown.width), width),
            layers=layers,
            batch=batch,
            group=needs.group(width, batch),
            gdal_cache=gdal_cache,
            memory=needs.bytes(width, batch),
            waiting_memory=waiting,
            memory_limit=limit,
            device_memory=needs.device_bytes(width, batch),
            device_limit=room,
            warnings=tuple(remarks),
            date=date_of(request.scene) if request.stac else "",
            calibration=calibration.as_text() if calibration else "",
        )
    return plan, needs


def plan_mosaic(request: MapRequest, model: Model) -> MapPlan:
    """Look at overlapping scenes and decide how their scores become one map.

    Raises:
        CwsamError: see `make_plan`.
    """
    alone = replace(request, scenes=(), bounds=None, aoi=None)
    planned = [
        plan_scene(replace(alone, scene=scene), model)
        for scene in track(request.scenes, "looking at scenes", unit="scene")
    ]
    first = planned[0][0]
    grids = [plan.grid.flipped if plan.is_south_up else plan.grid for plan, _ in planned]
    joined = join(grids)
    if joined is None:
        raise ScenesDiffer(
            "the scenes do not share CRS, pixel size and pixel edges",
            hint="map them without --mosaic, and join the maps: cwsam mosaic",
        )
    grid, places = joined
    shown = grid.within(request.bounds) if request.bounds else Window(0, 0, grid.width, grid.height)
    refuse_enormous(int(shown.width), int(shown.height), "the mosaic", "a part: --bounds; ")
    area = read_area(request.aoi, grid, raster="the scenes") if request.aoi else None
    size = first.lattice.size
    lattice = Lattice.over(grid.width, grid.height, size, int(size * request.overlap), MARGIN)
    found: list[tuple[PlacedScene, Needs]] = []
    for (plan, needs), (col, row) in zip(planned, places, strict=True):
        placed = PlacedScene(
            scene=plan.request.scene,
            fingerprint=plan.scene_fingerprint,
            bands=plan.bands,
            col=col,
            row=row,
            lattice=lattice.of_part(col, row, plan.lattice.width, plan.lattice.height),
            shown=plan.shown,
        )
        part = placed.within(shown)
        if part is not None and (area is None or area.touches(moved(part, col, row))):
            found.append((replace(placed, shown=part), replace(needs, lattice=placed.lattice)))
    if not found:
        raise DataError(
            "no scene has a pixel in the part of the mosaic that is to be mapped",
            hint="check --bounds and --aoi: there are gaps between the scenes",
        )
    found.sort(key=lambda item: (item[0].row, item[0].col, item[0].fingerprint))
    scenes = tuple(placed for placed, _ in found)
    dates = {plan.request.scene: plan.date for plan, _ in planned}
    least = found[0][1]
    needs = MosaicNeeds(
        **{each.name: getattr(least, each.name) for each in fields(least)} | {"lattice": lattice},
        places=tuple((moved(placed.shown, placed.col, placed.row), own) for placed, own in found),
        left=int(shown.col_off),
    )
    width, batch = cut(
        needs,
        int(shown.width),
        request,
        limit=first.memory_limit,
        waiting=first.waiting_memory,
        room=first.device_limit,
    )
    # Scenes beside the part that is shown are not in it, but the lattice depends on the size of the whole mosaic.
    described = [grid.width, grid.height, *((placed.fingerprint, placed.col, placed.row) for placed in scenes)]
    return replace(
        first,
        request=request,
        scene_fingerprint=hashlib.sha256(json.dumps(described).encode()).hexdigest(),
        area_fingerprint=fingerprint_of_file(request.aoi, whole=request.verify) if request.aoi else None,
        grid=grid.part(shown),
        is_south_up=False,
        lattice=lattice,
        shown=shown,
        row_cuts=cuts(int(shown.row_off), int(shown.height), BLOCK),
        col_cuts=cuts(int(shown.col_off), int(shown.width), width),
        batch=batch,
        group=1,
        gdal_cache=max(plan.gdal_cache for plan, _ in planned),
        memory=needs.bytes(width, batch),
        device_memory=needs.device_bytes(width, batch),
        date=max(dates[placed.scene] for placed in scenes),
        warnings=tuple(dict.fromkeys(text for plan, _ in planned for text in plan.warnings)),
        scenes=scenes,
    )


def scenes_on(area: Path, scenes: Sequence[str]) -> list[str]:
    """Return the scenes that polygons touch.

    Raises:
        DataError: there are none.
    """
    kept = []
    for scene in scenes:
        try:
            with rasterio.Env(**gdal_settings(scene)), open_raster(scene) as dataset:
                read_area(area, Grid.of(dataset))
        except AreaElsewhere:
            continue
        kept.append(scene)
    if not kept:
        raise DataError(f"no polygon of `{area}` lies on a scene", hint="check that both show the same ground")
    return kept


def moved(window: Window, columns: int, rows: int) -> Window:
    """Return a window of equal size elsewhere."""
    return Window(window.col_off + columns, window.row_off + rows, window.width, window.height)


def _needs(scene: Scene, model: Model, request: MapRequest, layers: MapLayers, lattice: Lattice) -> tuple[int, Needs]:
    """Bytes of GDAL's cache, and what takes memory."""
    on_cpu, arch = model.device.type == "cpu", model.trained.architecture
    height = int(scene.dataset.block_shapes[0][0])
    image_bytes = np.dtype(scene.dtype).itemsize
    row_of_blocks = height * scene.grid.width * len(scene.bands) * image_bytes
    # Blocks too high to hold as rows of pixels are held as blocks, or each would be decoded for every row of windows.
    high = height > max(512, arch.inp_size)
    readers = count_readers(model.device, request.gpus)
    cache = GDAL_CACHE * readers + (min(row_of_blocks * 5 // 4, _HIGH_BLOCKS) if high else 0)
    weights = weight_bytes(model.trained)
    return cache, Needs(
        lattice=lattice,
        fixed=model.program_bytes + cache + (weights + _ONCE[model.precision] if on_cpu else _RUNTIME),
        device_fixed=None if on_cpu else weights // (request.gpus if model.is_shared else 1),
        model=activation_bytes(arch, views=len(AUGMENTATIONS[request.tta])),
        bands=len(scene.bands),
        image_bytes=image_bytes,
        classes=len(layers.taxonomy) + layers.expert_groups,
        layers=layers.count,
        block_height=height,
    )
