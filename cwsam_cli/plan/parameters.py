"""Count the parameters and operations of a model, without memory for its weights."""

from dataclasses import dataclass

import torch

from cwsam_cli.model.decoder import DEPTH, DOWNSAMPLE
from cwsam_cli.model.encoder import MLP_RATIO
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Size of a model."""

    parts: dict[str, int]
    """Parameters by part; they sum to `total`."""
    total: int
    active: int
    """Parameters that are active for one token: all except those of experts it is not routed to."""
    flops: int
    """Floating-point operations of one forward pass of one image; see `forward_flops`."""


def model_size(arch: Architecture) -> ModelSize:
    """Count the parameters and operations of a model."""
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        parts[part] = parts.get(part, 0) + parameter.numel()
    total = sum(parts.values())
    return ModelSize(dict(sorted(parts.items())), total, total - _idle(arch, parts), forward_flops(arch))


def _part(name: str) -> str:
    if ".adapter_" in name or ".prompt." in name:
        return "adapters and prompts"
    if ".mlp.groups." in name:
        where = "decoder" if name.startswith("mask_decoder") else "encoder"
        return f"{where} experts, group {name.split('.mlp.groups.')[1].split('.')[0]}"
    if ".mlp.routers." in name or ".mlp.group_router." in name:
        return "routers"
    if name.startswith("mask_decoder"):
        return "decoder"
    if ".attn." in name:
        return "encoder attention"
    if ".mlp." in name:
        return "encoder dense MLPs"
    return "encoder embedding, norms, neck"


def _idle(arch: Architecture, parts: dict[str, int]) -> int:
    """Count the parameters of experts that a token is not routed to."""
    idle = 0
    for name, count in parts.items():
        if name.startswith("encoder experts"):
            kept = arch.moe_k_groups * arch.moe_k_experts / (arch.moe_num_expert_groups * arch.moe_experts_per_group)
            idle += round(count * (1 - kept))
        elif name.startswith("decoder experts"):
            idle += round(count * (1 - arch.moe_decoder_k_experts / arch.moe_decoder_experts))
    return idle


def forward_flops(arch: Architecture) -> int:
    """Count the floating-point operations of one image's forward pass. A multiply-add counts as two.

    Only matrix products and convolutions count, as in `torch.utils.flop_counter`; norms,
    activations, softmax, sorting and the Fourier transform do not.
    """
    dim, side = arch.embed_dim, arch.patches
    tokens = side * side
    macs = tokens * dim * arch.num_bands * arch.patch_size**2
    for block in range(arch.depth):
        grid = side if block in arch.global_attn_indexes else arch.window_size
        windows = 1 if block in arch.global_attn_indexes else (-(-side // arch.window_size)) ** 2
        seen = windows * grid * grid  # tokens including the padding of windows
        macs += seen * dim * 4 * dim + 2 * seen * grid * grid * dim + 2 * seen * grid * dim
        copies = 1
        if arch.has_experts(block):
            copies = arch.moe_k_groups * arch.moe_k_experts
            groups = arch.moe_num_expert_groups
            macs += tokens * dim * (groups * arch.moe_experts_per_group + (groups if groups > 1 else 0))
        macs += copies * tokens * 2 * dim * MLP_RATIO * dim
        if arch.adaptor == "adaptor":
            macs += 2 * tokens * 2 * dim * (dim // 4)
    if arch.adaptor == "adaptor" and arch.input_type == "fft":
        narrow = dim // 32
        macs += tokens * narrow * (arch.num_bands * arch.patch_size**2 + dim)
        macs += arch.depth * tokens * narrow * (narrow + dim)
    out = arch.prompt_embed_dim
    macs += tokens * out * (dim + 9 * out)
    return 2 * (macs + _decoder_macs(arch, tokens))


def _decoder_macs(arch: Architecture, tokens: int) -> int:
    out, classes = arch.prompt_embed_dim, arch.num_classes
    inner = out // DOWNSAMPLE
    cross = 2 * (tokens + classes) * out * inner + 2 * tokens * classes * inner
    own = 4 * classes * out * out + 2 * classes * classes * out
    copies = arch.moe_decoder_k_experts if arch.moe_decoder_experts else 1
    mlp = classes * 2 * out * arch.decoder_mlp_dim * copies
    if arch.moe_decoder_experts:
        mlp += classes * out * arch.moe_decoder_experts
    macs = DEPTH * (own + 2 * cross + mlp) + cross
    macs += tokens * 2 * out // 2  # the position code's projection
    macs += 4 * tokens * out * (out // 4) + 16 * tokens * (out // 4) * (out // 8)
    macs += classes * (2 * out * out + out * out // 8) + 16 * tokens * classes * (out // 8)
    if arch.detail_stem:
        stride = arch.patch_size // 4
        macs += 16 * tokens * (out // 8) * (arch.num_bands * (stride + 1 + stride % 2) ** 2 + 3 * 9 * (out // 8))
    return macs
