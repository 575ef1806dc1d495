"""The QGIS style of a sample's points: a form that asks for the reference class and hides the map's.

Interpreters must not know what the map says, so all fields that could tell them are hidden.
"""

from collections.abc import Collection, Sequence
from xml.etree import ElementTree

from cwsam_cli.survey.design import MapClass

_DOCTYPE = '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n'
_DONE, _OPEN = "46,160,67,255", "214,39,40,255"
"""Colours of points with and without a reference."""


def form_style(
    classes: Sequence[MapClass], *, reference: Collection[str], fields: Sequence[str], are_blocks: bool = False
) -> str:
    """Make a QGIS style (`.qml`) for a sample.

    Args:
        classes: classes that an interpreter can choose.
        reference: the fields that an interpreter fills in.
        fields: all fields. Those that are neither `id` nor references are hidden.
        are_blocks: whether the units are outlines of blocks, and not points.
    """
    root = ElementTree.Element("qgis", version="3.28.0", styleCategories="Symbology|Fields|Forms|AttributeTable")
    settings = ElementTree.SubElement(root, "fieldConfiguration")
    table = ElementTree.SubElement(ElementTree.SubElement(root, "attributetableconfig"), "columns")
    editable = ElementTree.SubElement(root, "editable")
    for field in fields:
        shown = field in reference or field == "id"
        is_choice = field in reference and not field.endswith("_shares")
        _widget(ElementTree.SubElement(settings, "field", name=field), classes, is_choice, shown)
        ElementTree.SubElement(table, "column", name=field, type="field", hidden="0" if shown else "1")
        ElementTree.SubElement(editable, "field", name=field, editable="1" if field in reference else "0")
    _symbols(root, next(iter(reference)), are_blocks=are_blocks)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode")


def _widget(parent: ElementTree.Element, classes: Sequence[MapClass], is_choice: bool, shown: bool) -> None:
    kind = "ValueMap" if is_choice else "TextEdit" if shown else "Hidden"
    widget = ElementTree.SubElement(parent, "editWidget", type=kind)
    options = ElementTree.SubElement(ElementTree.SubElement(widget, "config"), "Option", type="Map")
    if is_choice:
        values = ElementTree.SubElement(options, "Option", type="List", name="map")
        for entry in classes:
            choice = ElementTree.SubElement(values, "Option", type="Map")
            ElementTree.SubElement(choice, "Option", type="QString", name=entry.name, value=str(entry.code))


def _symbols(root: ElementTree.Element, field: str, *, are_blocks: bool) -> None:
    renderer = ElementTree.SubElement(root, "renderer-v2", type="RuleRenderer", enableorderby="0")
    rules = ElementTree.SubElement(renderer, "rules", key="all")
    symbols = ElementTree.SubElement(renderer, "symbols")
    for number, (label, test, color) in enumerate(
        (("interpreted", f'"{field}" IS NOT NULL', _DONE), ("to interpret", f'"{field}" IS NULL', _OPEN))
    ):
        ElementTree.SubElement(rules, "rule", key=str(number), symbol=str(number), label=label, filter=test)
        kind, shape = ("fill", "SimpleFill") if are_blocks else ("marker", "SimpleMarker")
        symbol = ElementTree.SubElement(symbols, "symbol", type=kind, name=str(number), alpha="1")
        layer = ElementTree.SubElement(symbol, "layer", {"class": shape, "enabled": "1", "pass": "0"})
        options = ElementTree.SubElement(layer, "Option", type="Map")
        own = (("style", "no"),) if are_blocks else (("name", "cross2"), ("size", "4"))
        for key, value in (*own, ("outline_color", color), ("outline_width", "0.6")):
            ElementTree.SubElement(options, "Option", type="QString", name=key, value=value)
