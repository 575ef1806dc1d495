"""Scenes and labels → a dataset: request → plan → work."""

import json
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import NAME, SPLITS, Manifest, RunningStats, refuse_other_dataset, write_manifest
from cwsam_cli.files import refuse_existing, reserved, staged
from cwsam_cli.raster.scene import GDAL_CACHE
from cwsam_cli.taxonomy import IGNORE, Taxonomy
from cwsam_cli.tile.labels import NO_LABEL
from cwsam_cli.tile.plan import TilePlan, make_plan
from cwsam_cli.tile.preview import draw_preview
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import Inputs, each_opened, inspect_inputs
from cwsam_cli.tile.tiles import Pixels, WrittenTile, tile_name, write_index, write_pair


def tile_scenes(request: TileRequest) -> Manifest:
    """Cut scenes and their labels into a dataset.

    Raises:
        DataError: a scene or the labels cannot be used.
        UsageError: the output exists and may not be replaced.
        MachineError: a file could not be written whole, or another process is writing the output.
    """
    refuse_existing(request.output, overwrite=request.overwrite, marker=NAME)
    refuse_other_dataset(request.output)
    for path in (request.overlaps_to, request.preview):
        if path is not None:
            refuse_existing(path, overwrite=request.overwrite)
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
            manifest = _write(plan, inputs, folder)
        if request.preview is not None:
            draw_preview(plan.output, manifest, request.preview, overwrite=request.overwrite)
        return manifest


def _write(plan: TilePlan, inputs: Inputs, folder: Path) -> Manifest:
    """Write the dataset.

    Args:
        plan: the tiles.
        inputs: the class table of the labels.
        folder: where the dataset is written.
    """
    for kind in ("images", "labels"):
        for split in SPLITS:
            (folder / kind / split).mkdir(parents=True)
    statistics = RunningStats()
    taxonomy = plan.taxonomy
    to_index = np.frombuffer(taxonomy.code_to_index(), np.uint8)
    written = []
    pixels = {split: np.zeros(len(taxonomy), np.int64) for split in SPLITS}
    left_out = Counter(plan.left_out)
    work = [(plan.scenes[tile.scene], tile) for tile in plan.tiles]
    for opened, tile in each_opened(work, inputs.table, "writing tiles", "tile"):
        codes = opened.codes(tile.window)
        above, beside = tile.unlabelled
        codes[:above] = codes[:, :beside] = NO_LABEL
        codes[(codes == NO_LABEL) | np.isin(codes, taxonomy.unlabelled)] = IGNORE
        index = to_index[codes]
        labelled = _count(index, taxonomy)
        share = float(labelled.sum() / (tile.height * tile.width))
        if reason := plan.selection.why_not(share):
            left_out[reason] += 1
            continue
        image, valid = opened.scene.read(tile.window)
        if reason := plan.selection.why_not(share, float(valid.mean())):
            left_out[reason] += 1
            continue
        above, beside = tile.shared
        pixels[tile.split] += _count(index[above:, beside:], taxonomy)
        if tile.split == "train":
            statistics.add(image[:, above:, beside:], valid[above:, beside:])
        name = tile_name(plan.scenes[tile.scene], tile)
        own = Pixels(image, valid, codes.astype(np.uint8))
        write_pair(Path(tile.split, f"{name}.tif"), tile.window, opened.scene, own, taxonomy, folder, plan.size)
        written.append(WrittenTile(tile, name, float(valid.mean()), labelled))
    first = plan.scenes[0]
    manifest = Manifest(
        taxonomy=taxonomy,
        bands=statistics.bands(first.band_names),
        dtype=first.dtype,
        gsd_m=plan.scenes[plan.tiles[0].scene].grid.gsd_m,
        tiles={split: sum(tile.planned.split == split for tile in written) for split in SPLITS},
        pixels={split: counts.tolist() for split, counts in pixels.items()},
        left_out=dict(left_out),
        split=plan.rule,
        command=plan.command,
    )
    write_index(plan.scenes, written, taxonomy, folder)
    write_manifest(folder, manifest)
    return manifest


def _count(index: NDArray[np.uint8], taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Return the number of labelled pixels by class index (K,)."""
    return np.bincount(index[index != IGNORE], minlength=len(taxonomy))
