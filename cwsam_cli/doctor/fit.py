"""Whether two things go together: a scene and a model, a model and a dataset, a map and its scene, and so on.

Each check returns doubts, which are assumptions that a command would make, and misfits, which spoil its result.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from cwsam_cli.dataset.fit import find_doubts, find_misfits, find_shifts
from cwsam_cli.dataset.folds import INDEX
from cwsam_cli.dataset.manifest import Band, Manifest, read_manifest
from cwsam_cli.dataset.radiometry import sample
from cwsam_cli.dataset.samples import refuse_different
from cwsam_cli.doctor.describe import map_taxonomy
from cwsam_cli.errors import DataError
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.sources.dates import find_date
from cwsam_cli.taxonomy import Taxonomy

Found = tuple[list[str], list[str]]
"""Doubts and misfits, as sentences."""

_SEASON_DAYS = 60
_YEAR_DAYS = 365


def scene_and_model(scene: str, model: str) -> Found:
    """Compare bands, dtype, pixel size and values."""
    from cwsam_cli.checkpoints.exported import open_model

    trained, _ = open_model(Path(model))
    return _scene_and_bands(scene, trained.bands, trained.dtype, trained.gsd_m, than="the model was trained on")


def scene_and_dataset(scene: str, dataset: str) -> Found:
    """Compare bands, dtype, pixel size, values and season."""
    manifest = read_manifest(Path(dataset))
    doubts, misfits = _scene_and_bands(scene, manifest.bands, manifest.dtype, manifest.gsd_m, than="the dataset has")
    return doubts + _season(scene, Path(dataset)), misfits


def _scene_and_bands(scene: str, bands: Sequence[Band], dtype: str, gsd_m: float | None, *, than: str) -> Found:
    wanted = [band.name for band in bands]
    with open_scene(scene, wanted_bands=wanted) as opened:
        values = sample(opened)
        doubts = [
            *find_doubts(opened, wanted),
            *find_shifts(opened, values, bands, than=than, advice="cwsam predict --normalize scene"),
        ]
        return doubts, find_misfits(
            opened, values, bands, dtype, gsd_m, than=than, advice="cwsam predict --resample-to-model, cwsam tile --res"
        )


def _season(scene: str, dataset: Path) -> list[str]:
    """Return a sentence if no scene of a dataset is from the season of another scene; empty if dates are not known."""
    try:
        with closing(sqlite3.connect(f"{(dataset / INDEX).resolve().as_uri()}?mode=ro", uri=True)) as package:
            names = [str(name) for (name,) in package.execute("SELECT DISTINCT scene FROM tiles")]
    except sqlite3.Error:
        return []
    own, others = _day(scene), [day for name in names if (day := _day(name)) is not None]
    if own is None or not others:
        return []
    apart = min(_days_apart(own, other) for other in others)
    if apart <= _SEASON_DAYS:
        return []
    return [
        f"`{scene}` is from {own.isoformat()}, {apart} days of the year from the nearest scene of `{dataset}`: "
        "vegetation may look different"
    ]


def _day(scene: str) -> date | None:
    try:
        text = find_date(scene)[:10]
    except DataError:
        return None
    return date.fromisoformat(text) if len(text) > len("2024") else None


def _days_apart(one: date, other: date) -> int:
    apart = abs(one.timetuple().tm_yday - other.timetuple().tm_yday)
    return min(apart, _YEAR_DAYS - apart)


def model_and_dataset(model: str, dataset: str) -> Found:
    """Compare classes, bands, dtype and pixel size."""
    from cwsam_cli.checkpoints.exported import open_model

    trained, _ = open_model(Path(model))
    manifest = read_manifest(Path(dataset))
    misfits = _classes(model, trained.taxonomy, dataset, manifest.taxonomy)
    own, other = ([band.name for band in bands] for bands in (trained.bands, manifest.bands))
    if own != other:
        misfits.append(f"`{model}` reads the bands {', '.join(own)}, `{dataset}` has {', '.join(other)}")
    if trained.dtype != manifest.dtype:
        misfits.append(f"`{model}` was trained on {trained.dtype} values, `{dataset}` holds {manifest.dtype}")
    if trained.gsd_m and manifest.gsd_m and not 0.5 <= manifest.gsd_m / trained.gsd_m <= 2:
        misfits.append(
            f"`{model}` was trained on pixels of {trained.gsd_m:.3g} m, `{dataset}` has {manifest.gsd_m:.3g} m"
        )
    return [], misfits


def datasets(first: str, second: str) -> Found:
    """Compare classes and bands, which must be equal to train on both."""
    manifests: list[Manifest] = [read_manifest(Path(path)) for path in (first, second)]
    refuse_different(Path(second), manifests[1], manifests[0], f"`{first}`")
    return [], []


def map_and_model(path: str, model: str) -> Found:
    """Compare a map's record of its model with the model, and the classes of both."""
    from cwsam_cli.checkpoints.exported import open_model
    from cwsam_cli.files import sha256
    from cwsam_cli.raster.mapfile import MODEL_TAG

    trained, _ = open_model(Path(model))
    tags, taxonomy = _read_map(path)
    doubts, misfits = _map_classes(path, taxonomy, model, trained.taxonomy)
    if sha256(Path(model)) not in tags.get(MODEL_TAG, ""):
        doubts.append(f"another model than `{model}` made `{path}`")
    return doubts, misfits


def map_and_scene(path: str, scene: str) -> Found:
    """Compare the grids of a map and a scene."""
    from cwsam_cli.raster.grid import Grid
    from cwsam_cli.raster.scene import open_raster

    with open_raster(path) as one, open_raster(scene) as other:
        own, grid = Grid.of(one), Grid.of(other)
    if own == grid:
        return [], []
    return [f"`{path}` and `{scene}` lie on different grids: {own}; {grid}"], []


def map_and_dataset(path: str, dataset: str) -> Found:
    """Compare the classes of a map and a dataset."""
    return _map_classes(path, _read_map(path)[1], dataset, read_manifest(Path(dataset)).taxonomy)


def config_and_dataset(config: str, dataset: str) -> Found:
    """Compare the classes of a configuration with a dataset, and the model's input with the size of the tiles."""
    from cwsam_cli.config.load import dataset_taxonomy, load_config

    read, manifest = load_config(config), read_manifest(Path(dataset))
    named = dataset_taxonomy(read.train_dataset.dataset.args)
    misfits = [] if named is None else _classes(config, named, dataset, manifest.taxonomy)
    size, side = read.model.args.inp_size, manifest.tiling.size if manifest.tiling else None
    if side is not None and side < size:
        padded = f"`{config}` has an input of {size} pixels, the tiles of `{dataset}` have {side}: the rest is padding"
        return [padded], misfits
    return [], misfits


def _classes(first: str, own: Taxonomy, second: str, other: Taxonomy) -> list[str]:
    if own.same_classes(other):
        return []
    lists = [", ".join(f"{entry.code} {entry.name}" for entry in table.classes[:5]) for table in (own, other)]
    return [f"`{first}` has the classes {lists[0]}, … ({len(own)}), `{second}` has {lists[1]}, … ({len(other)})"]


def _map_classes(path: str, own: Taxonomy | None, second: str, other: Taxonomy) -> Found:
    if own is None:
        return [f"`{path}` has no class names to compare with the classes of `{second}`"], []
    return [], _classes(path, own, second, other)


def _read_map(path: str) -> tuple[dict[str, Any], Taxonomy | None]:
    from cwsam_cli.raster.scene import open_raster

    with open_raster(path) as dataset:
        return dataset.tags(), map_taxonomy(dataset)


CHECKS: dict[tuple[str, str], Callable[[str, str], Found]] = {
    ("scene", "model"): scene_and_model,
    ("scene", "dataset"): scene_and_dataset,
    ("model", "dataset"): model_and_dataset,
    ("dataset", "dataset"): datasets,
    ("map", "model"): map_and_model,
    ("map", "scene"): map_and_scene,
    ("map", "dataset"): map_and_dataset,
    ("configuration", "dataset"): config_and_dataset,
}
"""The check for each pair of kinds that can be compared."""
