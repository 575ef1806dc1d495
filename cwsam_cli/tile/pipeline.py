"""Scenes and labels → a dataset: request → plan → work."""

import hashlib
import json
import logging
import os
import shutil
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from cwsam_cli import __version__
from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import NAME, SPLITS, Manifest, refuse_other_dataset, write_manifest
from cwsam_cli.dataset.statistics import RunningStats, class_weights
from cwsam_cli.distributed.scheduler import Workers, connect, count_cores
from cwsam_cli.errors import DataError, MachineError
from cwsam_cli.files import refuse_existing, refuse_unnamed, sha256, staged
from cwsam_cli.journal import journal
from cwsam_cli.raster.scene import GDAL_CACHE
from cwsam_cli.raster.sources.fingerprint import Stamps, fingerprint_of_file
from cwsam_cli.taxonomy import LabelTable
from cwsam_cli.tile.append.replacement import STATE, link_files, replace_dataset, restore
from cwsam_cli.tile.append.state import Earlier, extend_manifest, read_earlier, refuse_other_bands, write_state
from cwsam_cli.tile.footprints import PlacedScene, PlannedTile, draw_footprints
from cwsam_cli.tile.plan import TilePlan, make_plan
from cwsam_cli.tile.preview import draw_preview
from cwsam_cli.tile.repair import repair
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import Inputs, inspect_inputs, new_scenes
from cwsam_cli.tile.selection import REASONS
from cwsam_cli.tile.split.blocks import choose_block_size, cut_blocks
from cwsam_cli.tile.split.buffer import near_folds
from cwsam_cli.tile.split.earlier import EarlierGround
from cwsam_cli.tile.split.rare import lost_classes
from cwsam_cli.tile.summary import left_out_text
from cwsam_cli.tile.tiles import WrittenTile, write_index
from cwsam_cli.tile.work import WrittenPart, cut_parts, writing_parts
from cwsam_cli.tile.workers import in_order

_SMALLEST = 8
"""Pixels per side of the smallest tile that a warning recommends."""
_BLOCKS_PER_SPLIT = 3
"""Fewest blocks per split that a warning counts as enough, because not every block has labels."""


def tile_scenes(request: TileRequest) -> Manifest:
    """Cut scenes and their labels into a dataset.

    Raises:
        DataError: a scene or the labels cannot be used, no tile is left, or scenes cannot be added to the dataset.
        UsageError: the output exists and may not be replaced.
        MachineError: a file could not be written whole, or another process is writing the output.
    """
    # Keep the link and replace the folder that it points to.
    if request.append or (request.output.is_symlink() and request.output.is_dir()):
        request = replace(request, output=request.output.resolve())
    if request.scheduler:
        request = request.for_workers()
    refuse_unnamed(request.output)
    restore(request.output)
    earlier = read_earlier(request.output) if request.append else None
    if earlier is None:
        refuse_existing(request.output, overwrite=request.overwrite, marker=NAME)
        refuse_other_dataset(request.output)
    for path in (request.overlaps_to, request.preview):
        if path is not None:
            refuse_existing(path, overwrite=request.overwrite)
    _keep_freed_memory()
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.filterwarnings("ignore", message="'crs' was not provided")  # `inspect_inputs` warns once about both
        if earlier is not None:
            request = replace(request, scenes=new_scenes(request, earlier.ground.scenes))
            if not request.scenes:
                return earlier.manifest
        ground = earlier.ground if earlier is not None else EarlierGround()
        inputs = inspect_inputs(request, ground.scenes, earlier.table if earlier is not None else None)
        if earlier is not None:
            refuse_other_bands(inputs.scenes[0], earlier)
        stamps = _stamps(inputs)
        with _open_workers(request) as workers:
            plan = make_plan(request, inputs, ground, workers)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("plan: %s", json.dumps(asdict(plan), default=str, ensure_ascii=False))
            manifest = _write(plan, inputs, earlier, workers, stamps)
    shares = dict(zip(SPLITS, request.shares, strict=True))
    wanted = [split for split, share in shares.items() if share and not (request.folds and split == "val")]
    for text in lost_classes(manifest, plan.units, wanted):
        log.warning("%s", text)
    wanted = wanted if request.split_by == "block" else []
    missing = [split for split in wanted if not manifest.tiles[split]]
    planned = {tile.split for tile in plan.tiles}
    emptied = [split for split in missing if split in planned]
    if emptied:
        log.warning("the dataset has no tiles for %s: %s", " and ".join(emptied), left_out_text(manifest.left_out))
    _warn_of_missing(plan, [split for split in missing if split not in planned], len(wanted))
    if request.preview is not None:
        draw_preview(plan.output, manifest, request.preview, overwrite=request.overwrite)
    return manifest


def _open_workers(request: TileRequest) -> AbstractContextManager[int | Workers]:
    if not request.scheduler:
        return nullcontext(request.workers)
    return connect(request.scheduler, processes=request.workers if request.workers > 1 else count_cores())


def _keep_freed_memory() -> None:
    """Make the C library reuse the memory of arrays instead of returning it to the system.

    glibc returns freed blocks that are larger than any block freed before, up to 32 MiB. Arrays of tiles are then
    mapped and cleared by the system thousands of times, which takes a tenth of the CPU time.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)


def _warn_of_missing(plan: TilePlan, missing: list[str], splits: int) -> None:
    """Say that a split has no tile, and which smaller tiles would give some."""
    if not missing:
        return
    hint, size = "more scenes would give some", plan.size // 2
    grids = [scene.grid for scene in plan.scenes]
    while size >= _SMALLEST:
        side = choose_block_size(grids, size)
        keys = {block.key for scene in plan.scenes for block in cut_blocks(scene.grid, side, size, scene.name)}
        if len(keys) >= _BLOCKS_PER_SPLIT * splits:
            hint = f"--size {size} would divide the ground into {len(keys)} blocks and give some"
            break
        size //= 2
    log.warning(
        "the dataset has no tiles for %s: the ground is too small for tiles of %d pixels; %s",
        " and ".join(missing),
        plan.size,
        hint,
    )


def _stamps(inputs: Inputs) -> Stamps:
    """Note when the scenes, their labels and corrections were changed."""
    labels = {path for scene in inputs.scenes for path in scene.labels.paths}
    corrections = {scene.corrections.path for scene in inputs.scenes if scene.corrections}
    return Stamps.of((*(scene.path for scene in inputs.scenes), *sorted(labels | corrections)))


def _write(plan: TilePlan, inputs: Inputs, earlier: Earlier | None, workers: int | Workers, stamps: Stamps) -> Manifest:
    """Write the dataset, or the parts of it that an interrupted run has not written.

    Raises:
        DataError: a scene or a file of labels was changed since it was inspected.
    """
    parts = cut_parts(plan)
    statistics = RunningStats()
    pixels = np.zeros((len(SPLITS), len(plan.taxonomy)), np.int64)
    left_out = Counter(plan.left_out)
    written: dict[int, WrittenTile] = {}
    with journal(plan.output, _key(plan, inputs, earlier), {}) as progress:
        if earlier is not None and sha256(plan.output / STATE) != earlier.digest:
            raise MachineError(f"another process has changed `{plan.output}`", hint="give the same command again")
        folder = progress.folder / "files"
        if not (progress.pieces and folder.is_dir()):
            progress.clear()
            shutil.rmtree(folder, ignore_errors=True)
        for kind in ("images", "labels"):
            for split in SPLITS:
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
        missing = [number for number in range(len(parts)) if (number, 0) not in progress.pieces]
        work = in_order(
            partial(writing_parts, plan, inputs, folder),
            [parts[number] for number in missing],
            workers,
            "writing tiles",
        )
        with progress.appending() as append, closing(work):
            for number, raw in zip(missing, work, strict=True):
                append(number, 0, raw)
        for number in range(len(parts)):
            try:
                part = WrittenPart.from_bytes(progress.read(number, 0))
                whole = set(range(parts[number].start, parts[number].stop))
                is_own = whole >= set(part.numbers.tolist()) and part.pixels.shape == pixels.shape
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
                is_own = False
            if not is_own:
                raise progress.foreign_piece()
            statistics.merge(part.statistics)
            pixels += part.pixels
            left_out.update(dict(zip(REASONS, part.left_out.tolist(), strict=True)))
            written |= zip(part.numbers.tolist(), part.tiles(plan), strict=True)
        repaired = repair(plan, inputs, folder, written)
        stamps.refuse_changed()
        statistics.merge(repaired.statistics)
        pixels += repaired.pixels
        for reason, count in repaired.left_out:
            left_out[reason] += count
        tiles = [repaired.tiles[number] for number in sorted(repaired.tiles)]
        if not tiles:
            progress.clear()
            hint = "choose a smaller --min-labelled or --min-valid, or labels where the scenes have data"
            if earlier is not None and not plan.tiles:
                hint = "add scenes with ground beyond the buffer of the tiles of other splits, which stay as they are"
            raise DataError(
                f"the dataset would have no {'new ' if earlier is not None else ''}tile; {left_out_text(left_out)}",
                hint=hint,
            )
        table = inputs.table or LabelTable.of(plan.taxonomy)
        manifest = replace(_describe(plan, tiles, statistics, pixels), left_out=dict(left_out))
        scenes: list[PlacedScene] = [*plan.scenes]
        if earlier is not None:
            earlier.statistics.merge(statistics)
            statistics = earlier.statistics
            manifest = extend_manifest(earlier.manifest, manifest, statistics)
            tiles = [*earlier.after(len(scenes)), *tiles]
            scenes += earlier.ground.scenes
            table = earlier.table
        known = [*scenes[len(plan.scenes) :], *plan.scenes]  # the first ones decide the blocks of later ones
        manifest = replace(manifest, ground_m2=_measure_ground(scenes, tiles, manifest.pixels))
        if plan.rule.folds and plan.rule.by != "date":
            tiles = _with_near_folds(scenes, tiles, plan.rule.buffer_px)
        write_index(scenes, tiles, plan.taxonomy, folder)
        write_state(folder, known, plan.units, table, statistics)
        write_manifest(folder, manifest)
        if earlier is not None:
            link_files(plan.output, folder)
            replace_dataset(plan.output, folder)
        else:
            with staged(plan.output, overwrite=plan.overwrite, marker=NAME) as stage:
                os.replace(folder, stage)
    return manifest


def _with_near_folds(scenes: Sequence[PlacedScene], tiles: Sequence[WrittenTile], buffer: int) -> list[WrittenTile]:
    """Note the folds that are near the tiles."""
    planned = [tile.planned for tile in tiles]
    near = near_folds(scenes, planned, [tile.fold for tile in planned], buffer=buffer)
    return [
        replace(tile, planned=replace(tile.planned, near_folds=folds)) for tile, folds in zip(tiles, near, strict=True)
    ]


def _key(plan: TilePlan, inputs: Inputs, earlier: Earlier | None) -> dict[str, str]:
    """Return everything that the tiles' bytes depend on, by names for people."""
    labels = {path for scene in plan.scenes for path in scene.labels.paths}
    corrections = plan.scenes[0].corrections  # all scenes have the same
    parts = {
        "scenes": [(scene.fingerprint, scene.chosen_bands) for scene in plan.scenes],
        "labels": [fingerprint_of_file(path) for path in sorted(labels)],
        "options of labels": [asdict(scene.labels) for scene in plan.scenes],
        "corrections": corrections and [fingerprint_of_file(corrections.path), asdict(corrections)],
        "class table": [asdict(plan.taxonomy), inputs.table and asdict(inputs.table)],
        "tiles": [plan.format, plan.size, asdict(plan.selection), *map(asdict, plan.tiles)],
    }
    digests = {name: hashlib.sha256(json.dumps(part, default=str).encode()).hexdigest() for name, part in parts.items()}
    return digests | {"version of cwsam": __version__} | ({"dataset": earlier.digest} if earlier is not None else {})


def _describe(
    plan: TilePlan, tiles: list[WrittenTile], statistics: RunningStats, pixels: NDArray[np.int64]
) -> Manifest:
    """Return the dataset's description."""
    first = plan.scenes[0]
    by_split = dict(zip(SPLITS, pixels.tolist(), strict=True))
    return Manifest(
        taxonomy=plan.taxonomy,
        bands=statistics.bands(first.band_names),
        dtype=first.dtype,
        gsd_m=plan.scenes[plan.tiles[0].scene].grid.gsd_m,
        tiles={split: sum(tile.planned.split == split for tile in tiles) for split in SPLITS},
        valid_pixels=statistics.pixels,
        pixels=by_split,
        corrected=dict(plan.corrected),
        weights=class_weights(by_split["train"]),
        split=plan.rule,
        tiling=plan.tiling,
        command=plan.command,
    )


def _measure_ground(
    scenes: Sequence[PlacedScene], tiles: Sequence[WrittenTile], pixels: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Return the labelled ground in m² by split. Scenes can have pixels of different sizes, and show the same ground.

    Args:
        scenes: the scenes that the tiles count.
        tiles: the tiles. They can share pixels.
        pixels: labelled pixels by split and class index; each counts once.
    """
    gsds = {scene: scenes[scene].grid.gsd_m for scene in {tile.planned.scene for tile in tiles}}
    ground = dict.fromkeys(SPLITS, 0.0)
    for split in SPLITS:
        own = [tile for tile in tiles if tile.planned.split == split]
        used = [gsds[tile.planned.scene] for tile in own]
        labelled = np.array([tile.pixels.sum() for tile in own])
        if None in used:
            return {}
        if labelled.any():
            pixel_m2 = np.average(np.array(used, float) ** 2, weights=labelled)
            ground[split] = float(sum(pixels[split]) * pixel_m2 * _shown_once(scenes, own))
    return ground


def _shown_once(scenes: Sequence[PlacedScene], tiles: Sequence[WrittenTile]) -> float:
    """Return the area of the ground of tiles as a share of the areas of all their scenes' tiles, 0 to 1."""
    by_scene: dict[int, list[PlannedTile]] = defaultdict(list)
    for tile in tiles:
        by_scene[tile.planned.scene].append(tile.planned)
    if len(by_scene) == 1:
        return 1.0
    ordered = [tile for own in by_scene.values() for tile in own]
    outlines = draw_footprints(scenes, ordered).geometry.to_numpy()
    ends = np.cumsum([len(own) for own in by_scene.values()])[:-1]
    grounds = [shapely.union_all(own) for own in np.split(outlines, ends)]
    return float(shapely.union_all(grounds).area / sum(ground.area for ground in grounds))
