"""What the options of `predict` mean, and what can be refused before torch is loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.files import refuse_existing, refuse_input
from cwsam_cli.journal import folder_of
from cwsam_cli.predict.blend import PROFILES
from cwsam_cli.predict.layers import KINDS
from cwsam_cli.predict.mapfile import FORMATS, beside, check_creation
from cwsam_cli.raster.scene import ALPHA_RULES
from cwsam_cli.raster.sources import is_plain_file

_GO_ON = "the same command goes on where it was"

Turn = tuple[int, bool]
"""Quarter turns, then a flip from left to right."""

AUGMENTATIONS: dict[str, tuple[Turn, ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""Views of a window whose scores are averaged, by the name that `--tta` takes."""

PRECISIONS = ("auto", "fp32", "bf16")

_KNOWN: dict[str, Collection[str | None]] = {
    "window": PROFILES,
    "blend": ("logits", "probabilities"),
    "tta": AUGMENTATIONS,
    "precision": PRECISIONS,
    "format": FORMATS,
    "alpha": (None, *ALPHA_RULES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How maps are made; the command line's options of the same names."""

    overlap: float = 0.25
    """Share of a window that its neighbours see too, 0 to 0.9."""
    window: str = "hann"
    blend: str = "logits"
    """What is averaged, `logits` or `probabilities`."""
    tta: str = "none"
    precision: str = "auto"
    batch_size: int = 8
    """Windows at a time, at most."""
    max_memory: int | None = None
    """Bytes of main memory; None is 4 GB beside the program and the weights."""
    device: str = "auto"
    bounds: tuple[float, float, float, float] | None = None
    """West, south, east, north in the scene's CRS."""
    aoi: Path | None = None
    bands: tuple[str, ...] = ()
    """Names or numbers of the scene's bands in the model's order."""
    alpha: str | None = None
    resample_to_model: bool = False
    """Bring the scene to the pixel size that the model was trained on; the map has it too."""
    confidence: bool = False
    probabilities: bool = False
    entropy: bool = False
    experts: bool = False
    min_confidence: float = 0.0
    """Per cent."""
    format: str = "GTiff"
    creation: Mapping[str, str] = field(default_factory=dict)
    preview: Path | None = None
    gpus: int = 1
    """Processes, each with a device of its own."""

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                names = ", ".join(str(each) for each in known if each)
                raise UsageError(f"--{name} `{getattr(self, name)}` is not known", hint=f"one of {names}")
        if self.bounds:
            west, south, east, north = self.bounds
            if not (np.isfinite(self.bounds).all() and west < east and south < north):
                raise UsageError(
                    f"--bounds {' '.join(f'{edge:g}' for edge in self.bounds)} is no rectangle",
                    hint="west south east north, in the scene's own CRS",
                )
        check_creation(self.creation, self.format)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Layers beside the map."""
        return tuple(kind for kind in KINDS if getattr(self, kind))

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        return Cluster(processes=self.gpus, device=self.device, hint_after_signal=_GO_ON, hint_after_stall=_GO_ON)


def refuse_early(scene: str, checkpoint: Path, output: Path, options: MapOptions, *, overwrite: bool) -> None:
    """Refuse what can be seen to fail before any work.

    Args:
        scene: see `predict`.
        checkpoint: the model's file.
        output: the map.
        options: how.
        overwrite: replace an older map.

    Raises:
        UsageError: a name that is no GeoTIFF's or PNG's, or an input's; or the output exists.
        DataError: there is no such scene.
    """
    check_names(scene, checkpoint, output, options)
    if not folder_of(output).exists():  # else it may be whole, and its run was killed a moment later
        refuse_existing(output, overwrite=overwrite)
    if is_plain_file(scene) and not Path(scene).exists():
        raise DataError(f"there is no file `{scene}`", hint="check the path")


def check_names(scene: str, checkpoint: Path, output: Path, options: MapOptions) -> None:
    """Refuse outputs that cannot be meant, before any work.

    Raises:
        UsageError: a name that is no GeoTIFF's or PNG's, or an input's.
    """
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"`{output}` is no GeoTIFF's name", hint="give it the suffix .tif")
    if options.preview and options.preview.suffix.lower() != ".png":
        raise UsageError(f"--preview `{options.preview}` is no PNG's name", hint="give it the suffix .png")
    inputs = [checkpoint, *([Path(scene)] if is_plain_file(scene) else []), *([options.aoi] if options.aoi else [])]
    outputs = [output, *([options.preview] if options.preview else [])]
    for target in [*outputs, *(beside(output, kind) for kind in KINDS)]:  # an older map's layers go
        refuse_input(target, *inputs)
