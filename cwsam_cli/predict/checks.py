"""What can be known before work begins: does the scene suit the model, and what will it cost?"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rasterio.windows import Window

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.errors import MachineError
from cwsam_cli.predict.budget import size_text
from cwsam_cli.predict.scorer import activation_bytes
from cwsam_cli.raster.scene import Scene

_FAR = 8.0  # standard deviations of the training data
_SAMPLES = 3  # windows along each axis
_SAMPLE = 256  # pixels
_USABLE = 0.94  # of a device's memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scene will cost, and what is odd about it."""

    scene: str
    grid: str
    windows: int
    batch: int
    """Windows at a time."""
    columns: int
    """Parts that the scene's width is cut into."""
    precision: str
    seconds: float | None
    """Of the model; a single batch was timed. None where no process holds the model alone."""
    memory: int
    """Bytes at the peak."""
    disk: int
    """Bytes while working, at most: the finished pieces and the files made from them."""
    warnings: tuple[str, ...]

    def as_text(self) -> str:
        """A few lines for people."""
        if self.seconds is None:
            time = "not timed, because several processes share the model"
        else:
            time = f"about {self.seconds:.0f} s" if self.seconds < 120 else f"about {self.seconds / 60:.0f} min"
            time += " in the model"
        return "\n".join(
            [
                f"{self.scene}: {self.grid}",
                f"  {self.windows} windows, {self.batch} at a time, {self.columns} column(s), {self.precision}",
                f"  {time}, {size_text(self.memory)} of memory, at most {size_text(self.disk)} of disk",
            ]
        )


def oddities(scene: Scene, trained: Checkpoint, *, bands_chosen: bool = False) -> list[str]:
    """Say what about a scene may make its map worse than it could be; nothing that stops it.

    Args:
        scene: its bands are those that the model reads.
        trained: the model.
        bands_chosen: the user said which bands these are.
    """
    path, grid = scene.path, scene.grid
    found = []
    wanted = tuple(band.name for band in trained.bands)
    if not bands_chosen and scene.band_names != wanted:
        numbers = ", ".join(map(str, scene.bands))
        found.append(
            f"`{path}`: bands {numbers} ({', '.join(scene.band_names)}) are taken for {', '.join(wanted)} by position: "
            "if they are in another order, the map is wrong"
        )
    if grid.crs is None:
        found.append(f"`{path}` has no coordinate reference system, so the map has none either")
    if trained.gsd_m and grid.gsd_m and not 0.5 <= grid.gsd_m / trained.gsd_m <= 2:
        found.append(
            f"`{path}` has pixels of {grid.gsd_m:.3g} m, the model was trained on {trained.gsd_m:.3g} m: "
            "--resample-to-model makes a better map"
        )
    if scene.dtype != trained.dtype:
        found.append(
            f"`{path}` holds {scene.dtype} values, the model was trained on {trained.dtype}: "
            "are they of the same scale?"
        )
    return found + _strange_values(scene, trained)


def _strange_values(scene: Scene, trained: Checkpoint) -> list[str]:
    """Bands whose middle value lies far from all that the model has seen, by a few windows of the scene."""
    side_w, side_h = min(_SAMPLE, scene.grid.width), min(_SAMPLE, scene.grid.height)
    lefts = {int(share * (scene.grid.width - side_w)) for share in np.linspace(0, 1, _SAMPLES)}
    tops = {int(share * (scene.grid.height - side_h)) for share in np.linspace(0, 1, _SAMPLES)}
    samples = []
    for top in sorted(tops):
        for left in sorted(lefts):
            image, valid = scene.read(Window(left, top, side_w, side_h))
            samples.append(image[:, valid].astype(np.float64))
    values = np.concatenate(samples, axis=1)
    found = []
    for band, own in zip(trained.bands, values, strict=True):
        known = own[np.isfinite(own)]
        if known.size and abs(np.median(known) - band.mean) > _FAR * band.std:
            found.append(
                f"`{scene.path}`: band {band.name} is about {np.median(known):.4g}, the model was trained on "
                f"{band.mean:.4g} ± {band.std:.4g}: values of another scale make a map of nonsense"
            )
    return found


def must_be_shared(trained: Checkpoint, device: torch.device, processes: int) -> bool:
    """Whether the device cannot hold the model, but a part of it; processes of one machine's CPU share its memory.

    Raises:
        MachineError: it cannot hold even that.
    """
    weights, pass_ = weight_bytes(trained), activation_bytes(trained.architecture)
    on_gpu = device.type == "cuda"
    room = torch.cuda.get_device_properties(device).total_memory if on_gpu else physical_memory()
    if room is None or weights + pass_ <= _USABLE * room:
        return False
    if on_gpu and weights / processes + pass_ <= _USABLE * room:
        return True
    parameters = sum(tensor.numel() for tensor in trained.weights.values())
    raise MachineError(
        f"the model has {parameters / 1e9:.2f} B parameters, {size_text(weights)} of weights, and takes "
        f"{size_text(pass_)} for a window; {device} has {size_text(room)}",
        hint="several GPUs share it: --gpus N; or a machine with more memory",
    )


def weight_bytes(trained: Checkpoint) -> int:
    """Bytes of all weights."""
    return sum(tensor.nbytes for tensor in trained.weights.values())


def physical_memory() -> int | None:
    """Bytes of this machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def resident_memory() -> int:
    """Bytes that this process occupies now, about."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux; what torch and GDAL take elsewhere
        return 350_000_000
    return pages * os.sysconf("SC_PAGE_SIZE")
