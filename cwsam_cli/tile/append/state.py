"""What adding scenes to a dataset needs besides `dataset.yaml` and `tiles.gpkg`: the file `append.npz`.

It has the scenes with their fingerprints, the units of ground with their splits, the values of the class table, and
statistics that can be merged.
"""

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
from numpy.typing import NDArray

from cwsam_cli.config.load import validate
from cwsam_cli.dataset.folds import INDEX
from cwsam_cli.dataset.manifest import SPLITS, Manifest, Split, SplitRule, Tiling, read_manifest
from cwsam_cli.dataset.statistics import RunningStats, class_weights
from cwsam_cli.errors import ConfigError, DataError, one_line
from cwsam_cli.files import sha256
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.raster.sources.views import public_name
from cwsam_cli.taxonomy import LabelTable
from cwsam_cli.tile.append.options import too_old
from cwsam_cli.tile.append.replacement import STATE
from cwsam_cli.tile.footprints import PlacedScene, PlannedTile
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.tile.split.earlier import DividedUnit, EarlierGround
from cwsam_cli.tile.tiles import WrittenTile

_WINDOW = ("row_off", "col_off", "height", "width")
_SCENE = ("name", "path", "fingerprint", "transform", "width", "height")
_DAMAGED = (
    OSError,
    ConfigError,
    RecursionError,
    EOFError,  # of an empty file
    LookupError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SceneRecord:
    """A scene in `append.npz`; see `PlacedScene`."""

    name: str
    path: str
    fingerprint: str
    transform: tuple[float, float, float, float, float, float]
    width: int
    height: int
    crs: int
    """Its place in the list of CRS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """The JSON text in `append.npz`."""

    crs: list[str | None]
    scenes: list[_SceneRecord]
    units: dict[str, tuple[Split, int | None, list[tuple[int, int]]]]
    """Split, fold, and labelled pixels by class code."""
    values: list[tuple[int | str, int]]
    """Class code by value of the labels."""

    def __post_init__(self) -> None:
        for scene in self.scenes:
            if not (0 < scene.width and 0 < scene.height and 0 <= scene.crs < len(self.crs)):
                raise ValueError(f"width, height or crs of the scene `{scene.name[:80]}` is wrong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A dataset to which scenes are added."""

    folder: Path
    manifest: Manifest
    rule: SplitRule
    tiling: Tiling
    ground: EarlierGround
    tiles: tuple[WrittenTile, ...]
    """In the order of `ground.tiles`."""
    table: LabelTable
    statistics: RunningStats
    digest: str
    """Changes when scenes are added."""

    def after(self, scenes: int) -> list[WrittenTile]:
        """Return the tiles, with scenes counted after a number of new ones."""
        return [replace(tile, planned=replace(tile.planned, scene=tile.planned.scene + scenes)) for tile in self.tiles]


def write_state(
    folder: Path,
    scenes: Sequence[PlacedScene],
    units: Mapping[str, DividedUnit],
    table: LabelTable,
    statistics: RunningStats,
) -> None:
    """Write `append.npz`.

    Args:
        folder: the dataset's folder.
        scenes: all scenes, also those without a tile.
        units: all units of ground.
        table: the class table.
        statistics: of the training pixels.
    """
    crs = list(dict.fromkeys(scene.crs for scene in scenes))
    number = {wkt: i for i, wkt in enumerate(crs)}
    text = json.dumps(
        {
            "crs": crs,
            "scenes": [
                {name: getattr(scene, name) for name in _SCENE}
                | {"path": public_name(scene.path), "crs": number[scene.crs]}
                for scene in scenes
            ],
            "units": {unit: [own.split, own.fold, list(own.found.items())] for unit, own in units.items()},
            "values": list(table.values.items()),
        }
    )
    arrays: dict[str, Any] = {"description": np.frombuffer(text.encode(), np.uint8), **statistics.to_arrays()}
    np.savez_compressed(folder / STATE, **arrays)


def read_earlier(folder: Path) -> Earlier:
    """Read a dataset to which scenes are added.

    Raises:
        DataError: there is none, it is damaged, or a version without `--append` wrote it.
    """
    manifest = read_manifest(folder)
    path = folder / STATE
    if manifest.tiling is None or manifest.split is None or not path.is_file():
        raise too_old(folder)
    try:
        with np.load(path) as arrays:
            raw = json.loads(arrays["description"].tobytes())
            statistics = RunningStats.from_arrays(arrays)
        told = validate(_Description, raw, str(path))
        scenes = tuple(
            PlacedScene(**{name: getattr(own, name) for name in _SCENE} | {"crs": told.crs[own.crs]})
            for own in told.scenes
        )
        units = {unit: DividedUnit(split, fold, dict(found)) for unit, (split, fold, found) in told.units.items()}
        refuse_unusable_layer(folder / INDEX)
        frame = pyogrio.read_dataframe(folder / INDEX, layer="tiles", read_geometry=False)
        tiles = _read_tiles(frame.to_dict("records"), scenes, manifest.taxonomy.codes)
        table = LabelTable(taxonomy=manifest.taxonomy, values=dict(told.values))
    except _DAMAGED as error:
        raise DataError(
            f"`{path}` or `{folder / INDEX}` is damaged: {one_line(error)}",
            hint="tile all scenes again into another folder",
        ) from None
    return Earlier(
        folder=folder,
        manifest=manifest,
        rule=manifest.split,
        tiling=manifest.tiling,
        ground=EarlierGround(scenes, tuple(tile.planned for tile in tiles), units),
        tiles=tuple(tiles),
        table=table,
        statistics=statistics,
        digest=sha256(path),
    )


def refuse_other_bands(scene: LabelledScene, earlier: Earlier) -> None:
    """Stop if a scene has other bands than a dataset.

    Raises:
        DataError: its bands or its dtype differ.
    """
    names = tuple(band.name for band in earlier.manifest.bands)
    if (scene.band_names, scene.dtype) != (names, earlier.manifest.dtype):
        raise DataError(
            f"`{scene.path}` has the bands {', '.join(scene.band_names)} ({scene.dtype}), but `{earlier.folder}` has "
            f"{', '.join(names)} ({earlier.manifest.dtype})",
            hint="add scenes with the same bands and dtype; --bands chooses and orders them",
        )


def extend_manifest(old: Manifest, new: Manifest, statistics: RunningStats) -> Manifest:
    """Describe a dataset with added tiles, except their ground.

    Args:
        old: the dataset.
        new: the tiles that are added.
        statistics: of the training pixels of both.
    """
    pixels = {split: [a + b for a, b in zip(own, new.pixels[split], strict=True)] for split, own in old.pixels.items()}
    return replace(
        old,
        bands=statistics.bands([band.name for band in old.bands]),
        tiles={split: count + new.tiles[split] for split, count in old.tiles.items()},
        valid_pixels=statistics.pixels,
        pixels=pixels,
        left_out=dict(Counter(old.left_out) + Counter(new.left_out)),
        corrected={
            kind: old.corrected.get(kind, 0) + new.corrected.get(kind, 0) for kind in {**old.corrected, **new.corrected}
        },
        weights=class_weights(pixels["train"]),
        appended=[*old.appended, new.command],
    )


def _read_tiles(
    rows: Sequence[Mapping[Any, Any]], scenes: Sequence[PlacedScene], codes: Sequence[int]
) -> list[WrittenTile]:
    """Return the tiles that the rows of `tiles.gpkg` describe."""
    numbers = {scene.name: number for number, scene in enumerate(scenes)}
    tiles = []
    for row in rows:
        name, (top, left, height, width) = str(row["tile"]), (int(row[key]) for key in _WINDOW)
        if min(top, left, height - 1, width - 1) < 0 or row["split"] not in SPLITS:
            raise ValueError(f"window or split of the tile `{name[:80]}` is wrong")
        fold, near = row.get("fold"), row.get("near_folds")
        planned = PlannedTile(
            scene=numbers[name.rsplit("_", 2)[0]],
            row_off=top,
            col_off=left,
            height=height,
            width=width,
            split=row["split"],
            block=str(row["block"]),
            fold=None if fold is None or fold != fold else int(fold),
            near_folds=tuple(int(own) for own in near.split(",") if own) if isinstance(near, str) else (),
        )
        labelled = round(row["labelled"] * height * width)
        shares = [row[f"share_{code}"] for code in codes]
        pixels: NDArray[np.int64] = np.rint(np.array(shares) * labelled).astype(np.int64)
        tiles.append(WrittenTile(planned, name, float(row["valid"]), pixels))
    return tiles
