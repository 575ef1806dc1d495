"""Write virtual rasters (GDAL's VRT): files of XML that point into other rasters and hold no pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

from rasterio._path import _parse_path, _vsi_path
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.network import VIEW, is_plain_file

_TYPES = {"uint8": "Byte", "int8": "Int8"}
"""GDAL's names of dtypes; the others are capitalised, with `UInt` for unsigned ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSource:
    """A band of another raster."""

    path: str
    """A path, a URL, one of GDAL's virtual paths, or the XML of a virtual raster."""
    band: int | str
    """Counted from 1; `mask,1` is the mask of band 1."""
    name: str = ""
    dtype: str = "uint8"
    nodata: float | None = None
    window: Window
    """The part that is shown."""
    is_alpha: bool = False
    scale: tuple[float, float] | None = None
    """Factor and offset by which values are changed; nodata values stay."""


def build_vrt(
    grid: Grid,
    bands: Sequence[BandSource],
    *,
    shown: Window,
    mask: BandSource | None = None,
    alphas: Sequence[BandSource] = (),
) -> str:
    """Return the XML of a virtual raster.

    Args:
        grid: its grid.
        bands: its bands.
        shown: the part of the grid that the bands fill. Where their windows have another size, pixels are resampled to
            the nearest neighbour.
        mask: where its pixels are valid; None leaves that to the nodata values and alpha.
        alphas: several alpha bands and masks that become one more band, which is alpha. A pixel is hidden where any is
            0. One alone would do harm: GDAL's function `min` then returns what memory holds.
    """
    root = begin_vrt(grid)
    for number, band in enumerate(bands, start=1):
        _add_band(root, band, shown, band=str(number))
    if alphas:
        common = SubElement(root, "VRTRasterBand", dataType="Byte", subClass="VRTDerivedRasterBand")
        SubElement(common, "ColorInterp").text = "Alpha"
        SubElement(common, "PixelFunctionType").text = "min"
        for alpha in alphas:
            _add_source(common, alpha, shown)
    if mask is not None:
        _add_band(SubElement(root, "MaskBand"), mask, shown)
    return ElementTree.tostring(root, encoding="unicode")


def begin_vrt(grid: Grid) -> ElementTree.Element:
    """Return the root of a virtual raster's XML, with the grid and without bands."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = grid.crs.to_wkt()
    SubElement(root, "GeoTransform").text = ", ".join(map(repr, grid.transform.to_gdal()))
    return root


def add_rectangles(source: ElementTree.Element, part: Window, place: Window) -> None:
    """Say which part of a source is shown, and where in the virtual raster."""
    for tag, window in (("SrcRect", part), ("DstRect", place)):
        left, top, width, height = (f"{value:.10g}" for value in window.flatten())
        SubElement(source, tag, xOff=left, yOff=top, xSize=width, ySize=height)


def gdal_name(path: str) -> str:
    """Return the name by which GDAL opens a raster, from any folder."""
    if path.startswith("<VRTDataset"):
        return path
    if path.startswith(VIEW):
        from cwsam_cli.raster.compose import compose

        return compose(path)
    return str(Path(path).absolute()) if is_plain_file(path) else _vsi_path(_parse_path(path))


def _add_band(parent: ElementTree.Element, source: BandSource, shown: Window, **attributes: str) -> None:
    gdal_type = _TYPES.get(source.dtype, source.dtype.capitalize().replace("Uint", "UInt"))
    band = SubElement(parent, "VRTRasterBand", {"dataType": gdal_type} | attributes)
    if source.name:
        SubElement(band, "Description").text = source.name
    if source.nodata is not None:
        SubElement(band, "NoDataValue").text = repr(source.nodata)
    if source.is_alpha:
        SubElement(band, "ColorInterp").text = "Alpha"
    _add_source(band, source, shown)


def _add_source(band: ElementTree.Element, source: BandSource, shown: Window) -> None:
    simple = SubElement(band, "SimpleSource" if source.scale is None else "ComplexSource")
    SubElement(simple, "SourceFilename", relativeToVRT="0").text = gdal_name(source.path)
    SubElement(simple, "SourceBand").text = str(source.band)
    add_rectangles(simple, source.window, shown)
    if source.scale is not None:
        factor, offset = source.scale
        SubElement(simple, "ScaleOffset").text = repr(offset)
        SubElement(simple, "ScaleRatio").text = repr(factor)
        if source.nodata is not None:
            SubElement(simple, "NODATA").text = repr(source.nodata)
