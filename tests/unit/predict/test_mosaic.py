"""Scores of overlapping scenes are blended as one sum over the mosaic would, and few scenes are open at a time."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.journal import journal
from cwsam_cli.predict import pieces
from cwsam_cli.predict.blend import WindowScores, hann
from cwsam_cli.predict.memory import MosaicNeeds, Needs
from cwsam_cli.predict.mosaic import MosaicBlender
from cwsam_cli.predict.plan import MapPlan, PlacedScene
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.lattice import Lattice
from tests.predict_plans import plan_of

SIZE, CLASSES, HEIGHT, WIDTH = 16, 4, 90, 70


def windows(seed: int = 0) -> list[WindowScores]:
    """Windows anywhere, also beyond the borders, with holes."""
    rng = np.random.default_rng(seed)
    places = sorted(
        zip(rng.integers(-8, HEIGHT - 8, 60).tolist(), rng.integers(-8, WIDTH - 8, 60).tolist(), strict=True)
    )
    return [
        WindowScores(
            0,
            0,
            torch.from_numpy(rng.normal(size=(CLASSES, SIZE, SIZE)).astype(np.float32)),
            torch.from_numpy(((rng.random((SIZE, SIZE)) < 0.3) * 255).astype(np.uint8)),
            place,
        )
        for place in places
        if not 40 <= place[0] <= 60  # a gap, so that some rows have no window
    ]


def summed(given: list[WindowScores]) -> NDArray[Any]:
    total, weight = np.zeros((CLASSES, HEIGHT + 32, WIDTH + 32)), np.zeros((HEIGHT + 32, WIDTH + 32))
    shape = np.outer(hann(SIZE), hann(SIZE))
    for window in given:
        at = np.s_[window.place[0] + 16 : window.place[0] + 32, window.place[1] + 16 : window.place[1] + 32]
        own = shape * (window.hidden.numpy() == 0)
        total[:, *at] += window.scores.numpy() * own
        weight[at] += own
    best = np.where(weight > 0, total.argmax(axis=0), 255)
    return best[16 : 16 + HEIGHT, 16 : 16 + WIDTH].astype(np.uint8)


@pytest.mark.parametrize("area", [Window(0, 0, WIDTH, HEIGHT), Window(5, 20, 33, 50), Window(0, 42, WIDTH, 5)])
def test_windows_that_lie_anywhere_are_summed_over_the_whole_mosaic(area: Window) -> None:
    expected = summed(windows())
    blender = MosaicBlender(SIZE, lambda scores: scores.argmax(dim=0, keepdim=True).to(torch.uint8), device="cpu")
    made = list(blender.blend(windows(), area))
    rows = [top for top, _ in made]
    assert rows[0] == area.row_off and all(
        top + layers.shape[1] == following for (top, layers), following in zip(made, rows[1:], strict=False)
    )
    blended = np.concatenate([layers.numpy()[0] for _, layers in made])
    part = np.s_[area.row_off : area.row_off + area.height, area.col_off : area.col_off + area.width]
    np.testing.assert_array_equal(blended, expected[part])


@pytest.mark.parametrize(("row", "height"), [(0, 100), (37, 63), (10, 16), (10, 17), (3, 40)])
def test_windows_of_a_part_are_those_of_the_whole_and_cover_the_part(row: int, height: int) -> None:
    whole = Lattice.over(100, 100, 16, 4, 2)
    part = whole.of_part(0, row, 100, height)
    inside = [start - row for start in whole.rows if start >= row - 2 and start + 16 <= row + height + 2]
    assert set(inside) <= set(part.rows) or height <= 16
    assert (part.rows[0], part.rows[-1]) == ((-2, height + 2 - 16) if height > 16 else (0, 0))
    steps = np.diff(part.rows)
    assert (steps > 0).all() and (steps <= 12).all()


def stacked(make_raster: Any, tmp_path: Path, count: int) -> MapPlan:
    """A mosaic of scenes of 40 rows, each 30 rows below the one before."""
    rng = np.random.default_rng(0)
    grid = Grid(None, from_origin(0, 0, 1, 1), 50, 30 * count + 10)
    plan = plan_of("", grid, classes=3, size=SIZE, overlap=4, bands=(Band(name="band_1", mean=100, std=50),))
    scenes = [
        PlacedScene(
            scene=str(make_raster(f"{number}.tif", rng.integers(1, 255, (1, 40, 50)).astype(np.uint8))),
            fingerprint="",
            bands=plan.bands,
            col=0,
            row=30 * number,
            lattice=plan.lattice.of_part(0, 30 * number, 50, 40),
            shown=Window(0, 0, 50, 40),
        )
        for number in range(count)
    ]
    return dataclasses.replace(plan, scenes=tuple(scenes))


def test_few_scenes_are_open_at_the_same_time(
    make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, counts = stacked(make_raster, tmp_path, 8), [0, 0, 0]
    real = pieces.open_planned

    @contextmanager
    def counting(own: MapPlan) -> Iterator[Any]:
        counts[0] += 1
        counts[1] += 1
        counts[2] = max(counts[2], counts[1])
        with real(own) as scene:
            yield scene
        counts[1] -= 1

    monkeypatch.setattr(pieces, "open_planned", counting)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        pieces.make_pieces(plan, lambda images: images.repeat(1, 3, 1, 1), kept, device=torch.device("cpu"))
        assert len(kept.pieces) == len(plan.pieces)
    assert counts[:2] == [8, 0] and counts[2] <= 2


def test_a_plan_of_a_mosaic_survives_a_file_and_loses_scenes_beside_a_stretch(make_raster: Any, tmp_path: Path) -> None:
    plan = stacked(make_raster, tmp_path, 12)
    assert MapPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert len(plan.for_stretch((0, 0, 0)).scenes) == 9  # rows 0 to 255
    assert plan.for_stretch((0, 0, len(plan.row_cuts) - 2)).scenes == plan.scenes


def test_memory_of_a_mosaic_counts_the_scenes_that_are_open_together() -> None:
    lattice = Lattice.over(10_000, 100_000, 512, 128)
    alone = Needs(lattice=lattice, fixed=0, model=0, bands=4, image_bytes=2, classes=33, layers=1, block_height=512)

    def needs(places: list[tuple[int, int]]) -> int:
        shown = tuple((Window(col, row, 5_000, 5_000), alone) for col, row in places)
        own = {each.name: getattr(alone, each.name) for each in dataclasses.fields(alone)}
        return MosaicNeeds(**own, places=shown, left=0).bytes(10_240, 4)

    below_each_other = needs([(0, row * 6_000) for row in range(10)])
    assert below_each_other == needs([(0, 0)])
    assert needs([(0, 0), (5_000, 0)]) > below_each_other
    assert needs([(0, 0), (5_000, 0)]) == needs([(0, row * 6_000) for row in range(10)] + [(5_000, 0)])
