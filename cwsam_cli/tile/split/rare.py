"""Name the classes that a split does not have, and the block size that would help."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.split.division import Division, Histograms
from cwsam_cli.tile.split.earlier import DividedUnit


def missing_classes(
    division: Division,
    found: Histograms,
    taxonomy: Taxonomy,
    wanted: Sequence[str],
    recount: Callable[[], Histograms] | None,
) -> list[str]:
    """Describe the classes that are missing from a split, and the block size that would help.

    Args:
        division: the splits of the units.
        found: labelled pixels by unit and code.
        taxonomy: the class table.
        wanted: the splits that have a share.
        recount: a function that counts the pixels of blocks of one tile, or None if blocks cannot be smaller.

    Returns:
        One sentence per class.
    """
    pixels: dict[str, Counter[int]] = defaultdict(Counter)
    for unit, split in division.parts.items():
        pixels[split].update(found[unit])
    total = sum(pixels.values(), Counter[int]())
    absent = {
        entry: missing
        for entry in taxonomy.classes
        if total[entry.code] and (missing := [split for split in wanted if not pixels[split][entry.code]])
    }
    rare = any(sum(found[unit][entry.code] > 0 for unit in division.parts) < len(wanted) for entry in absent)
    finer = recount() if rare and recount is not None else {}
    texts = []
    for entry, missing in absent.items():
        count = sum(found[unit][entry.code] > 0 for unit in division.parts)
        side = _helpful_side(finer, entry.code, len(wanted)) if count < len(wanted) else None
        advice = "another --seed could help" if count >= len(wanted) else "smaller tiles (--size) could help"
        advice = f"--block-size {side}px would give enough blocks" if side else advice
        texts.append(
            f"class `{entry.name}` ({total[entry.code]:,} pixels in {count} block(s)) is missing from "
            f"{' and '.join(missing)}; {advice}"
        )
    return texts


def lost_classes(manifest: Manifest, units: Mapping[str, DividedUnit], wanted: Sequence[str]) -> list[str]:
    """Describe the classes that the ground of a split has, but none of its tiles.

    Args:
        manifest: the written dataset.
        units: the units of ground; empty if polygons decide, which then have all classes.
        wanted: the splits that have a share.

    Returns:
        One sentence per class.
    """
    texts = []
    for index, entry in enumerate(manifest.taxonomy.classes):
        if not any(own[index] for own in manifest.pixels.values()) and not units:
            continue
        has_ground = {unit.split for unit in units.values() if unit.found.get(entry.code)} if units else set(wanted)
        lost = [split for split in wanted if split in has_ground and not manifest.pixels[split][index]]
        lost = [split for split in lost if manifest.tiles[split]]
        if lost:
            texts.append(
                f"class `{entry.name}` is missing from the tiles of {' and '.join(lost)}, although their ground has "
                "it; another --seed, a smaller --buffer or smaller tiles (--size) could help"
            )
    return texts


def _helpful_side(finer: Histograms, code: int, wanted: int) -> int | None:
    """Return the largest side in pixels with which a class is in so many blocks, from counts by blocks of one tile."""
    places = [unit.rsplit("/", 3) for unit, histogram in finer.items() if histogram[code]]
    for times in (6, 4, 3, 2, 1):
        blocks = {(grid, int(x) // times, int(y) // times) for grid, _, x, y in places}
        if len(blocks) >= wanted:
            return times * int(places[0][1])
    return None
