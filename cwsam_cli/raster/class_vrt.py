"""Write a virtual raster (VRT) that shows class rasters at their places, with names and colours of the classes.

rasterio has no call for it. See https://gdal.org/drivers/raster/vrt.html.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.style import add_names, classes_tag, colormap
from cwsam_cli.raster.vrt import add_rectangles, begin_vrt
from cwsam_cli.taxonomy import IGNORE, Taxonomy

_COG_BLOCK = 512
"""Pixels per side of a COG's blocks, if nothing else is said."""


class Source(NamedTuple):
    """A raster in a VRT."""

    name: str
    """Its path relative to the VRT."""
    size: tuple[int, int]
    """Its width and height in pixels."""
    part: Window
    """The part of it that is shown."""
    place: Window
    """Where the VRT shows that part."""


def write_class_vrt(
    path: Path,
    grid: Grid,
    sources: Iterable[Source],
    taxonomy: Taxonomy,
    tags: Mapping[str, str],
    *,
    overviews: Iterable[str] = (),
) -> None:
    """Write a VRT of class codes; ground without a source is nodata.

    Args:
        path: the VRT.
        grid: its grid, which all sources share.
        sources: the rasters in it.
        taxonomy: the classes.
        tags: more metadata.
        overviews: paths of rasters that show the same in a half, a quarter and so on of the size, relative to the VRT.
    """
    root = begin_vrt(grid)
    metadata = ElementTree.SubElement(root, "Metadata")
    for name, value in (classes_tag(taxonomy) | dict(tags)).items():
        _add(metadata, "MDI", value, key=name)
    band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    _add(band, "NoDataValue", str(IGNORE))
    _add(band, "ColorInterp", "Palette")
    colors = ElementTree.SubElement(band, "ColorTable")
    for entry in colormap(taxonomy).values():
        ElementTree.SubElement(colors, "Entry", {f"c{i}": str(part) for i, part in enumerate(entry, start=1)})
    add_names(band, taxonomy)
    for source in sources:
        width, height = source.size
        shown = ElementTree.SubElement(band, "SimpleSource")
        _add(shown, "SourceFilename", source.name, relativeToVRT="1")
        _add(shown, "SourceBand", "1")
        form = {"RasterXSize": width, "RasterYSize": height, "BlockXSize": _COG_BLOCK, "BlockYSize": _COG_BLOCK}
        ElementTree.SubElement(
            shown, "SourceProperties", {name: str(n) for name, n in form.items()} | {"DataType": "Byte"}
        )
        add_rectangles(shown, source.part, source.place)
    for name in overviews:
        overview = ElementTree.SubElement(band, "Overview")
        _add(overview, "SourceFilename", name, relativeToVRT="1")
        _add(overview, "SourceBand", "1")
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)


def _add(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = text
