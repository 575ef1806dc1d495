"""Know the names that Segment Anything and ClassWise-SAM-Adapter give to tensors that have another name here.

Source: Pu et al., ClassWise-SAM-Adapter, 2024, and the public code of it (github.com/xypu98/CWSAM).
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor

_SEGMENT_ANYTHING = {
    "mask_decoder.pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
    "mask_decoder.class_tokens.weight": "mask_decoder.mask_tokens.weight",
    **{
        f"mask_decoder.class_hypernetwork.layers.{layer}.{kind}": (
            f"mask_decoder.output_hypernetworks_mlps.0.layers.{layer}.{kind}"
        )
        for layer in range(3)
        for kind in ("weight", "bias")
    },
}
_CLASS_WISE = (
    (r"\.adapter_attn\.", ".Space_Adapter."),
    (r"\.adapter_mlp\.", ".MLP_Adapter."),
    (r"_Adapter\.down\.", "_Adapter.D_fc1."),
    (r"_Adapter\.up\.", "_Adapter.D_fc2."),
    (r"^image_encoder\.prompt\.", "image_encoder.prompt_generator."),
    (r"_generator\.shared\.", "_generator.shared_mlp."),
    (r"_generator\.embedding\.", "_generator.embedding_generator."),
    (r"_generator\.layers\.(\d+)\.", r"_generator.lightweight_mlp_\1.0."),
    (r"_generator\.spectrum\.", "_generator.prompt_generator.proj."),
    (r"^mask_decoder\.pe_layer\.", "pe_layer."),
)
"""Substitutions that lead, in this order, from a name here to ClassWise-SAM-Adapter's."""
_CLASS_WISE_SIGNS = ("_Adapter.D_fc", "image_encoder.prompt_generator.", "mask_decoder.cls_upscaling.")
_NO_MASK, _NECK_BIAS = "no_mask_embed.weight", "image_encoder.neck.3.bias"


def find_origin(name: str, weights: Collection[str]) -> str:
    """Return the checkpoint's name of a tensor; the same name if the checkpoint has no tensor for it.

    Args:
        name: name of a tensor of the model.
        weights: names of the checkpoint's tensors.
    """
    if name in weights:
        return name
    adapted = name
    for pattern, there in _CLASS_WISE:
        adapted = re.sub(pattern, there, adapted)
    return adapted if adapted in weights else _SEGMENT_ANYTHING.get(name, name)


def is_class_wise(weights: Collection[str]) -> bool:
    """Check by the names whether weights come from the public code of ClassWise-SAM-Adapter."""
    return any(sign in name for name in weights for sign in _CLASS_WISE_SIGNS)


def join_no_mask(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add ClassWise-SAM-Adapter's `no_mask_embed` to the bias of the neck, where it has the same effect.

    ClassWise-SAM-Adapter adds it to the image features; this decoder has no such tensor.
    """
    joined = dict(weights)
    if _NO_MASK in joined and _NECK_BIAS in joined and joined[_NO_MASK].numel() == joined[_NECK_BIAS].numel():
        joined[_NECK_BIAS] = joined[_NECK_BIAS] + joined.pop(_NO_MASK).flatten()
    return joined


def describe_unused(unused: Collection[str]) -> str:
    """Say which parts of ClassWise-SAM-Adapter's weights a model does not use, with their numbers of tensors."""
    parts = Counter(
        re.sub(r"^(image_encoder\.blocks)\.\d+\.(\w+)\..*", r"\1.*.\2", name)
        if ".blocks." in name
        else ".".join(name.split(".")[:2])
        for name in unused
    )
    listed = ", ".join(f"{part} ({count})" for part, count in parts.items())
    return (
        f"the weights of ClassWise-SAM-Adapter have {len(unused)} tensors that this model does not use: {listed}. "
        "The layers that tell its classes apart have no counterpart, so classes are learned anew"
    )
