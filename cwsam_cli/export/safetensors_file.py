"""Write a model's weights as safetensors, under the names that they have in the checkpoint."""

from pathlib import Path

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import KEY, missing_packages
from cwsam_cli.errors import MachineError


def write_safetensors(checkpoint: Checkpoint, description: str, target: Path) -> None:
    """Write the weights, and the description as metadata of the file.

    Args:
        checkpoint: the model.
        description: text of `describe_model`.
        target: the file.

    Raises:
        MachineError: safetensors is not installed, or the file could not be written whole.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError:
        raise missing_packages("a safetensors file", "safetensors") from None
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, target, {KEY: description}
        )
    except SafetensorError as error:
        raise MachineError(f"`{target.name}` could not be written: {error}", hint="is the disk full?") from None
