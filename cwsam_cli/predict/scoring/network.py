"""An open checkpoint or exported model, and its network as this process computes with it: whole, or shared."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import is_onnx, open_model
from cwsam_cli.config.schema import FsdpSettings, Precision
from cwsam_cli.distributed.shards import assign_weights, release_gathered
from cwsam_cli.distributed.world import World, choose_device, choose_precision
from cwsam_cli.errors import UsageError
from cwsam_cli.files import sha256
from cwsam_cli.model.compiled import compile_blocks, pack_experts
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.weights import named_tensors
from cwsam_cli.predict.memory import must_be_shared, resident_memory
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.onnx import OnnxNetwork, refuse_torch_options
from cwsam_cli.predict.scoring.scorer import AUGMENTATIONS, Scorer


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
            UsageError: an exported model cannot serve an option.
            CheckpointError: the checkpoint cannot be read.
            MachineError: the device is too small for it.
        """
        if is_onnx(request.checkpoint):
            refuse_torch_options(request)
            device = torch.device("cpu")
        trained, _ = open_model(request.checkpoint)
        device = device or choose_device(request.device)
        return cls(
            path=request.checkpoint,
            digest=digest or sha256(request.checkpoint),
            trained=trained,
            device=device,
            precision="fp32" if is_onnx(request.checkpoint) else choose_precision(request.precision, device),
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

        Raises:
            UsageError: the request wants a compiled model, but several processes share it.
            MachineError: this machine cannot compile.
        """
        if self.is_shared and request.compile:
            raise UsageError("--compile: several processes share this model", hint="leave it out")
        if self.is_shared and world is not None:
            network: nn.Module = shared_network(self.trained, world, self.precision)
        elif is_onnx(self.path):
            network = OnnxNetwork(self.path, self.trained)
        else:
            network = self.trained.model().to(self.device)
            if request.compile:
                compile_blocks(network, self.device, experts=not request.experts)
                pack_experts(network)
        scorer = Scorer(
            network,
            self.device,
            views=AUGMENTATIONS[request.tta],
            precision=self.precision,
            hidden_class=self.trained.hidden_class,
            expert_groups=self.expert_groups(request),
        )
        if not self.is_shared or world is None:
            return scorer
        arch = self.trained.architecture
        blank = torch.zeros(1, arch.num_bands, arch.inp_size, arch.inp_size, device=self.device)
        return Lockstep(scorer, world, blank)


def shared_network(trained: Checkpoint, world: World, precision: Precision) -> ClassWiseSam:
    """Build the network so that every process holds a part of it."""
    from torch.distributed import init_device_mesh

    from cwsam_cli.distributed.parallelize import shard  # slow to import, and not needed by one process

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

    def __call__(self, images: Tensor) -> Tensor:
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

    def _pass(self, images: Tensor) -> Tensor:
        scores = self.scorer.score_batch(images)  # smaller batches would be more passes than the others make
        release_gathered(self.scorer.model)
        return scores
