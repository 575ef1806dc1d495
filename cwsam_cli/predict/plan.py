"""Everything that is decided about a map before work begins.

`make_plan` opens the scene once: it compares the scene with the model, fingerprints it, and cuts the work so that it
fits in memory.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from cwsam_cli import __version__
from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.config.schema import Precision
from cwsam_cli.console import ONCE, ONCE_A_KIND, log, without_secrets
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.errors import UsageError
from cwsam_cli.predict.layers import MapLayers
from cwsam_cli.predict.memory import Needs, activation_bytes, cut, free_memory, weight_bytes
from cwsam_cli.predict.network import Model
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scorer import AUGMENTATIONS
from cwsam_cli.predict.windows import MARGIN, count_readers, sample
from cwsam_cli.raster.catalog import date_of
from cwsam_cli.raster.fingerprint import fingerprint, fingerprint_of_file
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.lattice import Lattice
from cwsam_cli.raster.mapfile import BLOCK
from cwsam_cli.raster.network import GDAL_CACHE, gdal_settings
from cwsam_cli.raster.scene import Scene, open_scene
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.vector.area import read_area

_MEMORY = 4_000_000_000  # bytes in addition to the program and the weights, unless --max-memory says otherwise
_ONCE = {"fp32": 64 << 20, "bf16": 384 << 20}  # bytes that passes leave behind: threads, kernels
_RUNTIME = 1 << 30  # bytes of main memory that an accelerator's libraries take
_HIGH_BLOCKS = 1 << 30  # bytes of cache for them, at most

_FAR = 8.0  # standard deviations of the training data
_NO_CRS = "`%s` has no coordinate reference system, so the map has none either"
_NOT_IN_KEY = {"scene", "checkpoint", "output", "overwrite", "command", "preview", "aoi", "format", "creation"}
_NOT_IN_KEY |= {
    "upload",
    "stac",
    "collection",
    "max_memory",
    "gpu_memory",
    "batch_size",
    "device",
    "gpus",
    "part",
    "scheduler",
}
"""Fields of a request on which pixels do not depend, or that the key holds as a hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPlan:
    """A map, decided in every respect; all processes and the map's writer work by it.

    Rows and columns count from the north and the west of the scene; pieces lie between neighbouring cuts.
    """

    request: MapRequest
    scene_fingerprint: str
    checkpoint_sha256: str
    area_fingerprint: str | None = None
    """Fingerprint of the file with the area of interest."""
    device: str
    """Kind of device, such as `cpu` or `cuda`."""
    precision: Precision
    is_shared: bool = False
    """Whether several processes hold the model together."""
    bands: tuple[Band, ...]
    """The bands that the model was trained on."""
    pixel_m: float | None = None
    """Pixel size in metres to which the scene is resampled; None leaves it as it is."""
    grid: Grid
    """The map file's grid."""
    is_south_up: bool = False
    """Whether the first row of the scene's file, and of the map's, is the southernmost."""
    lattice: Lattice
    """The windows of the whole scene."""
    shown: Window
    """The part of the scene that the map shows."""
    row_cuts: tuple[int, ...]
    col_cuts: tuple[int, ...]
    layers: MapLayers
    batch: int
    """Largest number of windows per batch."""
    group: int = 1
    """Rows of windows that fill batches together."""
    threads: int = 0
    """Threads that a worker of a cluster computes with; 0 leaves it to torch."""
    gdal_cache: int = GDAL_CACHE
    """Bytes."""
    memory: int = 0
    """Estimated peak in bytes, of one process."""
    waiting_memory: int = 0
    """Bytes of the process that waits for several others."""
    memory_limit: int = 0
    """Bytes that all processes together may take."""
    device_memory: int = 0
    """Estimated peak of one accelerator in bytes; 0 on the CPU."""
    device_limit: int = 0
    """Bytes that may be taken of one accelerator."""
    warnings: tuple[str, ...] = field(default=(), repr=False)
    """What may make the map worse than it could be."""
    date: str = ""
    """Date of the scene, for its STAC item; empty without an item."""
    calibration: str = ""
    """How the model's probabilities were calibrated; empty if they were not."""

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Column and row of every piece, in the order of work."""
        return [(column, row) for column in range(len(self.col_cuts) - 1) for row in range(len(self.row_cuts) - 1)]

    def pieces_in_file(self) -> Iterator[tuple[int, int, Window]]:
        """Row and column of every piece and its window in the file, in the file's order."""
        numbers = range(len(self.row_cuts) - 1)
        for row in reversed(numbers) if self.is_south_up else numbers:
            for column in range(len(self.col_cuts) - 1):
                height, width = self.piece_shape(row, column)
                above, below = self.row_cuts[row] - self.row_cuts[0], self.row_cuts[-1] - self.row_cuts[row + 1]
                left = self.col_cuts[column] - self.col_cuts[0]
                yield row, column, Window(left, below if self.is_south_up else above, width, height)

    def piece_shape(self, row: int, column: int) -> tuple[int, int]:
        """Height and width of a piece in pixels."""
        return self.row_cuts[row + 1] - self.row_cuts[row], self.col_cuts[column + 1] - self.col_cuts[column]

    @property
    def total_memory(self) -> int:
        """Estimated peak in bytes, of all processes together."""
        return self.memory * self.request.gpus + self.waiting_memory

    @property
    def key(self) -> dict[str, Any]:
        """Everything that the map's pixels depend on, by names for people; memory and batches are not part of it."""
        names = [each.name for each in fields(self.request) if each.name not in _NOT_IN_KEY]
        return {name.replace("_", "-"): getattr(self.request, name) for name in names} | {
            "scene": self.scene_fingerprint,
            "checkpoint": self.checkpoint_sha256,
            "version of cwsam": __version__,
            "precision": self.precision,
            "device": self.device,
            "area of interest": self.area_fingerprint,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the key and of how the file is written: the map's files carry it."""
        written = self.key | {"format": self.request.format, "creation option": dict(self.request.creation)}
        return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()

    def cut_like(self, older: "MapPlan") -> "MapPlan":
        """The same map, in the pieces and batches of an older plan for it."""
        kept = {name: getattr(older, name) for name in ("batch", "group", "col_cuts", "memory", "device_memory")}
        return replace(self, **kept)

    def cuts_like(self, other: "MapPlan") -> bool:
        """Whether `other.cut_like(self)` is a plan of the same map. A journal may hold any values."""
        numbers = [getattr(self, name) for name in ("batch", "group", "memory", "device_memory")]
        cuts = self.col_cuts
        return (
            all(type(number) is int and number >= 0 for number in (*numbers, *cuts))
            and self.batch > 0 < self.group
            and (cuts[:1], cuts[-1:]) == (other.col_cuts[:1], other.col_cuts[-1:])
            and all(left < right for left, right in pairwise(cuts))
        )

    def without_crs_warning(self) -> "MapPlan":
        """The same map, of an array that has no CRS by intent."""
        return replace(self, warnings=tuple(text for text in self.warnings if text != _NO_CRS % self.request.scene))

    def log_warnings(self) -> None:
        """Log the warnings and the calibration; of many scenes without a CRS only the first is named."""
        for text in self.warnings:
            if text == _NO_CRS % self.request.scene:
                log.warning(_NO_CRS, self.request.scene, extra=ONCE_A_KIND)
            else:
                log.warning("%s", text)
        if self.calibration and (self.layers.kinds or self.layers.min_confidence):
            log.info("probabilities are calibrated: %s", self.calibration, extra=ONCE)

    def to_json(self) -> dict[str, Any]:
        """Values that JSON has, by field, without secrets of URLs; see `from_json`."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        told = [without_secrets(text) for text in self.warnings]
        return plain | {"request": self.request.to_json(), "warnings": told}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "MapPlan":
        """The plan that `to_json` wrote, also after a round trip through a JSON file.

        Raises:
            KeyError, TypeError, ValueError: another version wrote it.
        """
        values = {name: _with_tuples(value) for name, value in raw.items()}
        grid, layers = values["grid"], values["layers"]
        table = layers["taxonomy"]
        taxonomy = Taxonomy(**table | {"classes": tuple(LandCoverClass(**entry) for entry in table["classes"])})
        crs = CRS.from_wkt(grid["crs"]) if grid["crs"] else None
        return cls(
            **values
            | {
                "request": MapRequest.from_json(raw["request"]),
                "bands": tuple(Band(**band) for band in values["bands"]),
                "grid": Grid(crs, Affine(*grid["transform"]), grid["width"], grid["height"]),
                "lattice": Lattice(**values["lattice"]),
                "shown": Window(*values["shown"]),
                "layers": MapLayers(**layers | {"taxonomy": taxonomy}),
            }
        )


def _plain(value: object) -> Any:
    if isinstance(value, Affine):
        return list(value)[:6]
    if isinstance(value, Window):
        return [int(number) for number in value.flatten()]
    return value.to_wkt() if isinstance(value, CRS) else str(value)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    return {name: _with_tuples(each) for name, each in value.items()} if isinstance(value, dict) else value


def make_plan(request: MapRequest, model: Model) -> MapPlan:
    """Look at a scene and decide how to map it.

    Raises:
        DataError: the scene does not suit the model.
        MachineError: the memory that may be used is not enough.
    """
    trained = model.trained
    pixel_m = trained.gsd_m if request.resample_to_model else None
    if request.resample_to_model and pixel_m is None:
        raise UsageError("--resample-to-model: the model does not know its pixel size", hint="leave it out")
    groups = model.expert_groups(request)
    calibration = trained.calibration
    if request.set_size and not (calibration and calibration.thresholds):
        raise UsageError(
            f"--set-size: `{request.checkpoint}` has no thresholds for sets of classes",
            hint="fit them first: cwsam eval -c MODEL --data DATASET --conformal 0.9 -o sets.pth",
        )
    layers = MapLayers(
        trained.taxonomy,
        request.kinds,
        request.min_confidence,
        groups,
        temperature=calibration.temperature if calibration else 1.0,
        thresholds=calibration.thresholds if calibration else (),
    )
    with (
        warnings.catch_warnings(),
        rasterio.Env(**gdal_settings(request.scene)),
        open_scene(
            request.scene,
            wanted_bands=[band.name for band in trained.bands],
            chosen_bands=request.bands,
            alpha=request.alpha,
            pixel_m=pixel_m,
        ) as scene,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        remarks = _remarks(scene, trained, bands_chosen=bool(request.bands))
        north = scene.north_up
        if request.aoi:
            read_area(request.aoi, north)
        shown = north.within(request.bounds) if request.bounds else Window(0, 0, north.width, north.height)
        size = trained.architecture.inp_size
        lattice = Lattice.over(north.width, north.height, size, int(size * request.overlap), MARGIN)
        gdal_cache, needs = _needs(scene, model, request, layers, lattice)
        waiting = model.program_bytes if request.gpus > 1 else 0
        own = _MEMORY + model.program_bytes + weight_bytes(trained)
        limit = request.max_memory or own * request.gpus + waiting
        room = 0 if model.device.type == "cpu" else request.gpu_memory or free_memory(model.device)
        width, batch = cut(needs, int(shown.width), request, limit=limit, waiting=waiting, room=room)
        return MapPlan(
            request=request,
            scene_fingerprint=fingerprint(request.scene, scene.original or scene.dataset, whole=request.verify),
            checkpoint_sha256=model.digest,
            area_fingerprint=fingerprint_of_file(request.aoi, whole=request.verify) if request.aoi else None,
            device=model.device.type,
            precision=model.precision,
            is_shared=model.is_shared,
            bands=trained.bands,
            pixel_m=pixel_m,
            grid=scene.grid.part(scene.mirrored(shown) if scene.is_south_up else shown),
            is_south_up=scene.is_south_up,
            lattice=lattice,
            shown=shown,
            row_cuts=cuts(int(shown.row_off), int(shown.height), BLOCK, from_end=scene.is_south_up),
            col_cuts=cuts(int(shown.col_off), int(shown.width), width),
            layers=layers,
            batch=batch,
            group=needs.group(width, batch),
            gdal_cache=gdal_cache,
            memory=needs.bytes(width, batch),
            waiting_memory=waiting,
            memory_limit=limit,
            device_memory=needs.device_bytes(width, batch),
            device_limit=room,
            warnings=tuple(remarks),
            date=date_of(request.scene) if request.stac else "",
            calibration=calibration.as_text() if calibration else "",
        )


def cuts(first: int, length: int, step: int, *, from_end: bool = False) -> tuple[int, ...]:
    """Cut a stretch of pixels into steps; `from_end` leaves the short step at its beginning."""
    end = first + length
    if from_end:
        return tuple(sorted({first, *range(end, first, -step)}))
    return (*range(first, end, step), end)


def _needs(scene: Scene, model: Model, request: MapRequest, layers: MapLayers, lattice: Lattice) -> tuple[int, Needs]:
    """Bytes of GDAL's cache, and what takes memory."""
    on_cpu, arch = model.device.type == "cpu", model.trained.architecture
    height = int(scene.dataset.block_shapes[0][0])
    image_bytes = np.dtype(scene.dtype).itemsize
    row_of_blocks = height * scene.grid.width * len(scene.bands) * image_bytes
    # Blocks too high to hold as rows of pixels are held as blocks, or each would be decoded for every row of windows.
    high = height > max(512, arch.inp_size)
    readers = count_readers(model.device, request.gpus)
    cache = GDAL_CACHE * readers + (min(row_of_blocks * 5 // 4, _HIGH_BLOCKS) if high else 0)
    weights = weight_bytes(model.trained)
    return cache, Needs(
        lattice=lattice,
        fixed=model.program_bytes + cache + (weights + _ONCE[model.precision] if on_cpu else _RUNTIME),
        device_fixed=None if on_cpu else weights // (request.gpus if model.is_shared else 1),
        model=activation_bytes(arch, views=len(AUGMENTATIONS[request.tta])),
        bands=len(scene.bands),
        image_bytes=image_bytes,
        classes=len(layers.taxonomy) + layers.expert_groups,
        layers=layers.count,
        block_height=height,
    )


def _remarks(scene: Scene, trained: Checkpoint, *, bands_chosen: bool) -> list[str]:
    """Sentences on what may make the map worse than it could be; nothing that stops it."""
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
        found.append(_NO_CRS % path)
    if trained.gsd_m and grid.gsd_m and not 0.5 <= grid.gsd_m / trained.gsd_m <= 2:
        found.append(
            f"`{path}` has pixels of {grid.gsd_m:.3g} m, the model was trained on {trained.gsd_m:.3g} m: "
            "--resample-to-model makes a better map"
        )
    if scene.dtype != trained.dtype:
        found.append(
            f"`{path}` holds {scene.dtype} values, the model was trained on {trained.dtype}: "
            "check that both have the same scale"
        )
    for band, own in zip(trained.bands, sample(scene), strict=True):
        known = own[np.isfinite(own)]
        if known.size and abs(np.median(known) - band.mean) > _FAR * band.std:
            found.append(
                f"`{path}`: band {band.name} is about {np.median(known):.4g}, the model was trained on "
                f"{band.mean:.4g} ± {band.std:.4g}: values of another scale make a useless map"
            )
    return found
