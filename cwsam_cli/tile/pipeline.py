"""Scenes and labels → training tiles.

Two passes over the labels. The first reads every block once to learn which classes occur
where; then blocks are given to splits; the second pass cuts and writes tiles.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from math import inf
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from cwsam_cli.config.load import load_taxonomy
from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import NAME, SPLITS, Manifest, RunningStats, refuse_other_dataset, write_manifest
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.files import refuse_existing, refuse_input, reserved, staged
from cwsam_cli.raster.grid import offsets
from cwsam_cli.raster.scene import GDAL_CACHE, open_raster
from cwsam_cli.raster.style import read_taxonomy
from cwsam_cli.taxonomy import IGNORE, Taxonomy
from cwsam_cli.tile.labels import NO_LABEL, Conflicts, is_vector, read_polygons
from cwsam_cli.tile.split import assign, block_size, cut_blocks
from cwsam_cli.tile.tiles import Source, Tile, each_opened, footprints, write_index, write_pair


def tile_scenes(
    scenes: Sequence[Path],
    labels: Path,
    output: Path,
    *,
    size: int = 512,
    overlap: int = 0,
    classes: str | None = None,
    class_field: str | None = None,
    shares: Sequence[float] = (70, 15, 15),
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
) -> Manifest:
    """Cut scenes and their labels into a dataset.

    Args:
        scenes: images with the same bands and dtype.
        labels: a label raster, a vector file, or a folder of label rasters named as the scenes.
        output: the dataset's folder.
        size: pixels a side of a tile.
        overlap: pixels that neighbouring training tiles share; held-out ground is cut without.
        classes: a class table's path or shipped name; without one the labels tell.
        class_field: the field of a vector file that holds class codes or names.
        shares: of train, val and test.
        seed: of the split.
        overwrite: replace an older dataset at `output`.
        command: the command line, for the record.

    Raises:
        DataError: a scene or the labels cannot be used as they are.
    """
    if not 0 <= overlap < size:
        raise UsageError(f"an overlap of {overlap} does not fit tiles of {size} pixels", hint="keep it below the size")
    if not all(0 <= share < inf for share in shares) or shares[0] == 0:
        raise UsageError(
            f"--split {tuple(shares)} cannot be shares of train, val and test", hint="say: --split 70 15 15"
        )
    twice = [path for path, count in Counter(path.resolve() for path in scenes).items() if count > 1]
    if twice:
        raise UsageError(f"`{twice[0]}` is given twice", hint="name each scene once")
    refuse_input(output, labels, *scenes)
    refuse_existing(output, overwrite=overwrite, marker=NAME)
    refuse_other_dataset(output)
    taxonomy = load_taxonomy(classes) if classes else None
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.filterwarnings("ignore", message="'crs' was not provided")  # both are said once, in our own words
        sources, taxonomy = _look(scenes, labels, class_field, taxonomy)
        side = block_size([source.grid for source in sources], size)
        for number, source in enumerate(sources):
            source.blocks = cut_blocks(source.grid, side, size, number)
        found = _scan(sources, labels)
        taxonomy = taxonomy or _raster_taxonomy(sources, found)
        _refuse_unknown(taxonomy, found, labels)
        tiles = _plan(sources, _split(found, taxonomy, shares, seed), size, overlap)
        with reserved(output), staged(output, overwrite=overwrite, marker=NAME) as folder:
            manifest = _write(tiles, taxonomy, folder, size, command)
    return manifest


def _look(
    scenes: Sequence[Path], labels: Path, class_field: str | None, taxonomy: Taxonomy | None
) -> tuple[list[Source], Taxonomy | None]:
    polygons = None
    if not labels.is_dir() and is_vector(labels):
        if class_field is None:
            names = " or ".join(pyogrio.read_info(labels)["fields"])
            raise UsageError(f"`{labels}` holds polygons: which field is their class?", hint=f"--class-field {names}")
        polygons, taxonomy = read_polygons(labels, class_field, taxonomy)
    elif class_field is not None:
        raise UsageError(f"--class-field is for polygons, `{labels}` is a raster", hint="leave it out")
    sources: list[Source] = []
    stems = Counter(path.stem for path in scenes)
    for number, path in enumerate(scenes):
        name = path.stem if stems[path.stem] == 1 else f"{path.stem}-{number}"
        source = Source.of(name, path, labels / path.name if labels.is_dir() else labels, polygons)
        first = sources[0] if sources else source
        if (source.band_names, source.dtype) != (first.band_names, first.dtype):
            raise DataError(
                f"`{path}` has bands {', '.join(source.band_names)} ({source.dtype}), "
                f"`{first.path}` has {', '.join(first.band_names)} ({first.dtype})",
                hint="tile scenes of one kind together",
            )
        sources.append(source)
    unplaced = [source.path for source in sources if source.grid.crs is None]
    if unplaced:
        log.warning("%d scene(s) without a CRS, such as `%s`: their tiles have none either", len(unplaced), unplaced[0])
    return sources, taxonomy


def _scan(sources: list[Source], labels: Path) -> dict[tuple[object, ...], Counter[int]]:
    """Labelled pixels by ground block and class code."""
    found: dict[tuple[object, ...], Counter[int]] = {}
    conflicts: Conflicts = Counter()
    work = [(source, block) for source in sources for block in source.blocks]
    for source, block in each_opened(work, "reading labels", "block"):
        conflicts += source.labels.conflicts(block.window)
        codes, counts = np.unique(source.codes(block.window), return_counts=True)
        histogram = Counter(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        del histogram[NO_LABEL]
        found.setdefault(block.key, Counter()).update(histogram)
    if conflicts:
        _refuse_conflicts(conflicts, labels)
    if not any(found.values()):
        raise DataError(
            f"no valid pixel of `{sources[0].path}` is labelled by `{labels}`"
            + (f", nor of {len(sources) - 1} more scenes" if len(sources) > 1 else ""),
            hint="do both show the same ground, and is there data in the scene? gdalinfo -stats tells",
        )
    return found


def _refuse_conflicts(conflicts: Conflicts, labels: Path) -> NoReturn:
    worst = [ids for ids, _ in conflicts.most_common(5)]
    shown = "; ".join(f"{' and '.join(map(str, ids))} (at least {conflicts[ids]:,} pixel(s))" for ids in worst)
    ids = ", ".join(str(feature) for feature in sorted({feature for ids in worst for feature in ids}))
    raise DataError(
        f"`{labels}`: features of different classes overlap: {shown}"
        + (f", and {len(conflicts) - len(worst)} more" if len(conflicts) > len(worst) else ""),
        hint=f"QGIS finds them by Select by Expression: $id IN ({ids}); cut each overlap out of one of its features",
    )


def _raster_taxonomy(sources: list[Source], found: dict[tuple[object, ...], Counter[int]]) -> Taxonomy:
    present = sorted(set().union(*found.values()))
    with open_raster(sources[0].labels) as dataset:
        return read_taxonomy(dataset, present)


def _refuse_unknown(taxonomy: Taxonomy, found: dict[tuple[object, ...], Counter[int]], labels: Path) -> None:
    total = sum(found.values(), Counter[int]())
    unknown = {code: total[code] for code in sorted(total) if code not in (*taxonomy.codes, *taxonomy.unlabelled)}
    if unknown:
        shown = ", ".join(f"{code} ({count:,} pixels)" for code, count in list(unknown.items())[:8])
        raise DataError(
            f"`{labels}` holds codes that are not in the class table: {shown}",
            hint=f"add them to its classes, or to its list of codes without a class: unlabelled: {list(unknown)}",
        )


def _split(
    found: dict[tuple[object, ...], Counter[int]], taxonomy: Taxonomy, shares: Sequence[float], seed: int
) -> dict[tuple[object, ...], str]:
    """Each labelled ground block's split."""
    keys = [key for key, histogram in found.items() if any(histogram[code] for code in taxonomy.codes)]
    if not keys:
        raise DataError("the labels hold none of the table's classes", hint="is this the right class table?")
    histograms = np.array([[found[key][code] for code in taxonomy.codes] for key in keys])
    splits = dict(zip(keys, assign(histograms, shares, seed=seed), strict=True))
    missing = [split for split, share in zip(SPLITS, shares, strict=True) if share and split not in splits.values()]
    if missing:
        log.warning(
            "the labelled ground makes %d block(s), too few for the split(s) %s: smaller tiles make more",
            len(keys),
            ", ".join(missing),
        )
    return splits


def _plan(sources: list[Source], splits: dict[tuple[object, ...], str], size: int, overlap: int) -> list[Tile]:
    tiles = []
    for source in sources:
        for block in source.blocks:
            if block.key not in splits:
                continue
            split = splits[block.key]
            wanted = overlap if split == "train" else 0
            height, width = int(block.window.height), int(block.window.width)
            for (row, above), (col, beside) in product(_starts(height, size, wanted), _starts(width, size, wanted)):
                window = Window(
                    block.window.col_off + col, block.window.row_off + row, min(size, width), min(size, height)
                )
                tiles.append(Tile(source, window, split, shared=(above, beside), overlap=wanted))
    frame = footprints(tiles)
    for tile, footprint in zip(tiles, frame.geometry, strict=True):
        tile.footprint = footprint
    leaking = _leaks(tiles, size) if len(sources) > 1 else set()
    if leaking:
        log.warning("%d tiles left out: they show ground that another scene gives to another split", len(leaking))
    return [tile for number, tile in enumerate(tiles) if number not in leaking]


def _starts(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Where tiles start along an axis, each with the pixels that it shares with the tile before."""
    starts = offsets(length, size, size - overlap)
    return [(0, 0), *((later, earlier + size - later) for earlier, later in pairwise(starts))]


def _leaks(tiles: list[Tile], size: int) -> set[int]:
    """Tiles that share more than a pixel's breadth of ground with a tile of a stricter split."""
    tree = shapely.STRtree([tile.footprint for tile in tiles])
    ours, theirs = tree.query([tile.footprint for tile in tiles], predicate="intersects")
    rank = np.array([SPLITS.index(tile.split) for tile in tiles])
    scenes = [tile.source.grid for tile in tiles]
    placed = np.array([grid.crs is not None for grid in scenes])
    comparable = placed | np.array([(grid.transform.c, grid.transform.f) != (0, 0) for grid in scenes])
    alike = (placed[ours] == placed[theirs]) & comparable[ours] & comparable[theirs]
    stricter = (rank[theirs] > rank[ours]) & alike
    ours, theirs = ours[stricter], theirs[stricter]
    shapes = np.array([tile.footprint for tile in tiles])
    shared = shapely.area(shapely.intersection(shapes[ours], shapes[theirs])) / shapely.area(shapes[ours])
    return set(ours[shared > 1 / size].tolist())


def _write(tiles: list[Tile], taxonomy: Taxonomy, folder: Path, size: int, command: str) -> Manifest:
    for kind in ("images", "labels"):
        for split in SPLITS:
            (folder / kind / split).mkdir(parents=True)
    stats = RunningStats()
    to_index = np.frombuffer(taxonomy.code_to_index(), np.uint8)
    written = []
    pixels = {split: np.zeros(len(taxonomy), np.int64) for split in SPLITS}
    for source, tile in each_opened([(tile.source, tile) for tile in tiles], "writing tiles", "tile"):
        codes = source.codes(tile.window)
        above, beside = (max(0, shared - tile.overlap) for shared in tile.shared)
        codes[:above] = codes[:, :beside] = NO_LABEL
        codes[(codes == NO_LABEL) | np.isin(codes, taxonomy.unlabelled)] = IGNORE
        index = to_index[codes]
        tile.pixels = _count(index, taxonomy)
        if not tile.pixels.any():
            continue
        image, valid = source.scene.read(tile.window)
        tile.valid = float(valid.mean())
        above, beside = tile.shared
        pixels[tile.split] += _count(index[above:, beside:], taxonomy)
        if tile.split == "train":
            stats.add(image[:, above:, beside:], valid[above:, beside:])
        write_pair(tile, source.scene, image, valid, codes.astype(np.uint8), taxonomy, folder, size)
        written.append(tile)
    scene = tiles[0].source
    manifest = Manifest(
        taxonomy=taxonomy,
        bands=stats.bands(scene.band_names),
        dtype=scene.dtype,
        gsd_m=scene.grid.gsd_m,
        tiles={split: sum(tile.split == split for tile in written) for split in SPLITS},
        pixels={split: counts.tolist() for split, counts in pixels.items()},
        command=command,
    )
    write_index(written, taxonomy, folder)
    write_manifest(folder, manifest)
    return manifest


def _count(index: NDArray[np.uint8], taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Labelled pixels by class index."""
    return np.bincount(index[index != IGNORE], minlength=len(taxonomy))
