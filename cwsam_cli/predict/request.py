"""What a user wants of `predict`, checked as far as that is possible before torch is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile

from cwsam_cli.distributed.cluster import Cluster, launcher_environment
from cwsam_cli.distributed.scheduler import LOCAL
from cwsam_cli.errors import DataError, OutputExists, UsageError
from cwsam_cli.files import refuse_existing, refuse_input
from cwsam_cli.journal import folder_of
from cwsam_cli.predict.choices import AlphaRule, MapFormat, Normalization, PrecisionChoice, Views
from cwsam_cli.raster.mapfile import COG_CREATION, GTIFF_CREATION, KINDS, beside
from cwsam_cli.raster.scene import FAILED
from cwsam_cli.raster.sources.network import is_plain_file, stored_name
from cwsam_cli.raster.sources.scenes import from_any_folder
from cwsam_cli.raster.sources.views import public_name
from cwsam_cli.raster.sources.vsi import read_headers

_CONTINUE = "the same command continues where it was"

_FIXED = {"driver", "width", "height", "count", "dtype", "nodata", "crs", "transform"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRequest:
    """A map as the user asks for it; options have the names that they have on the command line.

    Raises:
        UsageError: an option has a value that it cannot have.
    """

    scene: str = field(default="", repr=False)
    """A path, a URL or one of GDAL's virtual paths. A request for many scenes leaves it empty. Dask logs the arguments
    of calls that fail, so `repr` leaves out URLs."""
    scenes: tuple[str, ...] = field(default=(), repr=False)
    """Scenes whose scores make one map, a mosaic; then `scene` is empty."""
    checkpoint: Path
    """A `model_epoch_*.pth`."""
    output: Path | None = None
    """The map, a GeoTIFF; the folder of the maps in a request for many scenes. A dry run needs none."""
    upload: str = ""
    """Address in an object store to which the output goes when it is complete, such as `s3://bucket/map.tif`."""
    overwrite: bool = False
    """Replace an older map."""
    command: str = ""
    """The command line, for the record in the map."""
    overlap: float = 0.25
    """Share of a window that its neighbours also see, 0 to 0.9."""
    tta: Views = "none"
    precision: PrecisionChoice = "auto"
    compile: bool = False
    """Compile the model with torch.compile."""
    batch_size: int = 8
    """Largest number of windows per batch."""
    max_memory: int | None = None
    """Bytes of main memory; None is 4 GB in addition to the program and the weights."""
    gpu_memory: int | None = None
    """Bytes of each accelerator; None is 90 % of what is free."""
    device: str = "auto"
    gpus: int = 1
    """Processes, each with a device of its own."""
    scheduler: str = ""
    """Address or file of a Dask scheduler whose workers make the pieces; `local` starts workers on this machine."""
    part: tuple[int, int] | None = None
    """(I, N): make only the I-th of N shares, counted from 1. None makes everything, or follows torchrun or srun."""
    bounds: tuple[float, float, float, float] | None = None
    """West, south, east, north in the scene's CRS."""
    aoi: Path | None = None
    bands: tuple[str, ...] = ()
    """Names or numbers of the scene's bands in the model's order."""
    alpha: AlphaRule | None = None
    normalize: Normalization = "training"
    resample_to_model: bool = False
    """Map at the pixel size that the model was trained on."""
    verify: bool = False
    """Compare the whole content of files, not their times and a sample."""
    confidence: bool = False
    probabilities: bool = False
    entropy: bool = False
    experts: bool = False
    set_size: bool = False
    min_confidence: float = 0.0
    """Per cent."""
    format: MapFormat = "GTiff"
    creation: Mapping[str, str] = field(default_factory=dict)
    """GDAL's creation options."""
    preview: Path | None = None
    stac: bool = False
    """Write a STAC item beside the map."""
    collection: str = ""
    """Id of the STAC collection in the map's folder; empty if there is none."""

    def __post_init__(self) -> None:
        if self.bounds:
            west, south, east, north = self.bounds
            if not (np.isfinite(self.bounds).all() and west < east and south < north):
                raise UsageError(
                    f"--bounds {' '.join(f'{edge:g}' for edge in self.bounds)} is not a rectangle",
                    hint="west south east north, in the scene's own CRS",
                )
        if self.creation:
            _check_creation(self.creation, self.format)
        if self.part:
            number, parts = self.part
            if not 1 <= number <= parts:
                raise UsageError(f"--part {number}/{parts} does not exist", hint="say: --part 1/3, 2/3 or 3/3")
            if self.gpus > 1 or self.scheduler:
                raise UsageError(
                    "--part is for one process, and --gpus and --scheduler for several",
                    hint="start one part per GPU, each with its own --device cuda:0, cuda:1, …",
                )

        if self.gpus > 1 and self.scheduler not in ("", LOCAL):
            raise UsageError("--gpus is for this machine, and --scheduler for others", hint="remove --gpus")

    @property
    def is_part(self) -> bool:
        """Whether other runs make the other parts."""
        return self.part is not None and self.part[1] > 1

    @property
    def target(self) -> Path:
        """The output of a request that has one."""
        assert self.output is not None
        return self.output

    @property
    def place(self) -> Path | str:
        """Where the user finds the output."""
        return self.upload or self.target

    @property
    def kinds(self) -> tuple[str, ...]:
        """Layers beside the map."""
        return tuple(kind for kind in KINDS if getattr(self, kind))

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        return Cluster(processes=self.gpus, device=self.device, hint_after_signal=_CONTINUE, hint_after_stall=_CONTINUE)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The scene, or the scenes of a mosaic."""
        return self.scenes or (self.scene,)

    def of_scene(self, scene: str, output: Path | None) -> "MapRequest":
        """The request for one of many scenes."""
        upload = f"{self.upload}/{output.name}" if self.upload and output and output != self.output else self.upload
        return replace(self, scene=scene, output=output, upload=upload)

    def for_workers(self) -> "MapRequest":
        """The same request with paths that hold in other working folders."""
        aoi = self.aoi and self.aoi.absolute()
        scenes = tuple(map(from_any_folder, self.scenes))
        scene = self.scene and from_any_folder(self.scene)
        return replace(self, scene=scene, scenes=scenes, checkpoint=self.checkpoint.absolute(), aoi=aoi)

    def refuse_early(self) -> None:
        """Stop before any work at what is certain to fail.

        Raises:
            UsageError: see `check_names`; or the output exists.
            DataError: the scene does not exist.
        """
        self.check_names()
        # A journal: the map may be complete, and its run was killed a moment later. Parts: another may have made it.
        if not (self.is_part or launcher_environment() or folder_of(self.target).exists()):
            if not self.upload:
                refuse_existing(self.target, overwrite=self.overwrite)
            elif not self.overwrite and read_headers(stored_name(self.upload)):
                raise OutputExists(self.upload)
        for scene in filter(is_plain_file, self.inputs):
            if not Path(scene).exists():
                raise DataError(f"there is no file `{scene}`", hint="check the path")

    def check_names(self) -> None:
        """Stop before any work at an output that would be of another format, or that would replace an input.

        Raises:
            UsageError: there is one.
        """
        if self.target.suffix.lower() not in (".tif", ".tiff"):
            raise UsageError(f"`{self.target}` is not the name of a GeoTIFF", hint="give it the suffix .tif")
        if self.preview and self.preview.suffix.lower() != ".png":
            raise UsageError(f"--preview `{self.preview}` is not the name of a PNG", hint="give it the suffix .png")
        inputs = [self.checkpoint, *map(Path, filter(is_plain_file, self.inputs))]
        inputs += [self.aoi] if self.aoi else []
        outputs = [self.target, *([self.preview] if self.preview else [])]
        for target in [*outputs, *(beside(self.target, kind) for kind in KINDS)]:  # layers of an older map are removed
            refuse_input(target, *inputs)

    def to_json(self) -> dict[str, Any]:
        """Values that JSON has, by field. A URL of the scene is without its secrets."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()} | {
            "scene": public_name(self.scene),
            "scenes": list(map(public_name, self.scenes)),
            "creation": dict(self.creation),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "MapRequest":
        """The request that `to_json` wrote."""
        paths = {name: Path(raw[name]) for name in ("checkpoint", "output", "aoi", "preview") if raw[name] is not None}
        pairs = {name: raw[name] and tuple(raw[name]) for name in ("bounds", "part")}
        return cls(**dict(raw) | paths | pairs | {"bands": tuple(raw["bands"]), "scenes": tuple(raw["scenes"])})


def _check_creation(creation: Mapping[str, str], driver: str) -> None:
    """Refuse creation options that every map has already, or that GDAL refuses.

    Raises:
        UsageError: one of them is given.
    """
    own = {key.lower(): value for key, value in creation.items()}
    fixed = sorted(_FIXED & own.keys())
    if fixed:
        raise UsageError(f"--co {fixed[0].upper()} cannot be chosen for a map", hint="say: --co COMPRESS=ZSTD")
    draft_creation = GTIFF_CREATION | (own if driver == "GTiff" else {})
    size = {"width": 1, "height": 1, "count": 1, "dtype": "uint8", "transform": rasterio.Affine.scale(2)}
    try:
        with MemoryFile(ext=".tif") as draft, MemoryFile(ext=".tif") as made:
            rasterio.open(draft.name, "w", driver="GTiff", **size, **draft_creation).close()
            if driver == "COG":
                rasterio.shutil.copy(draft.name, made.name, driver="COG", **COG_CREATION | own)
    except FAILED as error:
        detail = str(error.__cause__ or error).rpartition(".tif: ")[2].rstrip(".")
        raise UsageError(f"--co: {detail}", hint=f"what there is: gdalinfo --format {driver}") from None
