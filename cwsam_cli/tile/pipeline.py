"""Scenes and labels → a dataset: request → plan → work."""

import json
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import NAME, SPLITS, Manifest, refuse_other_dataset, write_manifest
from cwsam_cli.dataset.statistics import RunningStats, class_weights
from cwsam_cli.files import refuse_existing, reserved, staged
from cwsam_cli.raster.scene import GDAL_CACHE
from cwsam_cli.tile.plan import TilePlan, make_plan
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import Inputs, inspect_inputs
from cwsam_cli.tile.tiles import WrittenTile, write_index
from cwsam_cli.tile.work import WrittenPart, cut_parts, writing_parts
from cwsam_cli.tile.workers import in_order


def tile_scenes(request: TileRequest) -> Manifest:
    """Cut scenes and their labels into a dataset.

    Raises:
        DataError: a scene or the labels cannot be used.
        UsageError: the output exists and may not be replaced.
        MachineError: a file could not be written whole, or another process is writing the output.
    """
    refuse_existing(request.output, overwrite=request.overwrite, marker=NAME)
    refuse_other_dataset(request.output)
    if request.overlaps_to is not None:
        refuse_existing(request.overlaps_to, overwrite=request.overwrite)
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.filterwarnings("ignore", message="'crs' was not provided")  # `inspect_inputs` warns once about both
        inputs = inspect_inputs(request)
        plan = make_plan(request, inputs)
        log.debug("plan: %s", json.dumps(asdict(plan), default=str, ensure_ascii=False))
        with (
            reserved(plan.output),
            staged(plan.output, overwrite=plan.overwrite, marker=NAME) as folder,
        ):
            return _write(plan, inputs, folder)


def _write(plan: TilePlan, inputs: Inputs, folder: Path) -> Manifest:
    """Write the dataset.

    Args:
        plan: the tiles.
        inputs: the labels' polygons, which would take long to read again.
        folder: where the dataset is written.
    """
    for kind in ("images", "labels"):
        for split in SPLITS:
            (folder / kind / split).mkdir(parents=True)
    statistics = RunningStats()
    pixels = np.zeros((len(SPLITS), len(plan.taxonomy)), np.int64)
    tiles: list[WrittenTile] = []
    for raw in in_order(partial(writing_parts, plan, inputs, folder), cut_parts(plan), plan.workers, "writing tiles"):
        part = WrittenPart.from_bytes(raw)
        statistics.merge(part.statistics)
        pixels += part.pixels
        tiles += part.tiles(plan)
    first = plan.scenes[0]
    by_split = dict(zip(SPLITS, pixels.tolist(), strict=True))
    manifest = Manifest(
        taxonomy=plan.taxonomy,
        bands=statistics.bands(first.band_names),
        dtype=first.dtype,
        gsd_m=plan.scenes[plan.tiles[0].scene].grid.gsd_m,
        tiles={split: sum(tile.planned.split == split for tile in tiles) for split in SPLITS},
        pixels=by_split,
        weights=class_weights(by_split["train"]),
        command=plan.command,
    )
    write_index(plan.scenes, tiles, plan.taxonomy, folder)
    write_manifest(folder, manifest)
    return manifest
