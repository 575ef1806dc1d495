"""Corrected features that override the labels of the scenes, for another round of training."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.taxonomy import IGNORE, LabelTable
from cwsam_cli.tile.labels.codes import NO_LABEL, Codes, Conflicts, Labels, Value
from cwsam_cli.tile.labels.vector import VectorLabels, VectorSource, field_codes, place_polygons

_REMOVED = -3
"""The code of ground whose label a correction removes."""
_WORD = "unlabelled"
"""A value of the class field that removes the label, unless a class has this name."""
_SHOWN = 8
COUNTED = ("pixels", "class_changed", "label_added", "label_removed")
"""What `CorrectedLabels.count` counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionSource:
    """A layer of corrections. Where they overlap, the last one of the file wins."""

    source: VectorSource
    table: LabelTable | None
    """The classes; None if only the pixels of the labels can tell them. Values are then class codes."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    def refuse_unknown(self) -> None:
        """Read the class field of the whole layer.

        Raises:
            DataError: it holds values that no class has.
        """
        odd = sorted(map(str, self.source.values() - self._codes().keys()))
        if odd:
            shown = ", ".join(f"`{value}`" for value in odd[:_SHOWN])
            more = f" and {len(odd) - _SHOWN:,} more" if len(odd) > _SHOWN else ""
            known = "class codes from 0 to 254, because the labels name no classes; or give a class table: --classes"
            if self.table is not None:
                known = ", ".join(f"{entry.name} ({entry.code})" for entry in self.table.taxonomy.classes)
            raise DataError(
                f"`{self.path}`: the field `{self.source.class_field}` holds {shown}{more}, which no class has",
                hint=f"classes are: {known}. An empty field removes the label",
            )

    def placed(self, grid: Grid, scene: Path | str) -> VectorLabels:
        """Read the corrections near a scene, and place them on its grid. The code `_REMOVED` stands for no class.

        Args:
            grid: the scene's grid.
            scene: the scene's path, for messages.

        Raises:
            DataError: they cannot be placed on the scene.
        """
        if grid.crs is None:
            raise missing_crs(scene, grid, "so corrections cannot be placed on it")
        frame = self.source.features(grid).sort_index()
        codes = self._codes()
        own = np.array([codes[value] for value in frame["value"].tolist()], np.int32)
        frame = frame.assign(code=own, rank=np.arange(len(frame)))
        return place_polygons(frame, grid, scene)

    def _codes(self) -> dict[Value, int]:
        """Return class codes, or `_REMOVED`, by value of the field."""
        if self.table is None:
            known: dict[Value, int] = {value: code for code in range(IGNORE) for value in (code, str(code))}
        else:
            known = {value: _REMOVED if code == NO_LABEL else code for value, code in field_codes(self.table).items()}
        removing: dict[Value, int] = dict.fromkeys(("", _WORD, IGNORE, str(IGNORE)), _REMOVED)
        return removing | known


@dataclass(frozen=True, slots=True)
class CorrectedLabels:
    """Labels on a scene's grid, with corrections above them."""

    labels: Labels
    corrections: VectorLabels

    def read(self, window: Window) -> Codes:
        """See `Labels`."""
        return _override(self.labels.read(window), self.corrections.read(window))

    def unexpected(self, window: Window) -> Counter[Value]:
        """See `Labels`. Values below corrections count, too."""
        return self.labels.unexpected(window)

    def conflicts(self, window: Window) -> Conflicts:
        """See `Labels`. Corrections do not conflict."""
        return self.labels.conflicts(window)

    def count(self, window: Window, hidden: NDArray[np.bool_] | None) -> Counter[str]:
        """Count corrected pixels and what happened to them, by the names in `COUNTED`.

        Args:
            window: the pixels.
            hidden: where the scene has no data (H, W).
        """
        fixed = self.corrections.read(window)
        is_fixed = fixed != NO_LABEL
        if hidden is not None:
            is_fixed &= ~hidden
        if not is_fixed.any():
            return Counter()
        before, after = self.labels.read(window)[is_fixed], fixed[is_fixed]
        had, has = before >= 0, after >= 0
        kinds = np.ones_like(had), had & has & (before != after), ~had & has, had & ~has
        return Counter({name: int(kind.sum()) for name, kind in zip(COUNTED, kinds, strict=True)})


def _override(codes: Codes, fixed: Codes) -> Codes:
    codes = np.where(fixed == NO_LABEL, codes, fixed)
    codes[codes == _REMOVED] = NO_LABEL
    return codes
