"""Memory that a map takes, and memory that a machine has.

Memory grows with the width of what is worked on, never with its height, so a scene that is too wide is cut into
columns. Neighbouring columns share the windows on their border, which the model then sees twice. So columns are as
wide as the memory allows, and batches become smaller before columns become narrow.
"""

import ctypes
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from rasterio.windows import Window

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.console import size_text
from cwsam_cli.errors import MachineError
from cwsam_cli.model.encoder import MLP_RATIO
from cwsam_cli.model.variants import Architecture
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.windows import CELL_BYTES
from cwsam_cli.raster.lattice import Lattice
from cwsam_cli.raster.mapfile import BLOCK

_USABLE = 0.94  # of a device's memory
_FREE = 0.9  # of an accelerator's free memory
_FEW = 6  # windows across a column; below that, smaller batches cost less than narrower columns
_IN_FLIGHT = 3  # batches at a time: one is read, one is with the model, one is blended; see `transfer.Pace`
_SLACK = 32 << 20  # bytes; the system must provide returned pages again, so memory is not returned after every batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Memory that one process needs, by the width of a column and the number of windows per batch.

    On an accelerator the strip of the scene, the model and the blending take the device's memory. The host then holds
    rows on their way up and finished rows.
    """

    lattice: Lattice
    fixed: int
    """Bytes before the first pixel: the program, GDAL's cache, and on the CPU the weights."""
    device_fixed: int | None = None
    """Bytes of weights on an accelerator; None on the CPU."""
    model: int
    """Bytes that the model takes for each window of a batch."""
    bands: int
    image_bytes: int
    """Bytes of one value of the scene."""
    classes: int
    layers: int
    block_height: int
    """Pixels, of a block in the scene's file."""

    def group(self, width: int, batch: int) -> int:
        """Rows of windows that fill a batch together."""
        across = min(len(self.lattice.cols), width // max(1, self.lattice.size - self.lattice.largest_overlap) + 1)
        return max(1, batch // across)

    def bytes(self, width: int, batch: int) -> int:
        """Peak of the host, with columns of so many pixels and batches of so many windows."""
        # torch rounds pinned memory up to powers of two; the rows that are read ahead are a third part.
        own = 5 * self._strip(width, batch) // 2 if self.device_fixed is not None else self._work(width, batch)
        return self.fixed + 2 * CELL_BYTES + own + self._finished(width)

    def device_bytes(self, width: int, batch: int) -> int:
        """Peak of the accelerator; 0 on the CPU."""
        if self.device_fixed is None:
            return 0
        return self.device_fixed + self._work(width, batch) + self._strip(width, batch) // 2 + self._finished(width)

    def _strip(self, width: int, batch: int) -> int:
        size, overlap = self.lattice.size, self.lattice.largest_overlap
        seen = min(width + 2 * size, self.lattice.width)
        step = size - min(overlap, size - 1)
        rows = size + (self.group(width, batch) - 1) * step + min(self.block_height, max(size, 512))
        return 2 * seen * rows * (self.bands * self.image_bytes + 2)

    def _work(self, width: int, batch: int) -> int:
        size, overlap = self.lattice.size, self.lattice.largest_overlap
        window = size * size * 4
        flight = batch * (self.model + window * _IN_FLIGHT * (self.classes + self.bands))
        kept = 4 * self.classes * overlap * (width + size)
        blending = (5 if self.layers > 1 else 2) * window * self.classes
        return self._strip(width, batch) + flight + kept + blending

    def _finished(self, width: int) -> int:
        return self.layers * width * (3 * self.lattice.size + 3 * BLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicNeeds(Needs):
    """Memory for a mosaic: strips of all scenes that are open at the same time, and sums across a column."""

    places: tuple[tuple[Window, Needs], ...]
    """Part of the mosaic that each scene shows, and the scene's needs."""
    left: int
    """First column of the mosaic that is shown."""

    def group(self, width: int, batch: int) -> int:
        """Rows of windows that fill a batch together."""
        return 1

    def _strip(self, width: int, batch: int) -> int:
        size, changes = self.lattice.size, defaultdict[int, list[tuple[int, int]]](list)
        for place, own in self.places:
            bytes_ = Needs._strip(own, min(width, int(place.width)), batch) + 4 * batch * size * size * self.bands
            left, top = int(place.col_off) - self.left, int(place.row_off)
            for column in range(left // width, (left + int(place.width) - 1) // width + 1):
                changes[column] += [(top - size, bytes_), (top + int(place.height), -bytes_)]
        return max(max(accumulate(change for _, change in sorted(own))) for own in changes.values())

    def _work(self, width: int, batch: int) -> int:
        window = self.lattice.size**2 * 4
        flight = batch * (self.model + window * _IN_FLIGHT * (self.classes + self.bands))
        sums = 4 * (self.classes + 2) * self.lattice.size * width
        blending = (5 if self.layers > 1 else 2) * window * self.classes
        return self._strip(width, batch) + flight + sums + blending


def cut(
    needs: Needs, width: int, request: MapRequest, *, limit: int, waiting: int = 0, room: int = 0
) -> tuple[int, int]:
    """Choose the widest columns, and the largest batch up to the request's, that stay within the limits.

    Args:
        needs: of one process.
        width: pixels across the map.
        request: says how many windows and processes there may be.
        limit: bytes of main memory for all processes together.
        waiting: bytes of a further process that waits for the others.
        room: bytes of one accelerator, if there is one.

    Returns:
        Pixels across a column, a multiple of `BLOCK`, and windows per batch.

    Raises:
        MachineError: even one window at a time needs more.
    """
    share = (limit - waiting) // request.gpus
    blocks = -(-width // BLOCK)
    enough = min(blocks * BLOCK, max(BLOCK, _FEW * needs.lattice.size // BLOCK * BLOCK))
    widths = sorted({-(-blocks // parts) * BLOCK for parts in range(1, blocks + 1)}, reverse=True)
    batch = request.batch_size
    while True:
        for column in widths:
            fits = needs.bytes(column, batch) <= share and needs.device_bytes(column, batch) <= room
            if fits and (batch == 1 or column >= enough):
                return column, batch
        if batch == 1:
            break
        batch = (batch + 1) // 2
    least, on_device = needs.bytes(widths[-1], 1), needs.device_bytes(widths[-1], 1)
    if on_device > room:
        limit_text = f"--gpu-memory {size_text(room)}" if request.gpu_memory else f"the GPU's free {size_text(room)}"
        raise MachineError(
            f"{limit_text} is not enough: this model and scene need {size_text(on_device)}",
            hint=f"end other programs on the GPU: {size_text(needs.device_fixed or 0)} of it are the weights",
        )
    least, fixed = (each * request.gpus + waiting for each in (least, needs.fixed))
    raise MachineError(
        f"--max-memory {size_text(limit)} is not enough: this model and scene need {size_text(least)}",
        hint=f"give it more, or leave it out: {size_text(fixed)} of it are the program and the weights",
    )


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken of an accelerator: 90 % of what is free or what this process has taken already."""
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):  # Apple's GPUs have the machine's memory
        return int(_FREE * (_total_memory(device) or 0))
    return int(_FREE * (module.mem_get_info(device)[0] + module.memory_reserved(device)))


def _total_memory(device: torch.device) -> int | None:
    module = torch.get_device_module(device)
    if device.type == "cpu" or not hasattr(module, "get_device_properties"):
        return physical_memory()
    return int(module.get_device_properties(device).total_memory)


def must_be_shared(trained: Checkpoint, device: torch.device, processes: int) -> bool:
    """Whether the model does not fit on the device, but a part of it does.

    Processes on one machine's CPU share its memory, so sharing a model gains nothing there.

    Raises:
        MachineError: not even a part fits.
    """
    weights, pass_ = weight_bytes(trained), activation_bytes(trained.architecture)
    on_gpu = device.type != "cpu"
    room = _total_memory(device)
    if room is None or weights + pass_ <= _USABLE * room:
        return False
    if on_gpu and weights / processes + pass_ <= _USABLE * room:
        return True
    parameters = sum(tensor.numel() for tensor in trained.weights.values())
    raise MachineError(
        f"the model has {parameters / 1e9:.2f} B parameters, {size_text(weights)} of weights, and takes "
        f"{size_text(pass_)} for a window; {device} has {size_text(room)}",
        hint="share it between several GPUs: --gpus N; or use a machine with more memory",
    )


def weight_bytes(trained: Checkpoint) -> int:
    """Bytes of all weights."""
    return sum(tensor.nbytes for tensor in trained.weights.values())


def activation_bytes(arch: Architecture, *, views: int = 1) -> int:
    """Estimate the memory that a forward pass without gradients takes per image.

    This is three times the largest of the encoder's blocks and the decoder's last planes, in float32: passes leave
    holes in the heap. A test compares it with what passes really take.
    """
    tokens, dim = arch.patches**2, arch.embed_dim
    copies = max(1, arch.moe_k_groups * arch.moe_k_experts) if arch.moe_num_expert_groups else 1
    attention = 5 * tokens * dim + 2 * min(4, arch.num_heads) * tokens * tokens
    mlp = tokens * dim * (3 + copies * (2 + 2 * MLP_RATIO))
    out = arch.prompt_embed_dim
    planes = 16 * tokens * (out // 8 * 3 + arch.num_classes) + 4 * tokens * (out // 4) * 3
    logits = (3 if views > 1 else 1) * arch.num_classes * arch.inp_size**2
    return 3 * 4 * max(2 * tokens * dim + max(attention, mlp), planes + logits)


def physical_memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def resident_memory() -> int:
    """Bytes that this process occupies now; where the system does not tell, what torch and GDAL take elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 350_000_000
    return pages * os.sysconf("SC_PAGE_SIZE")


class Heap:
    """Returns memory that passes have freed to the system, so that it does not add up from batch to batch.

    glibc keeps large blocks of a pass for the next one. Small blocks that live longer, such as oneDNN's kernels,
    fragment them: without this the process grew by 0.3 GB in 500 windows.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._base: int | None = None

    def after_batch(self) -> None:
        """Trim the heap if the process has grown since the batch that followed the last trim."""
        now = resident_memory()
        if self._base is None:
            self._base = now
        elif now > self._base + _SLACK and self._trim is not None:
            self._trim(0)
            self._base = None
