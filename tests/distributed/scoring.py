"""What the processes of `test_scoring.py` do."""

import torch
from torch.distributed.tensor import DTensor

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.config.load import load_config
from cwsam_cli.distributed.world import World
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.predict.scoring.network import Lockstep, shared_network
from cwsam_cli.predict.scoring.scorer import Scorer
from cwsam_cli.taxonomy import from_names

_MODE = (
    "model.args.encoder_mode={embed_dim: 24, depth: 2, num_heads: 2, global_attn_indexes: [1], patch_size: 8, "
    "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 2, "
    "moe_experts_per_group: 2, moe_start_layer_index: 1}"
)


def small() -> Architecture:
    """A mixture of two groups of experts."""
    return architecture(load_config("tiny", ["model.args.inp_size=32", _MODE]).model, num_bands=3, num_classes=4)


def trained(weights: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(
        weights=weights,
        architecture=small(),
        taxonomy=from_names(["a", "b", "c", "d"]),
        bands=(),
        dtype="uint8",
        gsd_m=None,
        ignore_background=False,
        epoch=1,
        metrics={},
    )


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 32, 32, generator=generator) for size in (2, 3, 1)]


def score_uneven_shares(
    world: World, weights: dict[str, torch.Tensor], expert_groups: int
) -> tuple[list[bytes], float]:
    """Three batches here, one there; the first process's scores, and the part of the weights that it holds."""
    network = shared_network(trained(weights), world, "fp32")
    score = Scorer(network, world.device, expert_groups=expert_groups)
    step = Lockstep(score, world, torch.zeros(1, 3, 32, 32))
    own = batches() if world.is_main else batches()[:1]
    scores = [step(images).numpy().tobytes() for images in own]
    step.finish()
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in network.parameters()]
    held = sum(part.numel() for part in parts)
    return scores, held / sum(parameter.numel() for parameter in network.parameters())
