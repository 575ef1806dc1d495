"""The model as a function from batches of windows to scores, and the memory that it takes.

# B windows, C bands, K classes, S pixels per side of a window
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import init_device_mesh

from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.config.schema import FsdpSettings, Precision
from cwsam_cli.console import size_text
from cwsam_cli.distributed.parallelize import assign_weights, release_gathered, shard
from cwsam_cli.distributed.world import World, choose_device
from cwsam_cli.errors import MachineError, UsageError
from cwsam_cli.files import sha256
from cwsam_cli.model.encoder import MLP_RATIO
from cwsam_cli.model.experts import HierarchicalExperts, expert_layers
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.model.weights import named_tensors
from cwsam_cli.predict.blend import Scores
from cwsam_cli.predict.request import AUGMENTATIONS, MapRequest, Turn

_USABLE = 0.94  # of a device's memory
_SLACK = 32 << 20  # bytes; the system must provide returned pages again, so memory is not returned after every batch


@dataclass(frozen=True, slots=True)
class Model:
    """An open checkpoint, and how this process computes with it; the weights are still on disk."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    trained: Checkpoint
    device: torch.device
    precision: Precision
    is_shared: bool
    """Whether each of several processes holds a part of it."""
    program_bytes: int
    """Memory that this process had before the weights were read."""

    @classmethod
    def open(cls, request: MapRequest, *, digest: str = "", device: torch.device | None = None) -> "Model":
        """Open the checkpoint of a request.

        Args:
            request: names the checkpoint.
            digest: SHA-256 of the checkpoint, if another process has computed it already.
            device: this process's own, if it is one of several; None follows the request.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            MachineError: the device is too small for it.
        """
        trained = load_checkpoint(request.checkpoint)
        device = device or choose_device(request.device)
        return cls(
            path=request.checkpoint,
            digest=digest or sha256(request.checkpoint),
            trained=trained,
            device=device,
            precision=choose_precision(request.precision, device),
            is_shared=must_be_shared(trained, device, request.gpus),
            program_bytes=resident_memory(),
        )

    def expert_groups(self, request: MapRequest) -> int:
        """How many expert groups the layer of experts shows; 0 if the request does not want that layer.

        Raises:
            UsageError: the request wants it, but the model has fewer than two groups.
        """
        arch = self.trained.architecture
        if request.experts and arch.moe_num_expert_groups < 2:
            raise UsageError("--experts: this model has no groups of experts", hint="leave it out")
        return arch.moe_num_expert_groups if request.experts else 0

    def scorer(self, request: MapRequest, world: World | None = None) -> "Scorer | Lockstep":
        """Read the weights.

        Args:
            request: how to compute.
            world: the processes that share the model; None or an unshared model puts all of it on this device.
        """
        if self.is_shared and world is not None:
            network: nn.Module = shared_network(self.trained, world, self.precision)
        else:
            network = self.trained.model().to(self.device)
        scorer = Scorer(
            network,
            self.device,
            views=AUGMENTATIONS[request.tta],
            precision=self.precision,
            hidden=self.trained.hidden_class,
            expert_groups=self.expert_groups(request),
        )
        if not self.is_shared or world is None:
            return scorer
        arch = self.trained.architecture
        return Lockstep(scorer, world, torch.zeros(1, arch.num_bands, arch.inp_size, arch.inp_size))


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores of a batch of windows.

    The model is on its device already. Scores are averaged over `views`, and the class `hidden` is never predicted.
    """

    model: nn.Module
    device: torch.device
    views: tuple[Turn, ...] = AUGMENTATIONS["none"]
    precision: str = "fp32"
    hidden: int | None = None
    expert_groups: int = 0
    """Number of further planes that say which expert group served a pixel; the model must have as many groups."""

    def __call__(self, images: Tensor) -> Scores:
        """Normalised (B, C, S, S) → logits (B, K + expert groups, S, S), which the caller may overwrite."""
        with (
            torch.no_grad(),  # inference mode and sharded weights do not go together
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            images = images.to(self.device, non_blocking=True)
            total = self._one_view(images, self.views[0])
            for view in self.views[1:]:
                total += self._one_view(images, view)
            if len(self.views) > 1:
                total /= len(self.views)
            return np.asarray(total.cpu().numpy(), np.float32)

    def _one_view(self, images: Tensor, view: Turn) -> Tensor:
        turns, flip = view
        seen = torch.rot90(images, turns, (2, 3))
        with _watched(self.model, self.expert_groups) as served:
            scores = self.model(seen.flip(3) if flip else seen).float()
        if self.hidden is not None:
            scores[:, self.hidden] = -torch.inf
        if self.expert_groups:
            by_patch = torch.stack(served).mean(dim=0).movedim(-1, 1)
            by_pixel = nn.functional.interpolate(by_patch, size=scores.shape[-2:], mode="nearest")
            scores = torch.cat([scores, by_pixel], dim=1)
        return torch.rot90(scores.flip(3) if flip else scores, -turns, (2, 3)).contiguous()


@contextmanager
def _watched(model: nn.Module, groups: int) -> Iterator[list[Tensor]]:
    """Collect each group's weight on every patch, (B, H, W, G), for each expert layer of so many groups."""
    served: list[Tensor] = []

    def note(layer: HierarchicalExperts, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        with torch.autocast(x.device.type, enabled=False):
            weights, chosen = layer.route(x.reshape(-1, x.shape[-1]).float())
        shares = weights.new_zeros(len(weights), groups).scatter_add_(1, chosen // layer.experts, weights)
        served.append(shares.view(*x.shape[:-1], groups))

    layers = [layer for _, layer in expert_layers(model) if len(layer.groups) == groups] if groups else []
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield served
    finally:
        for hook in hooks:
            hook.remove()


def shared_network(trained: Checkpoint, world: World, precision: Precision) -> ClassWiseSam:
    """Build the network so that every process holds a part of it."""
    with torch.device("meta"):
        network = ClassWiseSam(trained.architecture)
    names = [name for name, _ in named_tensors(network)]
    mesh = init_device_mesh(world.device.type, (world.size,))
    shard(network, mesh, precision=precision, settings=FsdpSettings(), accumulates=False)
    network.to_empty(device=world.device)
    for _ in assign_weights(network, ((name, trained.finite_weight(name)) for name in names), world.device):
        world.beat()
    return network.eval()


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Scores by a network that several processes share.

    All processes together gather its layers for every pass, so all must make equally many passes. A process that has
    no window left passes a blank one until the others have finished.
    """

    scorer: Scorer
    world: World
    blank: Tensor
    """An image of zeros, (1, C, S, S)."""

    def __call__(self, images: Tensor) -> Scores:
        """See `Scorer`."""
        self._any_continues(True)
        return self._pass(images)

    def finish(self) -> None:
        """Pass blank windows until no process has a window left."""
        while self._any_continues(False):
            self._pass(self.blank)

    def _any_continues(self, this: bool) -> bool:
        self.world.beat()
        return bool(self.world.total(torch.tensor([int(this)], device=self.world.device)).item())

    def _pass(self, images: Tensor) -> Scores:
        scores = self.scorer(images)
        release_gathered(self.scorer.model)
        return scores


def choose_precision(name: str, device: torch.device) -> Precision:
    """What `--precision` means: `auto` is bf16 where the hardware multiplies in it, else fp32."""
    if name != "auto":
        return cast(Precision, name)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    quick: list[Callable[[], bool]] = [torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported]
    return "bf16" if device.type == "cpu" and any(has() for has in quick) else "fp32"


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
