"""Write a model as a program of torch.export."""

from pathlib import Path

import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import KEY
from cwsam_cli.export.network import PortableNetwork, hidden_messages, noise_image

DESCRIPTION = f"{KEY}.json"
"""Name of the description among the file's `extra_files`."""


@torch.no_grad()
def write_pt2(checkpoint: Checkpoint, description: str, target: Path) -> float:
    """Write a program that torch alone loads, and run it once.

    It maps a scene's own values (1, C, S, S) float32 to probabilities (1, K, S, S).

    Args:
        checkpoint: the model.
        description: text of `describe_model`.
        target: the file.

    Returns:
        Largest difference of a probability from the network's, on an image of noise.
    """
    network, image = PortableNetwork(checkpoint), noise_image(checkpoint)
    with hidden_messages():
        program = torch.export.export(network, (image,))
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # lines and paths of the source
        torch.export.save(program, target, extra_files={DESCRIPTION: description})
        found = torch.export.load(target).module()(image)
    return float((found - network(image)).abs().max())
