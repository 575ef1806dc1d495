"""A model so small that a test of it takes no time; each test changes what it is about."""

from typing import Any

from cwsam_cli.model.variants import Architecture

ARCH: dict[str, Any] = {
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "global_attn_indexes": (1,),
    "num_bands": 3,
    "num_classes": 4,
    "inp_size": 32,
    "window_size": 2,
    "patch_size": 8,
    "prompt_embed_dim": 32,
    "decoder_mlp_dim": 32,
}


def small(**changes: Any) -> Architecture:
    """That model, changed."""
    return Architecture(**(ARCH | changes))
