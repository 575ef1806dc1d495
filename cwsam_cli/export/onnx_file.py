"""Write a model as an ONNX file."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from cwsam_cli.checkpoints.exported import DIVISOR, INPUT, OUTPUT, missing_packages, open_session
from cwsam_cli.export.network import PortableNetwork

OPSET = 18
IR_VERSION = 9
"""Deepness has onnxruntime 1.17 or older, which reads no newer version."""
_LARGEST_FILE = 1_900_000_000
"""Bytes of weights within the file; protobuf ends at 2 GiB. More weights go to a file beside it."""
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def write_onnx(network: PortableNetwork, image: torch.Tensor, metadata: Mapping[str, str], target: Path) -> float:
    """Write an ONNX file and run it once.

    Args:
        network: takes pixels divided by `DIVISOR`.
        image: pixels (1, C, S, S) float32. The file has the same shape of input.
        metadata: keys and values for the file.
        target: the file; weights of more than 1.9 GB go to a file beside it.

    Returns:
        Largest difference of a probability from torch's.

    Raises:
        MachineError: a package is not installed.
    """
    try:
        import onnx_ir
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing_packages("an ONNX file", "onnx", "onnxscript", "onnxruntime") from None
    image = image / DIVISOR
    with _quiet():
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
        made.model.metadata_props.update(metadata)
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        made.save(target, external_data=size > _LARGEST_FILE)
    return _difference(network, image, target)


def _difference(network: PortableNetwork, image: torch.Tensor, path: Path) -> float:
    with torch.no_grad():
        wanted = network(image)
    (found,) = open_session(path).run([OUTPUT], {INPUT: image.numpy()})
    return float((torch.from_numpy(found) - wanted).abs().max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's own warnings and messages, which say nothing about the model."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
