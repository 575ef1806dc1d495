"""Give maps that are compared one legend, so that a class has the same colour and the same row for all of them."""

import dataclasses
from collections.abc import Mapping, Sequence

from cwsam_cli.console import log
from cwsam_cli.view.request import ClassEntry, Layer


def share_legend(layers: Sequence[Layer], maps: Sequence[int]) -> list[Layer]:
    """Return the layers with one class table for all class maps, and for polygons of these classes.

    The colours are those of the first map that has the class. A map that does not agree with the maps before it keeps a
    table of its own.

    Args:
        layers: all layers of the page.
        maps: positions of the class maps in `layers`.
    """
    joined: dict[int, ClassEntry] = {}
    sharing = set()
    for number in maps:
        layer = layers[number]
        conflict = _find_conflict(joined, layer.classes)
        if conflict:
            log.warning("`%s` and the maps before it have %s, so it has a legend of its own", layer.name, conflict)
            continue
        joined = {entry.code: entry for entry in layer.classes} | joined
        sharing.add(number)
    table = tuple(joined[code] for code in sorted(joined))
    names = {(entry.code, entry.name) for entry in table}
    return [
        dataclasses.replace(layer, classes=table)
        if number in sharing
        or (number not in maps and layer.classes and {(entry.code, entry.name) for entry in layer.classes} <= names)
        else layer
        for number, layer in enumerate(layers)
    ]


def _find_conflict(joined: Mapping[int, ClassEntry], classes: Sequence[ClassEntry]) -> str:
    """Say why a map cannot share a table; empty if it can."""
    for entry in classes:
        if entry.code in joined and joined[entry.code].name != entry.name:
            return f"different names for the code {entry.code}"
    pairs = {(entry.code, entry.value) for entry in (*joined.values(), *classes)}
    codes, values = {code for code, _ in pairs}, {value for _, value in pairs}
    if min(len(codes), len(values)) < len(pairs):
        return "codes outside 0-254 that do not fit into one legend"
    return ""
