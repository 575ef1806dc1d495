"""Bring the class tables of many maps together: classes are equal if their names are."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, name_key


def unite(tables: Sequence[tuple[str, Taxonomy]]) -> Taxonomy:
    """Return the first table and the classes that only later tables have.

    Args:
        tables: each map's path and class table.

    Raises:
        DataError: a class that the earlier tables lack has a code that they give to another class.
    """
    first = tables[0][1]
    classes: dict[str, LandCoverClass] = {name_key(entry.name): entry for entry in first.classes}
    owners = {entry.code: (entry.name, tables[0][0]) for entry in first.classes}
    for path, table in tables[1:]:
        for entry in table.classes:
            if name_key(entry.name) in classes:
                continue
            if entry.code in owners:
                name, owner = owners[entry.code]
                raise DataError(
                    f"code {entry.code} is `{entry.name}` in `{path}` and `{name}` in `{owner}`",
                    hint="give equal classes equal names, or recode one map so that each code has one class",
                )
            classes[name_key(entry.name)] = entry
            owners[entry.code] = entry.name, path
    return replace(first, classes=tuple(classes.values()))


def recoding(own: Taxonomy, common: Taxonomy) -> NDArray[np.int16]:
    """Return the common code by a map's own code (256,): 255 for nodata, -1 for a code without a class."""
    codes = {name_key(entry.name): entry.code for entry in common.classes}
    table = np.full(256, -1, np.int16)
    for entry in own.classes:
        table[entry.code] = codes[name_key(entry.name)]
    table[IGNORE] = IGNORE
    return table
