"""Checkpoints of models that have not been trained, for tests and benchmarks of the commands after `train`."""

from collections.abc import Sequence
from pathlib import Path

from cwsam_cli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import from_names


def save_network(network: ClassWiseSam, path: Path, bands: Sequence[str] = ()) -> Path:
    """Write a network for uint8 scenes with pixels of 30 m; its classes are `class 0`, `class 1`, ...

    Args:
        network: any network.
        path: the checkpoint.
        bands: names of the bands; by default `band_1`, `band_2`, ...
    """
    names = bands or [f"band_{number}" for number in range(1, network.arch.num_bands + 1)]
    checkpoint = Checkpoint(
        weights=network.state_dict(),
        architecture=network.arch,
        taxonomy=from_names([f"class {number}" for number in range(network.arch.num_classes)]),
        bands=tuple(Band(name=name, mean=120.0, std=50.0) for name in names),
        dtype="uint8",
        gsd_m=30.0,
        ignore_background=False,
        epoch=1,
        metrics={},
    )
    save_checkpoint(checkpoint, path)
    return path
