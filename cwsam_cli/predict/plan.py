"""Everything that is decided about a map before work begins; see `planning`."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli import __version__
from cwsam_cli.config.schema import Precision
from cwsam_cli.console import ONCE, ONCE_A_KIND, log, without_secrets
from cwsam_cli.dataset.fit import NO_CRS
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.predict.layers import MapLayers
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.lattice import Lattice
from cwsam_cli.raster.sources.network import GDAL_CACHE
from cwsam_cli.raster.sources.views import public_name
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

_NOT_IN_KEY = {
    *("scene", "scenes", "checkpoint", "output", "overwrite", "command", "preview", "aoi", "format", "creation"),
    *("upload", "stac", "collection", "max_memory", "gpu_memory", "batch_size", "device", "gpus", "part", "scheduler"),
}
"""Fields of a request on which pixels do not depend, or that the key holds as a hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedScene:
    """One of the scenes whose scores make a mosaic."""

    scene: str = field(repr=False)
    fingerprint: str
    bands: tuple[Band, ...]
    """By which the scene's pixels are normalised."""
    col: int
    """Column of the mosaic where the scene begins."""
    row: int
    """Row of the mosaic where the scene begins."""
    lattice: Lattice
    """The scene's windows."""
    shown: Window
    """The part of the scene that the map shows."""

    def within(self, part: Window) -> Window | None:
        """Return the pixels of the scene that a part of the mosaic shows; None if there are none."""
        own = self.shown
        left, top = max(part.col_off - self.col, own.col_off), max(part.row_off - self.row, own.row_off)
        right = min(part.col_off + part.width - self.col, own.col_off + own.width)
        bottom = min(part.row_off + part.height - self.row, own.row_off + own.height)
        return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None


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
    """The model's bands, with the statistics that normalise the scene's pixels."""
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
    scenes: tuple[PlacedScene, ...] = ()
    """The scenes of a mosaic, in an order that does not depend on the command line. Then `lattice` and `shown` are
    those of the mosaic. Empty if the map shows one scene."""

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Column and row of every piece, in the order of work."""
        return [(column, row) for column in range(len(self.col_cuts) - 1) for row in range(len(self.row_cuts) - 1)]

    def part(self, column: int, first: int, last: int) -> Window:
        """The pixels of neighbouring pieces of a column."""
        left, top = self.col_cuts[column], self.row_cuts[first]
        return Window(left, top, self.col_cuts[column + 1] - left, self.row_cuts[last + 1] - top)

    def for_stretch(self, stretch: tuple[int, int, int]) -> "MapPlan":
        """The same plan without scenes that these pieces do not show; see `part`."""
        part = self.part(*stretch)
        return replace(self, scenes=tuple(placed for placed in self.scenes if placed.within(part) is not None))

    def of_scene(self, placed: PlacedScene) -> "MapPlan":
        """The plan by which a scene of a mosaic is read."""
        request = replace(self.request, scene=placed.scene, scenes=())
        return replace(self, request=request, scenes=(), bands=placed.bands, lattice=placed.lattice, shown=placed.shown)

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
    def normalization(self) -> str:
        """The figures by which pixels are normalised, for the record in the map."""
        if self.scenes and self.request.normalize == "scene":
            return "each scene's own"
        return ", ".join(f"{band.name} {band.mean:.6g} ± {band.std:.6g}" for band in self.bands)

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
        return replace(self, warnings=tuple(text for text in self.warnings if text != NO_CRS % self.request.scene))

    def log_warnings(self) -> None:
        """Log the warnings and the calibration; of many scenes without a CRS only the first is named."""
        for text in self.warnings:
            if text == NO_CRS % self.request.scene:
                log.warning(NO_CRS, self.request.scene, extra=ONCE_A_KIND)
            else:
                log.warning("%s", text)
        if self.calibration and (self.layers.kinds or self.layers.min_confidence):
            log.info("probabilities are calibrated: %s", self.calibration, extra=ONCE)

    def to_json(self) -> dict[str, Any]:
        """Values that JSON has, by field, without secrets of URLs; see `from_json`."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        told = [without_secrets(text) for text in self.warnings]
        scenes = [placed | {"scene": public_name(placed["scene"])} for placed in plain["scenes"]]
        return plain | {"request": self.request.to_json(), "warnings": told, "scenes": scenes}

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
                "scenes": tuple(
                    PlacedScene(
                        **placed
                        | {
                            "bands": tuple(Band(**band) for band in placed["bands"]),
                            "lattice": Lattice(**placed["lattice"]),
                            "shown": Window(*placed["shown"]),
                        }
                    )
                    for placed in values["scenes"]
                ),
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
