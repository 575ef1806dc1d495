"""However the work is cut, interrupted or shared, the map is that of an accumulator of the whole scene, exactly."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.transforms import band_statistics, normalize
from cwsam_cli.errors import CheckpointError, DataError
from cwsam_cli.journal import Journal, journal
from cwsam_cli.predict.blend import shares
from cwsam_cli.predict.pieces import make_pieces
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.lattice import Lattice, cuts
from tests.predict_plans import plan_of

MakeRaster = Callable[..., Path]

HEIGHT, WIDTH, SIZE, OVERLAP, MARGIN, CLASSES, BLOCK = 170, 230, 32, 12, 8, 5, 32
BANDS = tuple(Band(name=f"band_{n}", mean=120.0, std=40.0) for n in (1, 2))
IMAGE = np.random.default_rng(0).integers(1, 255, (2, HEIGHT, WIDTH)).astype(np.uint8)
HOLES = np.zeros((HEIGHT, WIDTH), bool)
HOLES[30:95, 20:120] = HOLES[:, 229] = True
CPU = torch.device("cpu")
MIXING = np.random.default_rng(1).normal(size=(CLASSES, 2, 3)).astype(np.float32)


def stub(images: torch.Tensor) -> torch.Tensor:
    """A model that treats windows independently: what a window scores hangs on it alone, on all of it."""
    out = []
    for image in images.numpy():
        parts = np.stack([image, np.roll(image, 1, axis=1), image.mean(axis=(1, 2), keepdims=True) + 0 * image])
        out.append(np.einsum("kbp,pbhw->khw", MIXING, parts, optimize=False))
    return torch.from_numpy(np.stack(out).astype(np.float32))


def accumulated(lattice: Lattice, inside: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """The oracle: one float32 sum of all windows over the whole scene and the margin around it."""
    around = ((MARGIN, MARGIN), (MARGIN, MARGIN))
    image, valid = np.pad(IMAGE, ((0, 0), *around), "edge"), np.pad(~HOLES, around, "edge")
    total = np.zeros((CLASSES, *valid.shape), np.float32)
    rows = shares(lattice.rows, SIZE, HEIGHT)
    cols = shares(lattice.cols, SIZE, WIDTH)
    for row in range(len(lattice.rows)):
        for col in range(len(lattice.cols)):
            top, left = lattice.rows[row] + MARGIN, lattice.cols[col] + MARGIN
            place = np.s_[top : top + SIZE, left : left + SIZE]
            pixels = torch.from_numpy(image[:, *place]), torch.from_numpy(valid[place])
            scores = stub(normalize(*pixels, *band_statistics(BANDS))[None])[0].numpy()
            total[:, *place] += scores * np.outer(rows[row], cols[col])
    wanted = ~HOLES if inside is None else ~HOLES & inside
    best = total.argmax(axis=0)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.where(wanted, best, 255).astype(np.uint8)


@pytest.fixture
def scene(make_raster: MakeRaster) -> Path:
    values = np.where(HOLES, 0, IMAGE)
    return make_raster("scene.tif", values, nodata=0, tiled=True, blockxsize=48, blockysize=16, compress="deflate")


def stub_plan(scene: Path, **changes: Any) -> MapPlan:
    """A plan for the stub; a block is 32 pixels high."""
    area = changes.get("shown", Window(0, 0, WIDTH, HEIGHT))
    changes = {"bands": BANDS, "row_cuts": cuts(area.row_off, area.height, BLOCK), "gdal_cache": 64 << 20} | changes
    grid = Grid(None, Affine.identity(), WIDTH, HEIGHT)
    return plan_of(scene, grid, classes=CLASSES, size=SIZE, overlap=OVERLAP, margin=MARGIN, **changes)


def assembled(plan: MapPlan, kept: Journal) -> NDArray[np.uint8]:
    kept.scan()
    whole = np.zeros((plan.row_cuts[-1] - plan.row_cuts[0], plan.col_cuts[-1] - plan.col_cuts[0]), np.uint8)
    for column, row in plan.pieces:
        top, bottom = (cut - plan.row_cuts[0] for cut in plan.row_cuts[row : row + 2])
        left, right = (cut - plan.col_cuts[0] for cut in plan.col_cuts[column : column + 2])
        piece = np.frombuffer(kept.read(row, column), np.uint8).reshape(1, bottom - top, right - left)
        whole[top:bottom, left:right] = piece[0]
    return whole


@pytest.mark.parametrize("columns", [1000, 96, 32])
@pytest.mark.parametrize(("batch", "group"), [(1, 1), (4, 1), (9, 2), (32, 3)])
def test_the_map_is_exact_whatever_the_memory_and_the_batch(
    scene: Path, tmp_path: Path, columns: int, batch: int, group: int
) -> None:
    plan = stub_plan(scene, columns=columns, batch=batch, group=group)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(plan, stub, kept, device=CPU)
        np.testing.assert_array_equal(assembled(plan, kept), accumulated(plan.lattice))


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("group", [1, 2])
def test_the_map_is_exact_whatever_the_number_of_processes(scene: Path, tmp_path: Path, world: int, group: int) -> None:
    plan = stub_plan(scene, columns=96, group=group, batch=16)
    folder = tmp_path / "journal"
    folder.mkdir()
    for rank in reversed(range(world)):  # none waits for another
        make_pieces(plan, stub, Journal(folder, {}), rank=rank, world=world, device=CPU)
    np.testing.assert_array_equal(assembled(plan, Journal(folder, {})), accumulated(plan.lattice))


def test_each_process_does_its_share(scene: Path, tmp_path: Path) -> None:
    plan = stub_plan(scene)
    counts = []
    for world in (1, 2):
        seen = []
        for rank in range(world):
            done = [0]

            def counting(images: torch.Tensor, done: list[int] = done) -> torch.Tensor:
                done[0] += len(images)
                return stub(images)

            make_pieces(plan, counting, Journal(tmp_path, {}), rank=rank, world=world, device=CPU)
            seen.append(done[0])
        counts.append(seen)
    (alone,), (first, second) = counts
    assert max(first, second) < 0.75 * alone
    assert alone < first + second < 1.4 * alone  # the windows on the border are seen twice


@pytest.mark.parametrize("kills", [[1], [5], [2, 1, 7, 3]])
@pytest.mark.parametrize("columns", [1000, 96])
def test_a_killed_run_goes_on_in_the_same_batches(scene: Path, tmp_path: Path, kills: list[int], columns: int) -> None:
    class Killed(Exception):
        pass

    batches: list[bytes] = []
    plan = stub_plan(scene, columns=columns, batch=6, group=2)

    def recording(images: torch.Tensor) -> torch.Tensor:
        batches.append(images.numpy().tobytes())
        return stub(images)

    with journal(tmp_path / "whole.tif", {}, {}) as kept:
        make_pieces(plan, recording, kept, device=CPU)
        expected = assembled(plan, kept)
    uninterrupted, batches = set(batches), []
    for kill in kills:
        left = [kill]

        def dying(images: torch.Tensor, left: list[int] = left) -> torch.Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return recording(images)

        with pytest.raises(Killed), journal(tmp_path / "map.tif", {}, {}) as kept:
            make_pieces(plan, dying, kept, device=CPU)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(plan, recording, kept, device=CPU)
        np.testing.assert_array_equal(assembled(plan, kept), expected)
    assert set(batches) == uninterrupted


def test_a_run_that_was_begun_by_three_is_ended_by_one(scene: Path, tmp_path: Path) -> None:
    plan = stub_plan(scene, columns=96)
    for rank in (0, 2):
        make_pieces(plan, stub, Journal(tmp_path, {}), rank=rank, world=3, device=CPU)
    kept = Journal(tmp_path, {})
    kept.scan()
    missing = len(plan.pieces) - len(kept.pieces)
    assert 0 < missing < len(plan.pieces)
    make_pieces(plan, stub, kept, device=CPU)
    np.testing.assert_array_equal(assembled(plan, kept), accumulated(plan.lattice))


@pytest.mark.parametrize("shown", [Window(100, 60, 70, 45), Window(0, 0, 1, 1), Window(201, 138, 29, 32)])
def test_a_part_has_the_values_of_the_whole(scene: Path, tmp_path: Path, shown: Window) -> None:
    plan = stub_plan(scene, shown=shown, columns=32)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(plan, stub, kept, device=CPU)
        whole = accumulated(plan.lattice)
        np.testing.assert_array_equal(assembled(plan, kept), whole[shown.toslices()])


def test_a_south_up_scene_is_cut_where_its_file_is(make_raster: MakeRaster, tmp_path: Path) -> None:
    upside = np.where(HOLES, 0, IMAGE)[:, ::-1]
    path = make_raster("south.tif", upside, nodata=0, transform=Affine(30, 0, 6e5, 0, 30, 3e6))
    plan = stub_plan(path, row_cuts=cuts(0, HEIGHT, BLOCK, from_end=True))
    assert plan.row_cuts[:2] == (0, HEIGHT % BLOCK)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(plan, stub, kept, device=CPU)
        np.testing.assert_array_equal(assembled(plan, kept), accumulated(plan.lattice))


def test_a_damaged_file_ends_the_work_with_a_sentence(make_raster: MakeRaster, tmp_path: Path) -> None:
    path = make_raster("scene.tif", IMAGE, tiled=True, blockxsize=48, blockysize=16, compress="deflate")
    path.write_bytes(path.read_bytes()[:-20_000] + b"\0" * 20_000)
    with pytest.raises(DataError, match=r"scene\.tif"), journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(stub_plan(path), stub, kept, device=CPU)


def test_every_batch_is_a_sign_of_life_and_may_end_the_work(scene: Path, tmp_path: Path) -> None:
    beats = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(stub_plan(scene), stub, kept, beat=beat, device=CPU)
    assert len(beats) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_end_the_work_with_the_first_windows_place(
    scene: Path, tmp_path: Path, value: float
) -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        scores = stub(images)
        scores[0, 2] = value
        return scores

    with journal(tmp_path / "map.tif", {}, {}) as kept, pytest.raises(CheckpointError) as caught:
        make_pieces(stub_plan(scene), broken, kept, device=CPU)
    assert f"not finite in the window at column 0, row 0 of `{scene}`" in str(caught.value)


def test_a_models_own_padding_does_not_change_the_class_at_the_scenes_border(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    def padded(images: torch.Tensor) -> torch.Tensor:
        """Class 0 where the mean of 3 × 3 pixels is large, class 1 where the zeros around a window lower it."""
        scores = torch.full((len(images), CLASSES, SIZE, SIZE), -10.0)
        scores[:, 0] = torch.nn.functional.avg_pool2d(images[:, :1], 3, stride=1, padding=1)[:, 0]
        scores[:, 1] = 0.9 * images[:, 0]
        return scores

    scene = make_raster("even.tif", np.full((2, HEIGHT, WIDTH), 200, np.uint8))
    plan = stub_plan(scene)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(plan, padded, kept, device=CPU)
        assert set(np.unique(assembled(plan, kept))) == {0}


def test_scores_of_pixels_without_data_may_be_anything(scene: Path, tmp_path: Path) -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        hidden = (images == 0).all(dim=1, keepdim=True)
        return torch.where(hidden, torch.nan, stub(images))

    between = tuple(dataclasses.replace(band, mean=120.5) for band in BANDS)  # so that no value becomes 0
    plan = stub_plan(scene, bands=between)
    with journal(tmp_path / "map.tif", {}, {}) as kept:
        make_pieces(plan, broken, kept, device=CPU)
        np.testing.assert_array_equal(assembled(plan, kept) == 255, HOLES)
