"""Count the labelled pixels of each class in each unit of ground, in the order in which the files hold them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

import numpy as np
from rasterio.windows import Window

from cwsam_cli.distributed.scheduler import Workers
from cwsam_cli.tile.labels.codes import UNEXPECTED, Conflicts, Value, count_codes
from cwsam_cli.tile.scenes import Inputs, SceneReader
from cwsam_cli.tile.split.blocks import Block
from cwsam_cli.tile.split.division import Histograms
from cwsam_cli.tile.workers import cut, in_order

_Work = tuple[int, str, Window]
"""A scene's number, a block's unit, and a window in the block."""
Counted = tuple[Histograms, Conflicts, Counter[Value], Counter[str]]
"""Labels by unit, overlaps of features, values that no class has, and corrected pixels."""
_LEAST = 16
"""Fewest windows that a process counts at a time."""


def count_labels(inputs: Inputs, blocks: Sequence[Sequence[Block]], rows: int, workers: int | Workers) -> Counted:
    """Count the labels in all blocks.

    Args:
        inputs: scenes and labels.
        blocks: blocks by scene.
        rows: rows that are read at a time.
        workers: number of processes, or a cluster.

    Returns:
        See `Counted`. Units keep the order of the blocks. Corrected pixels are named by `CorrectedLabels.count`.
    """
    found: Histograms = {block.unit: Counter() for own in blocks for block in own}
    conflicts: Conflicts = Counter()
    unexpected: Counter[Value] = Counter()
    corrected: Counter[str] = Counter()
    work = [
        (number, block.unit, window)
        for number, own in enumerate(blocks)
        for block, window in _reading_order(own, inputs.scenes[number].column_width(rows), rows)
    ]
    parts = [work[part] for part in cut([(number, window.row_off) for number, _, window in work], _LEAST)]
    for counted, shared, odd, fixed in in_order(partial(_counting, inputs, rows), parts, workers, "reading labels"):
        conflicts += shared
        unexpected += odd
        corrected.update(fixed)
        for unit, histogram in counted.items():
            found[unit].update(histogram)
    return found, conflicts, unexpected, corrected


def _reading_order(blocks: Sequence[Block], column: int, rows: int) -> list[tuple[Block, Window]]:
    """Cut blocks into windows of some rows, in the order in which a file holds them."""
    windows = [
        (block, Window(block.window.col_off, top, block.window.width, min(rows, end - top)))
        for block in blocks
        for end in [int(block.window.row_off + block.window.height)]
        for top in range(int(block.window.row_off), end, rows)
    ]
    return sorted(windows, key=lambda item: (item[1].col_off // column, item[1].row_off, item[1].col_off))


@contextmanager
def _counting(inputs: Inputs, rows: int) -> Iterator[Callable[[list[_Work]], Counted]]:
    """Yield a function that counts the labels in windows of blocks."""
    with closing(SceneReader(inputs.scenes, inputs.table, rows)) as reader:

        def count(work: list[_Work]) -> Counted:
            found: Histograms = {}
            conflicts: Conflicts = Counter()
            unexpected: Counter[Value] = Counter()
            corrected: Counter[str] = Counter()
            for number, unit, window in work:
                opened = reader.open(number)
                conflicts += opened.labels.conflicts(window)
                corrected.update(opened.count_corrections(window))
                counts = count_codes(opened.about_codes(window))
                if counts[UNEXPECTED]:
                    unexpected += opened.labels.unexpected(window)
                present = np.flatnonzero(counts[:UNEXPECTED]).tolist()
                found.setdefault(unit, Counter()).update(dict(zip(present, counts[present].tolist(), strict=True)))
            return found, conflicts, unexpected, corrected

        yield count
