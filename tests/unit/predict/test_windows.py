"""Every pixel is read once, batches do not depend on where reading began, and threads end."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from cwsam_cli.predict import windows as stream
from cwsam_cli.predict.windows import SHOWN, VALID, Area, Readers, batches
from cwsam_cli.raster.lattice import Lattice
from cwsam_cli.raster.scene import Scene, open_scene

MakeRaster = Callable[..., Path]

HEIGHT, WIDTH = 150, 210
IMAGE = np.random.default_rng(0).integers(1, 255, (3, HEIGHT, WIDTH)).astype(np.uint8)
HOLES = np.zeros((HEIGHT, WIDTH), bool)
HOLES[20:50, 30:90] = HOLES[140:] = True


@pytest.fixture
def scene(make_raster: MakeRaster) -> Path:
    return make_raster(
        "scene.tif", np.where(HOLES, 0, IMAGE), nodata=0, tiled=True, blockxsize=64, blockysize=32, compress="deflate"
    )


def stream_of(
    path: Path, lattice: Lattice, *, threads: int = 1, **options: Any
) -> list[list[tuple[int, int, Any, Any, Any]]]:
    """Batches of windows: row, col, image, valid, wanted."""
    rows, cols = range(len(lattice.rows)), range(len(lattice.cols))
    settings = {"rows": rows, "cols": cols, "shown": Window(0, 0, lattice.width, lattice.height)} | options
    with ExitStack() as stack:
        scenes = [stack.enter_context(open_scene(path)) for _ in range(threads)]
        readers = stack.enter_context(closing(Readers(scenes, {})))
        return [
            [(item.row, item.col, item.image.numpy(), *bits(item.mask)) for item in batch]
            for batch in batches(readers, Area(lattice=lattice, **settings), torch.device("cpu"))
        ]


def bits(mask: Tensor) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a window is valid, and where the map shows it."""
    return (mask & VALID).bool().numpy(), (mask >= SHOWN).numpy()


@pytest.mark.parametrize(("size", "overlap", "group"), [(32, 8, 1), (48, 40, 2), (64, 0, 3), (300, 10, 1)])
def test_windows_show_the_scenes_own_pixels(scene: Path, size: int, overlap: int, group: int) -> None:
    lattice = Lattice.over(WIDTH, HEIGHT, size, overlap)
    seen = set()
    for batch in stream_of(scene, lattice, batch=5, group=group):
        for row, col, image, valid, wanted in batch:
            place = lattice.window(row, col).toslices()
            np.testing.assert_array_equal(valid, ~HOLES[place])
            np.testing.assert_array_equal(wanted, valid)
            np.testing.assert_array_equal(image[:, valid], IMAGE[:, *place][:, valid])
            seen.add((row, col))
    every = {(row, col) for row in range(len(lattice.rows)) for col in range(len(lattice.cols))}
    assert seen == {place for place in every if (~HOLES[lattice.window(*place).toslices()]).any()}


@pytest.mark.parametrize(("size", "overlap", "group"), [(32, 0, 1), (48, 40, 2), (64, 16, 3)])
def test_beyond_the_border_windows_see_its_pixels_again(scene: Path, size: int, overlap: int, group: int) -> None:
    lattice = Lattice.over(WIDTH, HEIGHT, size, overlap, 9)
    assert lattice.rows[0] == lattice.cols[0] == -9
    assert lattice.rows[-1] + size == HEIGHT + 9 and lattice.cols[-1] + size == WIDTH + 9
    around = ((9, 9), (9, 9))
    image, valid = np.pad(IMAGE, ((0, 0), *around), "edge"), np.pad(~HOLES, around, "edge")
    shown = np.pad(~HOLES, around)
    for batch in stream_of(scene, lattice, batch=5, group=group):
        for row, col, own, seen, wanted in batch:
            top, left = lattice.rows[row] + 9, lattice.cols[col] + 9
            place = np.s_[top : top + size, left : left + size]
            np.testing.assert_array_equal(seen, valid[place])
            np.testing.assert_array_equal(wanted, shown[place])
            np.testing.assert_array_equal(own[:, seen], image[:, *place][:, seen])


def test_threads_read_the_same_pixels(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CELL_BYTES", 1)
    lattice = Lattice.over(WIDTH, HEIGHT, 48, 8, 9)
    for one, other in zip(stream_of(scene, lattice), stream_of(scene, lattice, threads=4), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a[:2] == b[:2]
            for left, right in zip(a[2:], b[2:], strict=True):
                np.testing.assert_array_equal(left, right)


def test_a_side_that_is_no_longer_than_a_window_has_no_margin(scene: Path) -> None:
    lattice = Lattice.over(WIDTH, HEIGHT, HEIGHT, 0, 9)
    assert lattice.rows == (0,) and lattice.cols[0] == -9
    for batch in stream_of(scene, lattice):
        assert {image.shape for _, _, image, *_ in batch} == {(3, HEIGHT, HEIGHT)}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("margin", [0, 16])
@pytest.mark.parametrize("cell", [1, 20_000, 1 << 24])
@pytest.mark.parametrize("size", [32, 64])
def test_every_pixel_is_read_once_in_whole_rows_of_blocks(
    scene: Path, monkeypatch: pytest.MonkeyPatch, cell: int, size: int, margin: int, threads: int
) -> None:
    reads: list[Window] = []
    read = Scene.read

    def spy(self: Scene, window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
        reads.append(window)
        return read(self, window)

    monkeypatch.setattr(Scene, "read", spy)
    monkeypatch.setattr(stream, "CELL_BYTES", cell)
    stream_of(scene, Lattice.over(WIDTH, HEIGHT, size, 12, margin), batch=4, threads=threads)
    times = np.zeros((HEIGHT, WIDTH), int)
    for window in reads:
        times[window.toslices()] += 1
        assert window.row_off % 32 == 0 and window.col_off % 64 == 0
    assert (times == 1).all()
    assert (len(reads) > 5) == (cell < 1 << 24 or threads > 1)


def test_threads_read_the_next_rows_before_the_current_ones_are_used(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_row = 0
    has_read_ahead = Event()
    read = Scene.read

    def spy(self: Scene, window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
        nonlocal last_row
        last_row = max(last_row, window.row_off + window.height)
        if last_row > 32:
            has_read_ahead.set()
        return read(self, window)

    monkeypatch.setattr(Scene, "read", spy)
    lattice = Lattice.over(WIDTH, HEIGHT, 32, 0)
    area = Area(
        lattice=lattice,
        rows=range(len(lattice.rows)),
        cols=range(len(lattice.cols)),
        shown=Window(0, 0, WIDTH, HEIGHT),
    )
    with ExitStack() as stack:
        scenes = [stack.enter_context(open_scene(scene)) for _ in range(2)]
        readers = stack.enter_context(closing(Readers(scenes, {})))
        with closing(batches(readers, area, torch.device("cpu"))) as made:
            first = next(made)
            assert first[0].row == 0
            assert has_read_ahead.wait(timeout=60)
            assert last_row <= 64  # not the whole scene


def test_a_south_up_scene_is_read_once_too(make_raster: MakeRaster, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_raster(
        "south.tif", IMAGE, transform=Affine(30, 0, 6e5, 0, 30, 3e6), tiled=True, blockxsize=64, blockysize=32
    )
    rows: Counter[int] = Counter()
    read = Scene.read

    def spy(self: Scene, window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
        rows.update(range(window.row_off, window.row_off + window.height))
        assert window.row_off % 32 == 0
        return read(self, window)

    monkeypatch.setattr(Scene, "read", spy)
    lattice = Lattice.over(WIDTH, HEIGHT, 64, 16)
    found = {(row, col): image for batch in stream_of(path, lattice) for row, col, image, *_ in batch}
    assert rows == Counter(range(HEIGHT))
    np.testing.assert_array_equal(found[0, 0], IMAGE[:, ::-1][:, :64, :64])


def test_batches_are_full_and_even_and_never_mix_groups(scene: Path) -> None:
    lattice = Lattice.over(WIDTH, HEIGHT, 32, 0)  # 7 windows across
    for group in (1, 2):
        sizes = []
        for batch in stream_of(scene, lattice, batch=5, group=group):
            assert len({row // group for row, *_ in batch}) == 1
            sizes.append(len(batch))
        assert max(sizes) <= 5 and min(sizes) >= 3


@pytest.mark.parametrize("group", [1, 2, 3])
def test_batches_are_the_same_wherever_reading_begins(scene: Path, group: int) -> None:
    lattice = Lattice.over(WIDTH, HEIGHT, 32, 16)
    whole = stream_of(scene, lattice, batch=5, group=group)
    for start in range(0, len(lattice.rows), group):
        part = stream_of(scene, lattice, batch=5, group=group, rows=range(start, len(lattice.rows)))
        rest = [batch for batch in whole if batch[0][0] >= start]
        assert [[item[:2] for item in batch] for batch in part] == [[item[:2] for item in batch] for batch in rest]
        for one, other in zip(part, rest, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a[2], b[2])


def test_only_what_is_shown_is_wanted_but_all_is_seen(scene: Path) -> None:
    lattice = Lattice.over(WIDTH, HEIGHT, 32, 8)
    shown = Window(100, 60, 40, 25)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[shown.toslices()] = True
    for batch in stream_of(scene, lattice, shown=shown):
        for row, col, _, valid, wanted in batch:
            place = lattice.window(row, col).toslices()
            np.testing.assert_array_equal(wanted, inside[place] & ~HOLES[place])
            np.testing.assert_array_equal(valid, ~HOLES[place])


def test_what_no_polygon_touches_is_not_even_read(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LowerEdge:
        def touches(self, window: Window) -> bool:
            return bool(window.row_off + window.height > 120)

        def mask(self, window: Window) -> NDArray[np.bool_]:
            rows = np.arange(window.row_off, window.row_off + window.height)
            return (rows >= 120)[:, None].repeat(window.width, axis=1)

    reads: list[Window] = []
    read = Scene.read
    monkeypatch.setattr(Scene, "read", lambda self, window: (reads.append(window), read(self, window))[1])
    lattice = Lattice.over(WIDTH, HEIGHT, 32, 8)
    found = [item for batch in stream_of(scene, lattice, inside=LowerEdge()) for item in batch]
    assert found and all(lattice.rows[row] + 32 > 120 for row, *_ in found)
    assert min(window.row_off for window in reads) > 60
