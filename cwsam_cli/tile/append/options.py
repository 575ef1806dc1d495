"""The options of the run that made a dataset: `--append` uses them again and refuses others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.errors import DataError
from cwsam_cli.tile.lengths import Length

_NAMES = {
    "size": "--size",
    "overlap": "--overlap",
    "shares": "--split",
    "seed": "--seed",
    "split_by": "--split-by",
    "split_field": "--split-field",
    "block_size": "--block-size",
    "buffer": "--buffer",
    "folds": "--folds",
    "crs": "--crs",
    "pixel_m": "--res",
    "unscale": "--unscale",
}
_FREE = ("bands", "format", "min_valid", "min_labelled")
"""Options that may differ. Bands are compared by their names when the scenes are opened."""


def same_options(given: Mapping[str, Any], folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the options of a dataset.

    Args:
        given: the options that the user gives, by the names of `TileRequest`.
        folder: the dataset's folder.
        manifest: its description.

    Raises:
        DataError: a given option differs from the dataset's, or an older version made the dataset.
    """
    tiling, rule = manifest.tiling, manifest.split
    if tiling is None or rule is None:
        raise too_old(folder)
    known: dict[str, Any] = {name: getattr(tiling, name) for name in (*_FREE, *_NAMES) if hasattr(tiling, name)}
    known |= {"seed": rule.seed, "folds": rule.folds}
    known["block_size"] = Length(rule.block_m, "m") if rule.block_m else Length(float(rule.block_px), "px")
    known["buffer"] = None if rule.by == "date" else Length(float(rule.buffer_px), "px")
    for name, option in _NAMES.items():
        value = given.get(name)
        if value is None or _agrees(name, value, known[name], manifest):
            continue
        raise DataError(
            f"{option} differs from that of `{folder}`, which is {_text(known[name])}",
            hint=f"leave out {option}: --append uses the options of the dataset",
        )
    chosen = {name: given[name] for name in (*_FREE, "split_by") if given.get(name) is not None}
    return known | chosen


def too_old(folder: Path) -> DataError:
    """Return the error for a dataset without what `--append` needs."""
    return DataError(
        f"an older version of cwsam made `{folder}`, so no scenes can be added to it",
        hint="tile all scenes again into another folder",
    )


def _agrees(name: str, value: Any, known: Any, manifest: Manifest) -> bool:
    assert manifest.tiling is not None and manifest.split is not None
    if isinstance(value, Length):
        if known is None:
            return False
        pixels, own = (length.pixels(manifest.tiling.size, manifest.gsd_m, _NAMES[name]) for length in (value, known))
        return bool(pixels == own)
    if name == "split_by" and manifest.split.by == "polygons":  # new ground can need another layer
        return value not in ("block", "scene", "date") and Path(value).exists()
    return bool(value == known)


def _text(value: Any) -> str:
    if isinstance(value, Length):
        return f"{value.value:g}{value.unit}"
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value)
    return "not given" if value in (None, "", False) else str(value)
