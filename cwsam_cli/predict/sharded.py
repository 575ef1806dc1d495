"""A model that no device holds alone, shared out over several processes as in training.

Its layers are gathered for every pass by all processes together, so all must make equally
many passes: one that has nothing left to score passes nothing until the others have done.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import init_device_mesh

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.config.schema import FsdpSettings, Precision
from cwsam_cli.distributed.parallelize import assign_weights, release_gathered, shard
from cwsam_cli.distributed.world import World
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.weights import named_tensors
from cwsam_cli.predict.plan import Model
from cwsam_cli.predict.request import MapOptions
from cwsam_cli.predict.scorer import Scorer


def shared_model(trained: Checkpoint, world: World, precision: Precision) -> ClassWiseSam:
    """The network, of which every process holds a part."""
    with torch.device("meta"):
        model = ClassWiseSam(trained.architecture)
    names = [name for name, _ in named_tensors(model)]
    mesh = init_device_mesh(world.device.type, (world.size,))
    shard(model, mesh, precision=precision, settings=FsdpSettings(), accumulates=False)
    model.to_empty(device=world.device)
    for _ in assign_weights(model, ((name, trained.finite_weight(name)) for name in names), world.device):
        world.beat()
    return model.eval()


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Scores in step with the other processes; see `Scorer`."""

    score: Scorer
    world: World
    blank: Tensor
    """An image of nothing, (1, C, S, S)."""

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """One pass of this process's own."""
        self._some_go_on(True)
        return self._pass(images)

    def finish(self) -> None:
        """Pass nothing, until no process has anything left."""
        while self._some_go_on(False):
            self._pass(self.blank)

    def _some_go_on(self, this: bool) -> bool:
        self.world.beat()
        return bool(self.world.total(torch.tensor([int(this)], device=self.world.device)).item())

    def _pass(self, images: Tensor) -> NDArray[np.float32]:
        scores = self.score(images)
        release_gathered(self.score.model)
        return scores


def own_scorer(model: Model, world: World, options: MapOptions) -> Scorer | Lockstep:
    """What a process scores with: the model, or its part of a model that none can hold alone."""
    if not model.shared:
        return model.scorer(options)
    arch = model.trained.architecture
    network = shared_model(model.trained, world, model.precision)
    return Lockstep(model.scorer(options, network), world, torch.zeros(1, arch.num_bands, arch.inp_size, arch.inp_size))
