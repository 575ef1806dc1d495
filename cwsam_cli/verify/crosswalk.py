"""Bring the classes of two legends to a common one.

A crosswalk is a CSV with the columns `legend`, `class` and `target`:

    legend,class,target
    reference,41,Forest
    reference,Mixed Forest,Forest
    map,Orchard,Cropland
    map,Shadow,

`legend` is `map` or `reference`. `class` is a code or a name. Several classes may have one target. An empty target
leaves the class out. Classes that are not listed keep their names.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import name_key

_COLUMNS = ("legend", "class", "target")
SIDES = ("map", "reference")


@dataclass(frozen=True, slots=True)
class Crosswalk:
    """Targets by class, for each side."""

    targets: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {side: {} for side in SIDES})
    """By side, and by code or name as `name_key` writes it."""

    def target(self, side: str, code: int | None, name: str) -> str:
        """Return the name of the common class, empty if the class is left out."""
        known = self.targets[side]
        return known.get(name_key(name), known.get(str(code), name))


def read_crosswalk(path: Path | None) -> Crosswalk:
    """Read a crosswalk; None is an empty one.

    Raises:
        DataError: the file is missing or has another form, or a class has two targets.
    """
    if path is None:
        return Crosswalk()
    if not path.exists():
        raise DataError(f"there is no file `{path}`", hint="check the path")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            raise DataError(f"`{path}` has no columns {', '.join(_COLUMNS)}", hint=f"first line: {','.join(_COLUMNS)}")
        targets: dict[str, dict[str, str]] = {side: {} for side in SIDES}
        for line, row in enumerate(reader, 2):
            side, name, target = ((row[column] or "").strip() for column in _COLUMNS)
            if side not in SIDES or not name:
                raise DataError(f"line {line} of `{path}` is not a class of the map or the reference", hint=_hint())
            if targets[side].setdefault(name_key(name), target) != target:
                raise DataError(f"`{path}` gives the class `{name}` of the {side} two targets", hint="keep one of them")
    return Crosswalk(targets)


def _hint() -> str:
    return "a line is: reference,Mixed Forest,Forest"
