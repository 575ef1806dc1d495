"""List the model variants, and compute the architecture that a configuration asks for.

`encoder_mode` overrides the numbers of a variant.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from cwsam_cli.config.schema import ModelConfig, Variant
from cwsam_cli.errors import ConfigError

_LARGEST = 1 << 20
"""Largest whole number in an architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """All settings that decide a model's tensors; stored in every checkpoint."""

    embed_dim: int
    """Width of a patch token."""
    depth: int
    """Number of transformer blocks."""
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    """Numbers of the blocks that attend to the whole image; the others attend within windows."""
    num_bands: int
    num_classes: int
    inp_size: int
    """Side of the input in pixels."""
    window_size: int = 14
    """Side of an attention window in patches."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    prompt_embed_dim: int = 256
    """Width of the neck and the decoder."""
    decoder_mlp_dim: int = 2048
    detail_stem: bool = False
    moe_start_layer_index: int = 0
    """Number of the first block with experts instead of an MLP."""
    moe_num_expert_groups: int = 0
    """Number of expert groups; 0 leaves the encoder dense."""
    moe_experts_per_group: int = 16
    moe_k_groups: int = 1
    """Groups chosen per token."""
    moe_k_experts: int = 4
    """Experts chosen per chosen group."""
    moe_noisy_gating: bool = False
    moe_decoder_experts: int = 0
    """Number of experts instead of the decoder's MLPs; 0 leaves the decoder dense."""
    moe_decoder_k_experts: int = 4
    adaptor: Literal["none", "adaptor"] = "none"
    """`adaptor`: every block has adapters, and Segment Anything's weights are frozen."""
    input_type: Literal["none", "fft"] = "none"
    """`fft`: a model with adapters also has a frequency prompt."""
    freq_nums: float = 0.25
    """Share of the spectrum's area that the frequency prompt keeps."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name.startswith("moe_") else 1
            if type(value) is int and not least <= value <= _LARGEST:
                raise ValueError(f"{field.name} is {value}")
        for whole, part, unit in (
            ("inp_size", "patch_size", 1),
            ("embed_dim", "num_heads", 1),
            ("patch_size", "", 4),
            ("prompt_embed_dim", "", 16),
        ):
            by = getattr(self, part) if part else unit
            if getattr(self, whole) % by:
                raise ValueError(
                    f"{whole} {getattr(self, whole)} is not a multiple of {part or ''} {by}".replace("  ", " ")
                )
        if any(not 0 <= index < self.depth for index in self.global_attn_indexes):
            raise ValueError(
                f"global_attn_indexes {list(self.global_attn_indexes)} name a block outside 0-{self.depth - 1}"
            )

        if not 0 < self.freq_nums <= 1:
            raise ValueError(f"freq_nums {self.freq_nums} is not within 0 and 1")
        widths = (["embed_dim"] if self.moe_num_expert_groups else []) + (
            ["decoder_mlp_dim"] if self.moe_decoder_experts else []
        )
        for width in widths:  # the grouped matrix product needs rows of a multiple of 16 bytes
            if getattr(self, width) % 8:
                raise ValueError(f"{width} {getattr(self, width)} is not a multiple of 8, which experts need")
        if self.moe_num_expert_groups and not 0 <= self.moe_start_layer_index < self.depth:
            raise ValueError(f"moe_start_layer_index {self.moe_start_layer_index} is not a block: 0-{self.depth - 1}")
        for kept, there in (
            ("moe_k_groups", "moe_num_expert_groups"),
            ("moe_k_experts", "moe_experts_per_group"),
            ("moe_decoder_k_experts", "moe_decoder_experts"),
        ):
            count = getattr(self, there)
            if count and (count < 0 or not 1 <= getattr(self, kept) <= count):
                raise ValueError(f"{kept} {getattr(self, kept)} is not within 1 and {there} {count}")

    def has_experts(self, block: int) -> bool:
        """Check whether an encoder block has experts instead of an MLP."""
        return self.moe_num_expert_groups > 0 and block >= self.moe_start_layer_index

    @property
    def patches(self) -> int:
        """Side of the input in patches."""
        return self.inp_size // self.patch_size


_VIT_H: dict[str, Any] = {
    "embed_dim": 1280,
    "depth": 32,
    "num_heads": 16,
    "global_attn_indexes": (7, 15, 23, 31),
}
_ADAPTED = {"adaptor": "adaptor", "input_type": "fft"}

VARIANTS: dict[Variant, dict[str, Any]] = {
    "sam_tiny": {
        "embed_dim": 192,
        "depth": 6,
        "num_heads": 6,
        "global_attn_indexes": (2, 5),
        "window_size": 8,
        "patch_size": 8,
        "prompt_embed_dim": 128,
        "decoder_mlp_dim": 512,
        "detail_stem": True,
        "moe_start_layer_index": 4,
        "moe_num_expert_groups": 2,
        "moe_experts_per_group": 4,
        "moe_k_groups": 1,
        "moe_k_experts": 2,
    },
    "sam_vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "sam_vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_attn_indexes": (5, 11, 17, 23)},
    "sam_vit_h": _VIT_H,
    "sam_moe_1dot5b": _VIT_H | _ADAPTED | {"moe_start_layer_index": 28, "moe_num_expert_groups": 1},
    "sam_moe_3b": _VIT_H | _ADAPTED | {"moe_start_layer_index": 20, "moe_num_expert_groups": 1},
    "sam_hierarchical_moe_10b": _VIT_H
    | _ADAPTED
    | {
        "moe_start_layer_index": 24,
        "moe_num_expert_groups": 6,
        "moe_k_groups": 2,
        "moe_k_experts": 2,
        "moe_decoder_experts": 16,
    },
}


def architecture(model: ModelConfig, *, num_bands: int, num_classes: int) -> Architecture:
    """Compute the architecture of the model that a configuration asks for.

    Args:
        model: section `model` of the configuration.
        num_bands: number of image bands.
        num_classes: number of classes.

    Raises:
        ConfigError: the variant does not exist, or the numbers contradict each other.
    """
    if model.name not in VARIANTS:
        raise ConfigError(f"there is no model `{model.name}` (`model.name`)", hint=f"known: {', '.join(VARIANTS)}")
    given = {key: value for key, value in dataclasses.asdict(model.args.encoder_mode).items() if value is not None}
    shape = VARIANTS[model.name] | given
    shape["global_attn_indexes"] = tuple(shape["global_attn_indexes"])
    try:
        return Architecture(**shape, num_bands=num_bands, num_classes=num_classes, inp_size=model.args.inp_size)
    except ValueError as error:
        raise ConfigError(
            f"`model.args` of {model.name}: {error}",
            hint="change it in model.args; encoder_mode overrides the variant's values",
        ) from None
