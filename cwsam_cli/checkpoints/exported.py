"""The description of a model inside a file for other programs: everything that a checkpoint knows except the weights.

`cwsam export` writes it, and `predict` and `info` read it from ONNX files.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint, check_fields, load_checkpoint, plain_fields
from cwsam_cli.checkpoints.newest import refuse_missing
from cwsam_cli.errors import CheckpointError, MachineError
from cwsam_cli.model.network import ClassWiseSam

KEY = "cwsam"
"""Key of the description among a file's metadata."""
INPUT, OUTPUT = "image", "probabilities"
"""Names of the only input and the only output."""
DIVISOR = 255.0
"""An ONNX file expects pixels divided by this number, whatever their dtype, because Deepness divides all by 255."""


def describe_model(checkpoint: Checkpoint, weights_sha256: str) -> str:
    """Return the description as JSON.

    Args:
        checkpoint: the model.
        weights_sha256: hash of its weights; see `hash_weights`.
    """
    raw = plain_fields(checkpoint)
    del raw["weights"]
    return json.dumps(raw | {"weights_sha256": weights_sha256}, ensure_ascii=False)


def is_onnx(path: Path) -> bool:
    """Return whether a path has the name of an ONNX file."""
    return path.suffix.lower() == ".onnx"


def open_model(path: Path) -> tuple[Checkpoint, str]:
    """Read a checkpoint, or the description of an exported model.

    Returns:
        The model. The weights of an exported one are on the meta device. Then the SHA-256 of its weights, which is
        empty for a checkpoint: only `hash_weights` can tell it.

    Raises:
        CheckpointError: the file is missing, damaged, or not of this program.
        MachineError: onnxruntime is not installed.
    """
    if not is_onnx(path):
        return load_checkpoint(path), ""
    refuse_missing(path)
    metadata = open_session(path, optimize=False).get_modelmeta().custom_metadata_map
    try:
        raw = json.loads(metadata[KEY])
        digest = str(raw.pop("weights_sha256"))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise CheckpointError(
            f"`{path}` is not a model that `cwsam export` wrote",
            hint="export one: cwsam export CHECKPOINT -o model.onnx",
        ) from None
    about = check_fields(raw | {"weights": {}}, path)
    with torch.device("meta"):
        return replace(about, weights=ClassWiseSam(about.architecture).state_dict()), digest


def open_session(path: Path, *, optimize: bool = True) -> Any:
    """Open an ONNX file with onnxruntime on the CPU, with as many threads as torch has.

    Args:
        path: the file.
        optimize: whether to prepare the graph for many runs.

    Raises:
        CheckpointError: onnxruntime cannot read the file.
        MachineError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing_packages("an ONNX file", "onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, without a common base class
        raise CheckpointError(
            f"onnxruntime cannot read `{path}`: {str(error).splitlines()[0]}",
            hint="copy it again, with the file `.onnx.data` beside it if there is one",
        ) from None


def missing_packages(what: str, *names: str) -> MachineError:
    """Return the error for packages of the extra `export` that are not installed."""
    return MachineError(f"{what} needs {', '.join(names)}", hint="install what is missing: pip install 'cwsam[export]'")
