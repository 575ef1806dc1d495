"""Read and write the colours, class names, attribute table and legend of class rasters.

A GeoTIFF cannot contain class names, so GDAL keeps them in a sidecar `.tif.aux.xml`. Because
sidecars get lost, a tag of the file also holds the class table as JSON. We read the tag first.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from rasterio.io import DatasetReader, DatasetWriter

from cwsam_cli.config.class_files import Entry, attribute_entries, class_keys
from cwsam_cli.config.load import make_label_table, validate
from cwsam_cli.errors import ConfigError, DataError, one_line
from cwsam_cli.taxonomy import IGNORE, LabelTable, LandCoverClass, Taxonomy, default_color, name_key

CLASSES_TAG = "CWSAM_CLASSES"

_NOT_XML = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f]")
"""Characters that GDAL writes unchanged although XML does not allow them."""
_DOCTYPE = '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n'

# (name, GDAL field type, GDAL field usage); types 0 integer, 2 string
_RAT_FIELDS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


def colormap(taxonomy: Taxonomy) -> dict[int, tuple[int, int, int, int]]:
    """Make GDAL's colour table: red, green, blue and alpha by code. Codes without a class are transparent."""
    table = dict.fromkeys(range(256), (0, 0, 0, 0))
    return table | {entry.code: (*entry.rgb, 255) for entry in taxonomy.classes}


def tag_classes(dataset: DatasetWriter, taxonomy: Taxonomy) -> None:
    """Write the colour table and the class table's JSON into an open uint8 raster."""
    dataset.write_colormap(1, colormap(taxonomy))
    dataset.update_tags(**classes_tag(taxonomy))


def classes_tag(taxonomy: Taxonomy) -> dict[str, str]:
    """Return the tag that holds a class table, by its name."""
    return {CLASSES_TAG: json.dumps(dataclasses.asdict(taxonomy), ensure_ascii=False)}


def write_sidecar(raster: Path, taxonomy: Taxonomy) -> None:
    """Write category names and a raster attribute table to `<raster>.aux.xml`."""
    root = ElementTree.Element("PAMDataset")
    add_names(ElementTree.SubElement(root, "PAMRasterBand", band="1"), taxonomy)
    tree = ElementTree.ElementTree(root)
    # GDAL ignores a sidecar that starts with an XML declaration.
    tree.write(raster.with_name(raster.name + ".aux.xml"), encoding="utf-8", xml_declaration=False)


def add_names(band: ElementTree.Element, taxonomy: Taxonomy) -> None:
    """Add category names and a raster attribute table to a band in GDAL's XML, of a sidecar or a VRT."""
    names = {entry.code: entry.name for entry in taxonomy.classes}
    categories = ElementTree.SubElement(band, "CategoryNames")
    for code in range(max(names) + 1):
        ElementTree.SubElement(categories, "Category").text = names.get(code, "")
    rat = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_RAT_FIELDS):
        field = ElementTree.SubElement(rat, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ElementTree.SubElement(field, tag).text = str(value)
    for index, entry in enumerate(taxonomy.classes):
        row = ElementTree.SubElement(rat, "Row", index=str(index))
        for cell in (entry.code, entry.name, *entry.rgb):
            ElementTree.SubElement(row, "F").text = str(cell)


def write_style(raster: Path, taxonomy: Taxonomy) -> None:
    """Write a QGIS style to `<stem>.qml` beside a class raster. QGIS finds it by its name."""
    root = ElementTree.Element("qgis", version="3.0", styleCategories="AllStyleCategories")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for entry in taxonomy.classes:
        ElementTree.SubElement(
            palette, "paletteEntry", value=str(entry.code), color=entry.color, label=entry.name, alpha="255"
        )
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree, " ")
    tree.write(raster.with_suffix(".qml"), encoding="utf-8", xml_declaration=False)


def read_taxonomy(dataset: DatasetReader, present: Iterable[int]) -> Taxonomy:
    """Read the class table of a class raster from the file itself.

    The JSON tag is used if there is one, otherwise category names and palette. Codes without a
    name are called `class <code>`.

    Args:
        dataset: open raster with one band.
        present: codes that occur in the raster. The table includes all of them.

    Raises:
        DataError: the tag is damaged, a code is outside 0-254, or the names make no class table.
    """
    tag = dataset.tags().get(CLASSES_TAG)
    if tag:
        try:
            return validate(Taxonomy, json.loads(tag), CLASSES_TAG)
        except (ValueError, RecursionError, ConfigError) as error:
            raise DataError(
                f"the tag {CLASSES_TAG} of `{dataset.name}` is not a class table: {one_line(error)}",
                hint=f"remove the tag: rio edit-info --tag {CLASSES_TAG}= {dataset.name}",
            ) from None
    palette, names = read_palette(dataset), band_names(dataset)
    codes = sorted(set(present) | {code for code, name in names.items() if name and code < IGNORE})
    odd = [code for code in codes if not 0 <= code < IGNORE]
    if odd:
        raise DataError(
            f"`{dataset.name}` holds the code {odd[0]}, but class codes must be within 0-254",
            hint=f"if it means no data: rio edit-info --nodata {odd[0]} {dataset.name}",
        )
    used: set[str] = set()
    classes = []
    for index, code in enumerate(codes):
        name = names.get(code) or f"class {code}"
        if name_key(name) in used:
            name = f"{name} ({code})"
        used.add(name_key(name))
        classes.append(LandCoverClass(code=code, name=name, color=palette.get(code, default_color(index))))
    try:
        return Taxonomy(name=Path(dataset.name).stem, classes=tuple(classes))
    except ValueError as error:
        raise DataError(f"`{dataset.name}`: {error}", hint="give a class table with --classes") from None


def read_label_table(dataset: DatasetReader) -> LabelTable:
    """Read the class table of a raster, with the values that cannot be class codes.

    Raises:
        DataError: the raster has no class table.
    """
    entries = [] if dataset.tags().get(CLASSES_TAG) else _attribute_entries(dataset)
    if any(not 0 <= entry.value <= IGNORE for entry in entries if isinstance(entry.value, int)):
        palette = read_palette(dataset)
        entries = [entry._replace(color=entry.color or palette.get(int(entry.value), "")) for entry in entries]
        return make_label_table(class_keys(entries, Path(dataset.name).stem), dataset.name)
    if not entries and not dataset.tags().get(CLASSES_TAG) and not any(band_names(dataset).values()):
        raise DataError(
            f"`{dataset.name}` names no classes",
            hint="give a class table: --classes classes.yaml, written as `zion_nlcd`",
        )
    return LabelTable.of(read_taxonomy(dataset, ()))


def has_wide_values(dataset: DatasetReader) -> bool:
    """Return whether the raster names values that cannot be class codes."""
    return any(isinstance(entry.value, int) and not 0 <= entry.value <= IGNORE for entry in _attribute_entries(dataset))


def band_names(dataset: DatasetReader, band: int = 1) -> dict[int, str]:
    """Read class names by code, from GDAL's category names and the raster attribute table.

    Names in the attribute table win.

    Raises:
        DataError: the names cannot be parsed.
    """
    root = _band_xml(dataset, band)
    names = {code: entry.text or "" for code, entry in enumerate(root.findall("CategoryNames/Category"))}
    return names | {int(entry.value): entry.name for entry in _attribute_entries(dataset, band) if entry.name}


def _attribute_entries(dataset: DatasetReader, band: int = 1) -> list[Entry]:
    """Read the raster attribute table; empty without one, or without values that are whole numbers."""
    table = _band_xml(dataset, band).find("GDALRasterAttributeTable")
    entries = attribute_entries(table) if table is not None else []
    return entries if all(isinstance(entry.value, int) for entry in entries) else []


def _band_xml(dataset: DatasetReader, band: int) -> ElementTree.Element:
    """Return the description of a band in a VRT. rasterio reads no class names, but GDAL writes them into a VRT.

    Raises:
        DataError: the names cannot be parsed.
    """
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / "names.vrt"
        rasterio.shutil.copy(dataset, view, driver="VRT")
        text = view.read_bytes().decode("utf-8", errors="replace")
    try:
        root = ElementTree.fromstring(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))
    except ElementTree.ParseError as error:
        raise DataError(f"the class names of `{dataset.name}` cannot be read: {error}", hint="remove them") from None
    return root.findall("VRTRasterBand")[band - 1]


def read_palette(dataset: DatasetReader, band: int = 1) -> dict[int, str]:
    """Read colours `#rrggbb` by code; empty without a palette."""
    try:
        return {code: "#{:02x}{:02x}{:02x}".format(*color[:3]) for code, color in dataset.colormap(band).items()}
    except ValueError:
        return {}


def qml(colors: Mapping[int, tuple[str, str]], field: str) -> str:
    """Make a QGIS style that fills polygons by class.

    Args:
        colors: name and colour `#rrggbb` by code.
        field: attribute that holds the code.

    Returns:
        Content of the `.qml` file.
    """
    root = ElementTree.Element("qgis", version="3.28.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", type="categorizedSymbol", attr=field, enableorderby="0")
    categories = ElementTree.SubElement(renderer, "categories")
    symbols = ElementTree.SubElement(renderer, "symbols")
    for index, (code, (name, color)) in enumerate(sorted(colors.items())):
        category = {"value": str(code), "type": "integer", "label": name, "symbol": str(index), "render": "true"}
        ElementTree.SubElement(categories, "category", category)
        symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name=str(index), alpha="1")
        layer = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
        fill = ",".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5)) + ",255"
        options = ElementTree.SubElement(layer, "Option", type="Map")
        for key, value in (("color", fill), ("style", "solid"), ("outline_style", "no")):
            ElementTree.SubElement(options, "Option", type="QString", name=key, value=value)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode")


def read_qml(text: str) -> dict[int, tuple[str, str]]:
    """Read name and colour `#rrggbb` by code from a style that `qml` wrote; empty for any other style."""
    try:
        root = ElementTree.fromstring(text)
        fills = {
            symbol.attrib["name"]: next(o.attrib["value"] for o in symbol.iter("Option") if o.get("name") == "color")
            for symbol in root.iter("symbol")
        }
        return {
            int(entry.attrib["value"]): (
                entry.attrib["label"],
                "#{:02x}{:02x}{:02x}".format(*map(int, fills[entry.attrib["symbol"]].split(",")[:3])),
            )
            for entry in root.iter("category")
        }
    except (ElementTree.ParseError, KeyError, ValueError, StopIteration):
        return {}
