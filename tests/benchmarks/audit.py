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
from cwsam_cli.audit.tiles import Pair
from cwsam_cli.raster.grid import Grid

SCENES = ("zion_landsat8_nlcd", "nc_landsat7_2002")
DATA = Path(__file__).parents[3] / "shared" / "data" / "landcover"
MARGIN = 8
SIDE = 64
TRIALS = 60


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
        show_alignment(name, read(data / name))
