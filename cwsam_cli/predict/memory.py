"""Memory that a model takes for prediction, and memory that a machine has."""

import ctypes
import os
import sys
from pathlib import Path

import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.console import size_text
from cwsam_cli.errors import MachineError
from cwsam_cli.model.encoder import MLP_RATIO
from cwsam_cli.model.variants import Architecture

_USABLE = 0.94  # of a device's memory
_SLACK = 32 << 20  # bytes; the system must provide returned pages again, so memory is not returned after every batch


def must_be_shared(trained: Checkpoint, device: torch.device, processes: int) -> bool:
    """Whether the model does not fit on the device, but a part of it does.

    Processes on one machine's CPU share its memory, so sharing a model gains nothing there.

    Raises:
        MachineError: not even a part fits.
    """
    weights, pass_ = weight_bytes(trained), activation_bytes(trained.architecture)
    on_gpu = device.type == "cuda"
    room = torch.cuda.get_device_properties(device).total_memory if on_gpu else physical_memory()
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
