"""Write a model as an ONNX file."""

from pathlib import Path

import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import DIVISOR, INPUT, KEY, OUTPUT, missing_packages, open_session
from cwsam_cli.console import log
from cwsam_cli.export.deepness import deepness_metadata
from cwsam_cli.export.network import PortableNetwork, hidden_messages, noise_image

OPSET = 18
IR_VERSION = 9
"""Deepness has onnxruntime 1.17 or older, which reads no newer version."""
_LARGEST_FILE = 1_900_000_000
"""Bytes of weights within the file; protobuf ends at 2 GiB. More weights go to a file beside it."""


def write_onnx(checkpoint: Checkpoint, description: str, target: Path) -> float:
    """Write an ONNX file and run it once.

    Args:
        checkpoint: the model.
        description: text of `describe_model`, for the file's metadata.
        target: the file; weights of more than 1.9 GB go to a file beside it.

    Returns:
        Largest difference of a probability from torch's, on an image of noise.

    Raises:
        MachineError: a package is not installed.
    """
    try:
        import onnx_ir
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing_packages("an ONNX file", "onnx", "onnxscript", "onnxruntime") from None
    _warn(checkpoint)
    network, image = PortableNetwork(checkpoint, DIVISOR), noise_image(checkpoint) / DIVISOR
    with hidden_messages():
        # With gradients, attention is written out, which makes fewer nodes.
        program = torch.export.export(network, (image,))
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        assert made is not None
        made.model.ir_version = IR_VERSION
        made.model.producer_name = "cwsam"
        for part in (made.model.graph, *onnx_ir.traversal.RecursiveGraphIterator(made.model.graph)):
            part.metadata_props.clear()  # lines and paths of the source
            part.doc_string = None
        made.model.metadata_props.clear()
        made.model.metadata_props.update(deepness_metadata(checkpoint) | {KEY: description})
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        made.save(target, external_data=size > _LARGEST_FILE)
    return _difference(network, image, target)


def _difference(network: PortableNetwork, image: torch.Tensor, path: Path) -> float:
    with torch.no_grad():
        wanted = network(image)
    (found,) = open_session(path).run([OUTPUT], {INPUT: image.numpy()})
    return float((torch.from_numpy(found) - wanted).abs().max())


def _warn(checkpoint: Checkpoint) -> None:
    if checkpoint.dtype != "uint8":
        log.warning(
            "the model was trained on %s scenes, but Deepness documents uint8 only: "
            "in QGIS the map may be wrong, in `cwsam predict` it is right",
            checkpoint.dtype,
        )
    if checkpoint.gsd_m is None:
        log.warning("the model does not know its pixel size, so Deepness will ask for it")
