"""Exported models that score each pixel by itself, for tests of the commands that read exported models."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import DIVISOR, INPUT, KEY, OUTPUT, describe_model


def save_pixel_model(
    path: Path, about: Checkpoint, weight: NDArray[Any], metadata: dict[str, str] | None = None
) -> Path:
    """Write an ONNX file whose logits are `weight` (K, C) times the pixels.

    Args:
        path: the file.
        about: what the file says of itself.
        weight: one row per class.
        metadata: the file's metadata; by default the description of `about`.
    """
    size = about.architecture.inp_size
    shape = [1, len(about.bands), size, size]
    kernel = (weight * DIVISOR)[..., None, None].astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", [INPUT, "w"], ["logits"]), helper.make_node("Softmax", ["logits"], [OUTPUT], axis=1)],
        "pixels",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, len(weight), size, size])],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {KEY: describe_model(about, "feed")} if metadata is None else metadata)
    onnx.save(model, path)
    return path
