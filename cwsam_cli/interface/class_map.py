"""A classified array, and arrays as files.

# C bands, K classes, H rows, W columns
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from cwsam_cli.errors import MissingCRS
from cwsam_cli.files import staged
from cwsam_cli.raster.mapfile import GTIFF_CREATION
from cwsam_cli.raster.scene import open_raster, writing
from cwsam_cli.raster.sources.network import path_or_name
from cwsam_cli.raster.style import tag_classes, write_sidecar, write_style
from cwsam_cli.taxonomy import IGNORE, Taxonomy

NO_PLACE = Affine.identity()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """A classified array with its classes and its place on the ground."""

    codes: NDArray[np.uint8]
    """Class codes (H, W), 0-254; 255 is nodata."""
    classes: Taxonomy
    """The class table: `classes.names` and `classes.codes` are in the same order."""
    crs: CRS | None = None
    """The coordinate reference system; None if it is not known."""
    transform: Affine = NO_PLACE
    """From column and row to coordinates, as in rasterio."""
    probabilities: NDArray[np.uint8] | None = None
    """Per cent (K, H, W) in the order of `classes`, 255 is nodata; None unless they were asked for."""

    def write(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the codes as a GeoTIFF with colours and class names.

        Args:
            path: the file, a `.tif`.
            overwrite: replace an existing file.

        Raises:
            UsageError: the file exists.
            MachineError: the file could not be written.
        """
        with staged(Path(path), overwrite=overwrite) as target:
            write_array(target, self.codes, crs=self.crs, transform=self.transform, nodata=IGNORE, classes=self.classes)


@contextmanager
def as_file(source: ClassMap | Path | str, *, needs_crs: bool = True) -> Iterator[Path | str]:
    """The path of a map; a temporary file for a classified array."""
    if not isinstance(source, ClassMap):
        yield path_or_name(str(source))
        return
    if needs_crs and source.crs is None:
        raise MissingCRS("the array", "so areas have no unit", hint="classify(image, crs=…, transform=…)")
    with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        path = Path(folder) / "array.tif"
        source.write(path)
        yield path


def read_array(path: Path) -> NDArray[np.uint8]:
    """Return all bands of a raster (C, H, W)."""
    with open_raster(path) as dataset:
        return np.asarray(dataset.read())


def write_array(
    path: Path,
    values: NDArray[Any],
    *,
    crs: CRS | None,
    transform: Affine,
    nodata: int | None = None,
    names: Sequence[str] = (),
    valid: NDArray[np.bool_] | None = None,
    classes: Taxonomy | None = None,
) -> None:
    """Write an array (H, W) or (C, H, W) as a GeoTIFF."""
    bands = values if values.ndim == 3 else values[None]
    bands = bands.astype(bands.dtype.newbyteorder("="), copy=False)  # files of other programs have other byte orders
    creation = GTIFF_CREATION | ({} if classes else {"photometric": "minisblack"})
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        writing(path),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=bands.shape[2],
            height=bands.shape[1],
            count=len(bands),
            dtype=bands.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            **creation,
        ) as dataset,
    ):
        dataset.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(bands) - 1)]
        dataset.write(bands)
        if names:
            dataset.descriptions = tuple(names)
        if valid is not None:
            dataset.write_mask(valid)
        if classes is not None:
            tag_classes(dataset, classes)
    if classes is not None:
        write_sidecar(path, classes)
        write_style(path, classes)
