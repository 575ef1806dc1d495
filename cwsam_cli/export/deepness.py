"""What Deepness, a plugin of QGIS, reads from the metadata of an ONNX file."""

import json

from cwsam_cli.checkpoints.checkpoint import Checkpoint

_OVERLAP = 25
"""Per cent of a tile that its neighbours also see, as `predict` has it by default."""


def deepness_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Return Deepness's keys with JSON values.

    The graph normalises bands itself, so the plugin is told mean 0 and standard deviation 1. The threshold is 0, so
    every pixel gets its likeliest class.

    Source: https://qgis-plugin-deepness.readthedocs.io, "Model metadata"; `tile_size` is as its code has it.
    """
    bands = checkpoint.architecture.num_bands
    values = {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(checkpoint.taxonomy.names)},
        "tile_size": checkpoint.architecture.inp_size,
        "tiles_overlap": _OVERLAP,
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1.0] * bands,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    if checkpoint.gsd_m is not None:
        values["resolution"] = 100 * checkpoint.gsd_m  # cm per pixel
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
