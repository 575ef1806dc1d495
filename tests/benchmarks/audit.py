"""What `cwsam audit` finds in real scenes whose labels were moved or replaced on purpose.

Run: python tests/benchmarks/audit.py [--data FOLDER]
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cwsam_cli.audit.alignment import Alignment, contrast_below_edges, judge
from cwsam_cli.audit.suspects import draw_sample, judge_samples
from cwsam_cli.audit.tiles import Pair
from cwsam_cli.raster.grid import Grid

SCENES = ("zion_landsat8_nlcd", "nc_landsat7_2002")
DATA = Path(__file__).parents[3] / "shared" / "data" / "landcover"
MARGIN = 8
SIDE = 64
TRIALS = 60
SMALL = 32
SEEDS = 3


def read(folder: Path) -> Pair:
    """Read a scene as if it were a tile."""
    with rasterio.open(folder / "image.tif") as image, rasterio.open(folder / "label.tif") as label:
        codes = label.read(1)
        valid = np.ones(codes.shape, bool)
        return Pair(image.read(), valid, codes, codes != 255, Grid.of(image))


def cut(scene: Pair, down: int = 0, right: int = 0, half: int = 0) -> list[Pair]:
    """Cut a scene into tiles whose labels are moved by whole pixels, and the image by half a pixel if wished."""
    height, width = scene.codes.shape
    image = scene.image.astype(np.float32)
    if half:  # the image moves to the left, so the labels lie further right
        image = (image[:, :, :-1] + image[:, :, 1:])[:, :, : width - 1] / 2
        image = np.pad(image, ((0, 0), (0, 0), (0, 1)), mode="edge")
    tiles = []
    for row in range(MARGIN, height - MARGIN - SIDE + 1, SIDE):
        for col in range(MARGIN, width - MARGIN - SIDE + 1, SIDE):
            moved = np.s_[row - down : row - down + SIDE, col - right : col - right + SIDE]
            there = image[:, row : row + SIDE, col : col + SIDE]
            full = np.ones((SIDE, SIDE), bool)
            tiles.append(Pair(there, full, scene.codes[moved], scene.labelled[moved], scene.grid))
    return tiles


def verdict(tiles: list[Pair]) -> Alignment:
    return judge("scene", np.concatenate([contrast_below_edges(tile) for tile in tiles]), is_north_up=True)


def plant(scene: Pair, kind: str, seed: int) -> tuple[list[Pair], list[str], set[int]]:
    """Cut a scene into tiles and replace the labels of 5 % of them.

    Args:
        scene: the scene.
        kind: `one wrong class` everywhere in a tile, `renamed` classes, or the labels of `another tile`.
        seed: the seed of the draw.

    Returns:
        The tiles, their blocks of 4 × 4 tiles, and the numbers of the tiles with wrong labels.
    """
    rng = np.random.default_rng(seed)
    height, width = scene.codes.shape
    values, counts = np.unique(scene.codes[scene.labelled], return_counts=True)
    common = values[counts > 0.01 * counts.sum()]
    corners = [(r, c) for r in range(0, height - SMALL + 1, SMALL) for c in range(0, width - SMALL + 1, SMALL)]
    parts = [np.s_[r : r + SMALL, c : c + SMALL] for r, c in corners]
    wrong = set(rng.choice(len(parts), round(len(parts) / 20), replace=False).tolist())
    tiles = []
    for number, part in enumerate(parts):
        codes, labelled = scene.codes[part].copy(), scene.labelled[part]
        if number in wrong and kind == "one wrong class":
            own, counts = np.unique(codes[labelled], return_counts=True)
            codes[:] = rng.choice(common[common != own[counts.argmax()]])
        elif number in wrong and kind == "renamed":
            order = np.roll(rng.permutation(common), 1)
            codes = replace_codes(dict(zip(np.roll(order, 1).tolist(), order.tolist(), strict=True)), codes)
        elif number in wrong:
            other = parts[rng.integers(len(parts))]
            codes, labelled = scene.codes[other], scene.labelled[other]
        tiles.append(Pair(scene.image[:, *part], scene.valid[part], codes, labelled, scene.grid))
    return tiles, [f"{r // SMALL // 4} {c // SMALL // 4}" for r, c in corners], wrong


def replace_codes(table: dict[int, int], codes: NDArray[np.integer]) -> NDArray[np.integer]:
    """Replace codes by those of a table."""
    result = codes.copy()
    for before, after in table.items():
        result[codes == before] = after
    return result


def show_suspects(name: str, scene: Pair) -> None:
    """Print the share of the wrong tiles among as many suspects, and among twice as many."""
    for kind in ("one wrong class", "renamed", "another tile"):
        start, rows = time.process_time(), []
        for seed in range(SEEDS):
            tiles, blocks, wrong = plant(scene, kind, seed)
            samples = [draw_sample("train", Path("tile"), tile, number) for number, tile in enumerate(tiles)]
            shares, _ = judge_samples(samples, blocks)
            order = np.argsort(-np.array(shares), kind="stable").tolist()
            found = [len(wrong & set(order[: many * len(wrong)])) / len(wrong) for many in (1, 2)]
            rows.append([*found, np.mean([shares[number] for number in range(len(tiles)) if number not in wrong])])
        first, second, other = np.mean(rows, axis=0)
        print(
            f"{name}, {kind}: {len(wrong)} of {len(tiles)} tiles of {SMALL} pixels; found {first:.2f} among as many "
            f"suspects (chance {len(wrong) / len(tiles):.2f}), {second:.2f} among twice as many; disagreement "
            f"elsewhere {other:.2f}; {(time.process_time() - start) / SEEDS:.1f} CPU s"
        )


def show_alignment(name: str, scene: Pair) -> None:
    """Print the estimates for labels moved by known shifts, and the verdicts on labels of other tiles."""
    start = time.process_time()
    base = verdict(cut(scene))
    print(f"{name}: labels as they are: {base.text} (right {base.right_px}, down {base.down_px})")
    assert base.right_px is not None and base.down_px is not None
    worst, verdicts = 0.0, Counter[str]()
    for down, right, half in [(0, 1, 0), (2, 0, 0), (-3, 3, 0), (3, -2, 0), (-1, -2, 0), (0, 1, 1), (-2, 2, 1)]:
        found = verdict(cut(scene, down, right, half))
        verdicts[found.verdict] += 1
        if found.right_px is not None and found.down_px is not None:
            across, along = found.right_px - right - half / 2, found.down_px - down
            worst = max(worst, abs(across - base.right_px), abs(along - base.down_px))
            print(
                f"  moved by {right + half / 2:+} right, {down:+} down: {found.text}; error {across:+.2f}, {along:+.2f}"
            )
    print(f"  verdicts {dict(verdicts)}; largest difference to the unmoved labels' own shift {worst:.2f} pixels")
    rng, verdicts, tiles = np.random.default_rng(0), Counter[str](), cut(scene)
    for _ in range(TRIALS):
        chosen = rng.choice(len(tiles), 40, replace=False)
        cells: list[NDArray[np.float64]] = []
        for one, other in zip(chosen, np.roll(chosen, 1), strict=True):
            image, labels = tiles[one], tiles[other]
            cells.append(
                contrast_below_edges(Pair(image.image, image.valid, labels.codes, labels.labelled, image.grid))
            )
        verdicts[judge("scene", np.concatenate(cells), is_north_up=True).verdict] += 1
    print(f"  labels of other tiles, {TRIALS} trials of 40 tiles: {dict(verdicts)}")
    print(f"  {time.process_time() - start:.1f} CPU s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    data = parser.parse_args().data
    for name in SCENES:
        scene = read(data / name)
        show_suspects(name, scene)
        show_alignment(name, scene)
