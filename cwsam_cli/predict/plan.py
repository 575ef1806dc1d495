"""How a scene is to be mapped: options and checkpoint and scene → a job, its sheet and its cost."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from torch import nn

from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.config.schema import Precision
from cwsam_cli.distributed.world import choose_device
from cwsam_cli.errors import UsageError
from cwsam_cli.files import sha256
from cwsam_cli.predict.aoi import read_area
from cwsam_cli.predict.budget import BLOCK, Costs, Crew, cut
from cwsam_cli.predict.checks import must_be_shared, oddities, resident_memory, weight_bytes
from cwsam_cli.predict.layers import LayerPlan
from cwsam_cli.predict.mapfile import Sheet, cuts
from cwsam_cli.predict.pieces import Job
from cwsam_cli.predict.request import AUGMENTATIONS, MapOptions
from cwsam_cli.predict.scorer import Scorer, activation_bytes, choose_precision
from cwsam_cli.predict.windows import MARGIN
from cwsam_cli.raster.grid import Lattice
from cwsam_cli.raster.scene import GDAL_CACHE, Scene, open_scene
from cwsam_cli.raster.sources import gdal_settings

_MEMORY = 4_000_000_000  # bytes beside the program and the weights, unless --max-memory says otherwise
_ONCE = {"fp32": 64 << 20, "bf16": 384 << 20}  # bytes that passes leave behind: threads, kernels
_HIGH_BLOCKS = 1 << 30  # bytes of cache for them, at most


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint, and how it is run."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    trained: Checkpoint
    weights: int
    """Bytes."""
    shared: bool
    """Several processes hold it together."""
    program: int
    """Bytes that this process took before the weights came."""
    device: torch.device
    precision: Precision

    @classmethod
    def load(cls, path: Path, options: MapOptions, *, digest: str = "") -> "Model":
        """Read a checkpoint; its weights stay on disk.

        Args:
            path: the file.
            options: how maps are made.
            digest: its SHA-256, where another process has taken it already.

        Raises:
            CheckpointError: it cannot be read.
            MachineError: the device is too small for it.
        """
        trained = load_checkpoint(path)
        device = choose_device(options.device)
        return cls(
            path=path,
            digest=digest or sha256(path),
            trained=trained,
            weights=weight_bytes(trained),
            shared=must_be_shared(trained, device, options.gpus),
            program=resident_memory(),
            device=device,
            precision=choose_precision(options.precision, device),
        )

    def expert_groups(self, options: MapOptions) -> int:
        """How many groups a map of experts tells apart; 0 where none is asked for.

        Raises:
            UsageError: the model has not got several.
        """
        arch = self.trained.architecture
        if options.experts and arch.moe_num_expert_groups < 2:
            raise UsageError("--experts: this model has no groups of experts", hint="leave it out")
        return arch.moe_num_expert_groups if options.experts else 0

    def scorer(self, options: MapOptions, network: nn.Module | None = None) -> Scorer:
        """The network on its device, or one that is there already."""
        return Scorer(
            network or self.trained.model().to(self.device),
            self.device,
            views=AUGMENTATIONS[options.tta],
            precision=self.precision,
            probabilities=options.blend == "probabilities",
            hidden=self.trained.hidden_class,
            expert_groups=self.expert_groups(options),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """A scene's job, the map's sheet, and what is known before work begins."""

    job: Job
    sheet: Sheet
    memory: int
    """Bytes at the peak, of one process."""
    limit: int
    """Bytes that all processes may take together."""
    crew: Crew
    oddities: list[str]


def lay_out(scene: str, model: Model, options: MapOptions) -> Layout:
    """Look at a scene and plan its map.

    Raises:
        DataError: it does not suit the model.
        MachineError: the memory that may be used is not enough.
    """
    trained = model.trained
    pixel_m = trained.gsd_m if options.resample_to_model else None
    if options.resample_to_model and pixel_m is None:
        raise UsageError("--resample-to-model: the model does not know its pixel size", hint="leave it out")
    layers = LayerPlan(
        trained.taxonomy,
        options.kinds,
        options.min_confidence,
        scores_are_probabilities=options.blend == "probabilities",
        expert_groups=model.expert_groups(options),
    )
    with (
        warnings.catch_warnings(),
        rasterio.Env(**gdal_settings(scene)),
        open_scene(
            scene,
            wanted_bands=[band.name for band in trained.bands],
            chosen_bands=options.bands,
            alpha=options.alpha,
            pixel_m=pixel_m,
        ) as opened,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        odd = oddities(opened, trained, bands_chosen=bool(options.bands))
        north = opened.north_up
        if options.aoi:
            read_area(options.aoi, north)
        shown = north.within(options.bounds) if options.bounds else Window(0, 0, north.width, north.height)
        part = opened.mirrored(shown) if opened.is_south_up else shown
        size = trained.architecture.inp_size
        lattice = Lattice.over(north.width, north.height, size, int(size * options.overlap), MARGIN)
        cache, costs = _costs(opened, model, options, layers)
        crew = Crew(options.gpus, model.program if options.gpus > 1 else 0)
        limit = options.max_memory or crew.together(_MEMORY + model.program + model.weights)
        chosen = cut(lattice, int(shown.width), costs, batch=options.batch_size, limit=limit, crew=crew)
        sheet = Sheet(
            grid=opened.grid.part(part),
            row_cuts=cuts(int(shown.row_off), int(shown.height), BLOCK, from_end=opened.is_south_up),
            col_cuts=cuts(int(shown.col_off), int(shown.width), chosen.columns),
            south_up=opened.is_south_up,
        )
    job = Job(
        scene=scene,
        bands=trained.bands,
        chosen_bands=options.bands,
        alpha=options.alpha,
        pixel_m=pixel_m,
        aoi=options.aoi,
        lattice=lattice,
        shown=shown,
        row_cuts=sheet.row_cuts,
        col_cuts=sheet.col_cuts,
        batch=chosen.batch,
        group=chosen.group,
        profile=options.window,
        layers=layers,
        cache=cache,
    )
    return Layout(job, sheet, chosen.bytes, limit, crew, odd)


def _costs(scene: Scene, model: Model, options: MapOptions, layers: LayerPlan) -> tuple[int, Costs]:
    """Bytes of GDAL's cache, and what takes memory."""
    on_cpu = model.device.type == "cpu"
    height = int(scene.dataset.block_shapes[0][0])
    image_bytes = np.dtype(scene.dtype).itemsize
    row_of_blocks = height * scene.grid.width * len(scene.bands) * image_bytes
    # Blocks too high to hold as rows of pixels are held as blocks, or each would be decoded for every row of windows.
    high = height > max(512, model.trained.architecture.inp_size)
    cache = GDAL_CACHE + (min(row_of_blocks * 5 // 4, _HIGH_BLOCKS) if high else 0)
    return cache, Costs(
        fixed=model.program + (model.weights + _ONCE[model.precision] if on_cpu else 0) + cache,
        model=activation_bytes(model.trained.architecture, views=len(AUGMENTATIONS[options.tta])) if on_cpu else 0,
        bands=len(scene.bands),
        image_bytes=image_bytes,
        classes=len(layers.taxonomy) + layers.expert_groups,
        layers=layers.count,
        block_height=height,
    )
