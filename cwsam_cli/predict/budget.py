"""How to cut a scene so that the work fits in memory: windows at a time, and columns at a time.

Memory grows with the width of what is worked on, never with its height, so a scene that is
too wide is cut into columns. Neighbouring columns share the windows on their border, which
the model then sees twice; so columns are as wide as the memory allows, and fewer windows at
a time come before narrow columns.
"""

from dataclasses import dataclass

from cwsam_cli.errors import MachineError
from cwsam_cli.predict.windows import CELL_BYTES
from cwsam_cli.raster.grid import Lattice

BLOCK = 256
"""Pixels a side of a map file's blocks; pieces of a map are as high."""

_FEW = 6
"""Windows across a column, below which smaller batches are the lesser evil."""
_IN_FLIGHT = 3
"""Batches at a time: being read, with the model, being blended."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What takes memory, in bytes."""

    fixed: int
    """Before the first pixel: the program, the weights, GDAL's cache."""
    model: int
    """Of the model, for each window of a batch."""
    bands: int
    image_bytes: int
    """Of a value of the scene."""
    classes: int
    layers: int
    """Of the map, one byte a pixel."""
    block_height: int
    """Of the scene's file."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Processes that share the memory."""

    size: int = 1
    waiting: int = 0
    """Bytes of a further one that waits for them."""

    def share(self, limit: int) -> int:
        """What one of them may take of a limit for all."""
        return (limit - self.waiting) // self.size

    def together(self, each: int) -> int:
        """What all take, if each takes so much."""
        return each * self.size + self.waiting


@dataclass(frozen=True, slots=True)
class Cut:
    """How the work is cut."""

    batch: int
    """Windows at a time."""
    group: int
    """Rows of windows that fill batches together."""
    columns: int
    """Pixels wide, a multiple of `BLOCK`."""
    bytes: int
    """Memory of a process at the peak, estimated."""


def cut(lattice: Lattice, width: int, costs: Costs, *, batch: int, limit: int, crew: Crew | None = None) -> Cut:
    """The widest columns, and the largest batch up to `batch`, that stay within the limit.

    Args:
        lattice: all windows.
        width: pixels across what the map shows.
        costs: of this scene and model.
        batch: windows at a time, at most.
        limit: bytes of memory.
        crew: the processes that share it; None is this one alone.

    Raises:
        MachineError: even one window at a time needs more.
    """
    crew = crew or Crew()
    share = crew.share(limit)
    whole = -(-width // BLOCK) * BLOCK
    enough = min(whole, max(BLOCK, _FEW * lattice.size // BLOCK * BLOCK))
    while True:
        fitting = next(
            (w for w in _widths(whole) if (batch == 1 or w >= enough) and _need(lattice, w, batch, costs) <= share),
            None,
        )
        if fitting is not None:
            return Cut(batch, _group(lattice, fitting, batch), fitting, _need(lattice, fitting, batch, costs))
        if batch == 1:
            least, fixed = (crew.together(each) for each in (_need(lattice, min(whole, BLOCK), 1, costs), costs.fixed))
            raise MachineError(
                f"--max-memory {size_text(limit)} is not enough: this model and scene need {size_text(least)}",
                hint=f"give it more, or leave it out: {size_text(fixed)} of it are the program and the weights",
            )
        batch = (batch + 1) // 2


def _widths(whole: int) -> list[int]:
    """Widths that cut a scene into 1, 2, 3, … columns of about equal breadth, widest first."""
    blocks = whole // BLOCK
    return sorted({-(-blocks // parts) * BLOCK for parts in range(1, blocks + 1)}, reverse=True)


def _group(lattice: Lattice, width: int, batch: int) -> int:
    across = min(len(lattice.cols), width // max(1, lattice.size - lattice.largest_overlap) + 1)
    return max(1, batch // across)


def _need(lattice: Lattice, width: int, batch: int, costs: Costs) -> int:
    size, overlap = lattice.size, lattice.largest_overlap
    seen = min(width + 2 * size, lattice.width)
    step = size - min(overlap, size - 1)
    rows = size + (_group(lattice, width, batch) - 1) * step + min(costs.block_height, max(size, 512))
    strip = 2 * seen * rows * (costs.bands * costs.image_bytes + 2)
    window = size * size * 4
    flight = batch * (costs.model + window * _IN_FLIGHT * (costs.classes + costs.bands))
    kept = 4 * costs.classes * overlap * (width + size)
    finished = costs.layers * width * (3 * size + 3 * BLOCK)
    blending = (5 if costs.layers > 1 else 2) * window * costs.classes
    return costs.fixed + strip + 2 * CELL_BYTES + flight + kept + blending + finished


def size_text(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
