"""Compile a model's blocks with torch.compile."""

import torch

from cwsam_cli.errors import MachineError
from cwsam_cli.model.experts import expert_layers
from cwsam_cli.model.network import ClassWiseSam

_GRAPHS_PER_BLOCK = 8  # training and validation, batches of several sizes


def compile_blocks(model: ClassWiseSam, device: torch.device, *, experts: bool) -> None:
    """Compile the encoder's blocks and the decoder. Each is compiled when it first runs.

    Only forward functions are compiled, so hooks and checkpoints see no difference. A decoder with
    experts is left as it is, because torch 2.13 breaks its graph.

    Args:
        model: the whole model, unsharded; it may be on the meta device.
        device: the device on which the model will run.
        experts: whether to compile the encoder's experts, too. Hooks on layers of experts then do not run. If a
            block with experts recomputes its activations, it must not be compiled as a whole.

    Raises:
        MachineError: this machine cannot compile.
    """
    _require_compiler(device)
    blocks = [*model.image_encoder.blocks]
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS_PER_BLOCK * len(blocks))
    for block in blocks:
        part = block if experts or not any(expert_layers(block)) else block.attn
        part.forward = torch.compile(part.forward)
    if not any(expert_layers(model.mask_decoder)):
        model.mask_decoder.forward = torch.compile(model.mask_decoder.forward)  # type: ignore[method-assign]


def pack_experts(model: ClassWiseSam) -> None:
    """Let each layer of experts be one grouped product. Compiled layers would otherwise copy their weights."""
    for _, layer in expert_layers(model):
        layer.pack()


def _require_compiler(device: torch.device) -> None:
    """Compile one small function, to find out at once whether this machine can.

    Raises:
        MachineError: it cannot.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    except Exception as error:  # torch raises many kinds, for each missing tool another one
        raise MachineError(
            f"this machine cannot compile a model for {device}: {str(error).strip().splitlines()[0]}",
            hint="install a C++ compiler such as g++, or compile nothing",
        ) from None
