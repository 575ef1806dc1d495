"""What makes a class raster explain itself: colours, class names, attribute table, legend.

A GeoTIFF has no room for class names, so GDAL keeps them in a `.tif.aux.xml` beside it.
People lose sidecars: the class table also stands as JSON in a tag of the file, and readers
here prefer that.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from rasterio.io import DatasetReader, DatasetWriter

from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, default_color

CLASSES_TAG = "CWSAM_CLASSES"

# (name, GDAL field type, GDAL field usage); types 0 integer, 2 string
_RAT_FIELDS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


def colormap(taxonomy: Taxonomy) -> dict[int, tuple[int, int, int, int]]:
    """GDAL's colour table: code → red, green, blue, alpha; codes without a class are transparent."""
    table = dict.fromkeys(range(256), (0, 0, 0, 0))
    return table | {entry.code: (*entry.rgb, 255) for entry in taxonomy.classes}


def tag_classes(dataset: DatasetWriter, taxonomy: Taxonomy) -> None:
    """Write the colour table and the class table's JSON into an open uint8 raster."""
    dataset.write_colormap(1, colormap(taxonomy))
    dataset.update_tags(**{CLASSES_TAG: json.dumps(dataclasses.asdict(taxonomy), ensure_ascii=False)})


def write_sidecar(raster: Path, taxonomy: Taxonomy) -> None:
    """Write category names and a raster attribute table to `<raster>.aux.xml`."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
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
    tree = ElementTree.ElementTree(root)
    # GDAL ignores a sidecar that opens with an XML declaration.
    tree.write(raster.with_name(raster.name + ".aux.xml"), encoding="utf-8", xml_declaration=False)


def write_style(raster: Path, taxonomy: Taxonomy) -> None:
    """Write QGIS's style of a class raster to `<stem>.qml` beside it; QGIS takes it up by its name."""
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
    """The class table of a class raster, from what the file itself knows.

    Its own JSON tag comes first, then category names and palette; codes without a name are
    called `class <code>`.

    Args:
        dataset: an open single-band raster.
        present: codes that occur in it; they are in the table in any case.
    """
    tag = dataset.tags().get(CLASSES_TAG)
    if tag:
        try:
            return _from_json(tag)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"`{dataset.name}`: its tag {CLASSES_TAG} is no class table: {error}",
                hint=f"remove it: rio edit-info --tag {CLASSES_TAG}= {dataset.name}",
            ) from None
    try:
        palette: dict[int, Any] = dataset.colormap(1)
    except ValueError:
        palette = {}
    names = dict(enumerate(_category_names(dataset)))
    codes = sorted(set(present) | {code for code, name in names.items() if name and code < IGNORE})
    odd = [code for code in codes if not 0 <= code < IGNORE]
    if odd:
        raise DataError(
            f"`{dataset.name}` holds the code {odd[0]}, and class codes lie within 0-254",
            hint=f"if it means no data: rio edit-info --nodata {odd[0]} {dataset.name}",
        )
    used: set[str] = set()
    classes = []
    for index, code in enumerate(codes):
        name = names.get(code) or f"class {code}"
        if name in used:
            name = f"{name} ({code})"
        used.add(name)
        color = "#{:02x}{:02x}{:02x}".format(*palette[code][:3]) if code in palette else default_color(index)
        classes.append(LandCoverClass(code=code, name=name, color=color))
    return Taxonomy(name=Path(dataset.name).stem, classes=tuple(classes))


def _from_json(text: str) -> Taxonomy:
    raw = json.loads(text)
    classes = tuple(LandCoverClass(**entry) for entry in raw.pop("classes"))
    return Taxonomy(classes=classes, **raw | {"unlabelled": tuple(raw.get("unlabelled", ()))})


def _category_names(dataset: DatasetReader) -> list[str]:
    """GDAL's category names; rasterio does not read them, but GDAL writes them into a VRT."""
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / "names.vrt"
        rasterio.shutil.copy(dataset, view, driver="VRT")
        tree = ElementTree.parse(view)
    return [category.text or "" for category in tree.findall("VRTRasterBand/CategoryNames/Category")]
