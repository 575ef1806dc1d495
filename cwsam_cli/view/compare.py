"""Give maps that are compared one legend, so that a class has the same colour and the same row for all of them."""

import dataclasses
from collections.abc import Sequence

from cwsam_cli.console import log
from cwsam_cli.errors import DataError
from cwsam_cli.view.request import ClassEntry, Layer


def find_maps(layers: Sequence[Layer]) -> list[int]:
    """Return the positions of the class maps, of which the page compares the first two.

    Raises:
        DataError: there are fewer than two.
    """
    maps = [number for number, layer in enumerate(layers) if layer.kind == "classes"]
    if len(maps) < 2:
        named = " and ".join(f"`{layer.name}`" for layer in layers)
        raise DataError(f"--compare needs two class maps, and {named} has {len(maps)}", hint="name two maps")
    return maps


def share_legend(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with one class table for all class maps, and for polygons of these classes.

    The colours are those of the first map that has the class. Maps in which a code has another name, or another value
    in the page's files, keep tables of their own.
    """
    maps = find_maps(layers)
    joined: dict[int, ClassEntry] = {}
    for number in maps:
        for entry in layers[number].classes:
            known = joined.setdefault(entry.code, entry)
            if (known.name, known.value) != (entry.name, entry.value):
                log.warning(
                    "`%s` and another map have different classes for the code %d, so each map has its own legend",
                    layers[number].name,
                    entry.code,
                )
                return list(layers)
    if len({entry.value for entry in joined.values()}) < len(joined):
        log.warning("the maps hold too many codes above 254 for one legend, so each has its own")
        return list(layers)
    table = tuple(joined[code] for code in sorted(joined))
    names = {(entry.code, entry.name) for entry in table}
    return [
        dataclasses.replace(layer, classes=table)
        if number in maps or (layer.classes and {(entry.code, entry.name) for entry in layer.classes} <= names)
        else layer
        for number, layer in enumerate(layers)
    ]
