"""Make the pieces of a map: read, score, blend, and append to the journal, each in a thread of its own.

A process takes a stretch of the pieces that the journal lacks. It begins with the group of window rows that its first
piece needs, so it repeats some windows that another process, or a run before a crash, has passed above. It repeats
them in the same batches, so every piece has the same bytes whichever process makes it. Only batches that were halved
because an accelerator's memory was short may differ in the last bits of their scores.

# B windows, C bands, K classes, S pixels per side of a window
"""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from heapq import merge
from itertools import chain
from operator import itemgetter
from typing import Any

import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from cwsam_cli.console import track
from cwsam_cli.dataset.transforms import band_statistics, normalize
from cwsam_cli.errors import CheckpointError
from cwsam_cli.journal import Journal, pack
from cwsam_cli.predict.blend import Blender, Layers, WindowScores, cut_rows
from cwsam_cli.predict.memory import Heap
from cwsam_cli.predict.mosaic import MosaicBlender
from cwsam_cli.predict.plan import MapPlan, PlacedScene
from cwsam_cli.predict.scoring.transfer import Pace, UploadStream, hand_over, use_device
from cwsam_cli.predict.windows import SHOWN, VALID, Area, Readers, WindowPixels, batches, count_readers
from cwsam_cli.raster.prefetch import prefetch
from cwsam_cli.raster.scene import Scene, open_scene
from cwsam_cli.raster.sources.network import gdal_settings, is_remote
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.vector.area import read_area

ScoreWindows = Callable[[Tensor], Tensor]
"""Normalised windows (B, C, S, S) → scores (B, K, S, S) float32, on the same device."""

_Checked = tuple[MapPlan, int, int]
"""The plan of a scene, and row and column of a window in its lattice."""
_Keyed = Generator[tuple[int, int, "_Batch | None"], None, None]
"""First row, number of the scene, and a batch of its windows."""
_Finished = tuple[int, list[_Checked]]
"""Offset of finished rows, and the windows that were checked since the rows before."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows of a scene, ready for the model."""

    plan: MapPlan
    """By which the scene is read."""
    origin: tuple[int, int]
    """Row and column of the map's raster where the scene begins: 0, 0 unless the map is a mosaic."""
    places: list[tuple[int, int]]
    """Row and column in the lattice."""
    images: Tensor
    """Normalised (B, C, S, S)."""
    hidden: Tensor
    """(B, S, S) uint8: 255 where the map shows nodata, else 0."""
    is_uploaded: Any
    """Event of the upload stream."""


def make_pieces(
    plan: MapPlan,
    score: ScoreWindows,
    journal: Journal,
    *,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    is_part: bool = False,
    beat: Callable[[], None] | None = None,
) -> None:
    """Make this process's share of the missing pieces.

    Args:
        plan: of the map.
        score: the network.
        journal: of the map.
        device: of the network.
        rank: number of this process.
        world: number of processes.
        is_part: the share is of all pieces, because the processes do not begin together: each may find others missing.
        beat: called for every batch; an exception that it raises ends the work.
    """

    def is_missing(piece: tuple[int, int]) -> bool:
        return piece[::-1] not in journal.pieces

    todo = plan.pieces if is_part else list(filter(is_missing, plan.pieces))
    own = list(filter(is_missing, todo[rank * len(todo) // world : (rank + 1) * len(todo) // world]))
    bar = track(range(len(own)), "predicting", unit="piece")
    maker = _Maker(plan, score, device, beat)
    with journal.appending(rank) as append:
        for column, first, last in join_pieces(own):
            with closing(prefetch(maker.pieces(column, first, last))) as made:
                for row, layers in made:
                    append(row, column, layers.tobytes())
                    next(bar, None)
    next(bar, None)


def make_stretch(
    plan: MapPlan, score: ScoreWindows, stretch: tuple[int, int, int], *, device: torch.device
) -> list[tuple[int, bytes]]:
    """Make neighbouring pieces of a column.

    Args:
        plan: of the map.
        score: the network.
        stretch: column, first row and last row of the pieces.
        device: of the network.

    Returns:
        Row and packed bytes of each piece.
    """
    with closing(prefetch(_Maker(plan, score, device, None).pieces(*stretch))) as made:
        return [(row, pack(layers.tobytes())) for row, layers in made]


def join_pieces(pieces: Sequence[tuple[int, int]], longest: int = sys.maxsize) -> Iterator[tuple[int, int, int]]:
    """Join neighbouring pieces of a column to stretches of at most so many: column, first row, last row."""
    start = 0
    for at in range(1, len(pieces) + 1):
        ends = at == len(pieces) or pieces[at] != (pieces[at - 1][0], pieces[at - 1][1] + 1)
        if ends or at - start == longest:
            yield pieces[start][0], pieces[start][1], pieces[at - 1][1]
            start = at


@dataclass(frozen=True, slots=True)
class _Maker:
    plan: MapPlan
    score: ScoreWindows
    device: torch.device
    beat: Callable[[], None] | None

    def pieces(self, column: int, first: int, last: int) -> Generator[tuple[int, Layers], None, None]:
        """Yield the row of each piece, and its layers (L, rows, width)."""
        use_device(self.device)
        plan = self.plan
        part = plan.part(column, first, last)
        finish = plan.layers.finisher(self.device)
        blender: Blender | MosaicBlender
        if plan.scenes:
            blender = MosaicBlender(plan.lattice.size, finish, layers=plan.layers.count, device=self.device)
        else:
            blender = Blender(plan.lattice, finish, layers=plan.layers.count, device=self.device)
        checks = _FiniteChecks(plan)
        with closing(prefetch(self._scored(part, checks))) as windows:
            finished = checks.join(blender.blend(windows, part))
            row_cuts = plan.row_cuts[first : last + 2]
            for number, layers in cut_rows(checks.refuse_nonfinite(hand_over(finished)), row_cuts):
                yield first + number, layers

    def _scored(self, part: Window, checks: "_FiniteChecks") -> Iterator[WindowScores]:
        use_device(self.device)
        heap, uploads, pace = Heap(), UploadStream(self.device), Pace(self.device)
        with closing(prefetch(self._read(part, uploads))) as read:
            for batch in read:
                if self.beat is not None:
                    self.beat()
                uploads.wait(batch.is_uploaded, batch.images, batch.hidden)
                scores = self.score(batch.images)
                heap.after_batch()
                pace.after_batch()
                checks.add(batch, scores)
                lattice, (top, left) = batch.plan.lattice, batch.origin
                height, width = min(lattice.size, lattice.height), min(lattice.size, lattice.width)
                for (row, col), own, hidden in zip(batch.places, scores, batch.hidden, strict=True):
                    place = top + lattice.rows[row], left + lattice.cols[col]
                    yield WindowScores(row, col, own, hidden[:height, :width], place)

    def _read(self, part: Window, uploads: UploadStream) -> Iterator[_Batch]:
        """Yield the batches that a part of the map needs."""
        use_device(self.device)
        plan = self.plan
        names = [placed.scene for placed in plan.scenes] or [plan.request.scene]
        settings = gdal_settings(next(filter(is_remote, names), names[0]), cache=plan.gdal_cache)
        with rasterio.Env(**settings):
            if plan.scenes:
                yield from self._read_scenes(part, uploads, settings)
                return
            rows, cols = plan.lattice.touching(part)
            every, _ = plan.lattice.touching(plan.shown)
            begin = every.start + (rows.start - every.start) // plan.group * plan.group
            end = min(every.stop, every.start - (every.start - rows.stop) // plan.group * plan.group)
            yield from self._read_scene(plan, (0, 0), (range(begin, end), cols), uploads, settings)

    def _read_scenes(self, part: Window, uploads: UploadStream, settings: Mapping[str, Any]) -> Iterator[_Batch]:
        """Yield batches of all scenes of a mosaic from north to south; a scene is open from its first to its last."""

        def keyed(number: int, placed: PlacedScene, own: Window) -> _Keyed:
            rows, cols = placed.lattice.touching(own)
            yield placed.row + placed.lattice.rows[rows.start], number, None  # the scene is not opened before its turn
            batches = self._read_scene(
                self.plan.of_scene(placed), (placed.row, placed.col), (rows, cols), uploads, settings
            )
            with closing(batches):
                for batch in batches:
                    yield placed.row + placed.lattice.rows[batch.places[0][0]], number, batch

        parts = [(number, placed, placed.within(part)) for number, placed in enumerate(self.plan.scenes)]
        with ExitStack() as stack:
            streams = [
                stack.enter_context(closing(keyed(number, placed, own)))
                for number, placed, own in parts
                if own is not None
            ]
            for _, _, batch in merge(*streams, key=itemgetter(0, 1)):
                if batch is not None:
                    yield batch

    def _read_scene(
        self,
        plan: MapPlan,
        origin: tuple[int, int],
        windows: tuple[range, range],
        uploads: UploadStream,
        settings: Mapping[str, Any],
    ) -> Generator[_Batch, None, None]:
        """Yield the batches of some rows and columns of a scene's lattice."""
        rows, cols = windows
        request = plan.request
        with ExitStack() as stack:
            number = count_readers(self.device, request.gpus)
            scenes = [stack.enter_context(open_planned(plan)) for _ in range(number)]
            readers = stack.enter_context(closing(Readers(scenes, settings)))
            inside = read_area(request.aoi, scenes[0].north_up) if request.aoi else None
            area = Area(
                lattice=plan.lattice,
                rows=rows,
                cols=cols,
                shown=plan.shown,
                inside=inside,
                batch=plan.batch,
                group=plan.group,
            )
            stack.enter_context(uploads.enter())
            mean, std = band_statistics(plan.bands, self.device)
            for pixels in batches(readers, area, self.device):
                images, masks = _stack(pixels, plan.lattice.size)
                images = normalize(images, masks & VALID, mean, std)
                hidden = (masks < SHOWN).to(torch.uint8) * IGNORE
                places = [(item.row, item.col) for item in pixels]
                yield _Batch(plan, origin, places, images, hidden, uploads.mark())


def open_planned(plan: MapPlan) -> AbstractContextManager[Scene]:
    """Open the scene of a map."""
    request = plan.request
    return open_scene(
        request.scene,
        wanted_bands=[band.name for band in plan.bands],
        chosen_bands=request.bands,
        alpha=request.alpha,
        pixel_m=plan.pixel_m,
    )


def _stack(windows: list[WindowPixels], size: int) -> tuple[Tensor, Tensor]:
    """Stack windows to images (B, C, S, S) float32 and masks (B, S, S) uint8. Beyond a small scene both are 0."""
    bands, height, width = windows[0].image.shape
    device = windows[0].mask.device
    make = torch.empty if height == width == size else torch.zeros
    images = make((len(windows), bands, size, size), device=device)
    masks = make((len(windows), size, size), dtype=torch.uint8, device=device)
    for item, image, mask in zip(windows, images, masks, strict=True):
        image[:, :height, :width] = item.image
        mask[:height, :width] = item.mask
    return images, masks


class _FiniteChecks:
    """Checks that scores are finite where the map shows a pixel; the host reads them together with finished rows."""

    def __init__(self, plan: MapPlan) -> None:
        self.plan = plan
        self._done: deque[tuple[list[_Checked], Tensor]] = deque()

    def add(self, batch: _Batch, scores: Tensor) -> None:
        """Check a batch; the score of a hidden class is minus infinity, so the best class counts."""
        best = scores[:, : len(self.plan.layers.taxonomy)].amax(dim=1)
        places = [(batch.plan, row, col) for row, col in batch.places]
        self._done.append((places, (best.isfinite() | (batch.hidden > 0)).flatten(1).all(dim=1)))

    def join(self, stretches: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[_Finished, list[Tensor]]]:
        """Add to finished rows the checks of all windows that they may come from."""
        for top, rows in stretches:
            done = [self._done.popleft() for _ in range(len(self._done))]
            places = [place for of_batch, _ in done for place in of_batch]
            yield (top, places), [rows, *(flags for _, flags in done)]

    def refuse_nonfinite(
        self, stretches: Iterable[tuple[_Finished, list[NDArray[Any]]]]
    ) -> Iterator[tuple[int, Layers]]:
        """Pass on rows whose scores are finite.

        Raises:
            CheckpointError: scores are not finite where the map shows a pixel.
        """
        for (top, places), (rows, *flags) in stretches:
            for (plan, row, col), is_finite in zip(places, chain.from_iterable(flags), strict=True):
                if not is_finite:
                    x, y = max(0, plan.lattice.cols[col]), max(0, plan.lattice.rows[row])
                    raise CheckpointError(
                        f"the model's scores are not finite in the window at column {x}, row {y} of "
                        f"`{plan.request.scene}`",
                        hint="try --precision fp32; if that does not help, train the model again with a lower lr",
                    )
            yield top, rows
