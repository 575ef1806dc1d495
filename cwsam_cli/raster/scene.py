"""Open an image and read windows of it. `raster.pixels` says which pixels are nodata."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError, WarpOperationError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cwsam_cli.console import ONCE, log
from cwsam_cli.errors import DataError, MachineError
from cwsam_cli.raster.bands import band_index, band_names, choose_bands
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.pixels import read_bands, read_image, read_valid, tagged_alpha
from cwsam_cli.raster.place import missing_crs, refuse_impossible
from cwsam_cli.raster.sources.diagnosis import network_error
from cwsam_cli.raster.sources.external import is_forbidden, refuse_external
from cwsam_cli.raster.sources.network import GDAL_CACHE as GDAL_CACHE
from cwsam_cli.raster.sources.network import VIEW, is_remote
from cwsam_cli.raster.vrt import gdal_name

FAILED = (RasterioError, CPLE_BaseError)
"""What GDAL's complaints come as; of copying, the bare ones."""

_TOO_WIDE = {"int64", "uint64"}


@dataclass(frozen=True, slots=True)
class Scene:
    """An open image.

    Use it from one thread only: GDAL's handles are not shared between threads.
    """

    path: Path | str
    dataset: rasterio.DatasetReader
    grid: Grid
    bands: tuple[int, ...]
    """Image bands, counted from 1; alpha is a mask, not an image band."""
    band_names: tuple[str, ...]
    dtype: str
    alpha: int = 0
    """The band that hides pixels, counted from 1; 0 is none (raw NAIP tags near infrared alpha)."""
    original: rasterio.DatasetReader | None = None
    """The raster before it was resampled; None is `dataset` itself."""

    @property
    def is_south_up(self) -> bool:
        """Whether the first row is the southernmost."""
        t = self.grid.transform
        return t.e > 0 and t.b == t.d == 0 and self.grid.crs is not None

    @property
    def north_up(self) -> Grid:
        """The grid whose rows are counted from the north."""
        return self.grid.flipped if self.is_south_up else self.grid

    @property
    def block_width(self) -> int:
        """Columns of a block of the file."""
        return int(self.dataset.block_shapes[self.bands[0] - 1][1])

    def end_of_blocks(self, row: int, limit: int) -> int:
        """The next end of a row of blocks, counted from the north.

        `row` itself where blocks are higher than `limit` and 512: GDAL had better hold them.
        """
        height, total = int(self.dataset.block_shapes[self.bands[0] - 1][0]), self.grid.height
        if height > max(limit, 512):
            return row
        if self.is_south_up:
            return total - (total - row) // height * height
        return min(total, -(-row // height) * height)

    def mirrored(self, window: Window) -> Window:
        """The window that shows the same ground in the scene turned upside down."""
        return Window(window.col_off, self.grid.height - window.row_off - window.height, window.width, window.height)

    def read_north_up(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """As `read`, with the window and the pixels counted from the north."""
        if not self.is_south_up:
            return self.read(window)
        image, valid = self.read(self.mirrored(window))
        return image[:, ::-1], valid[::-1]

    @property
    def hides_pixels(self) -> bool:
        """Whether any pixel can be without data."""
        flags = {flag for band in self.bands for flag in self.dataset.mask_flag_enums[band - 1]}
        masked = MaskFlags.nodata in flags or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)
        return bool(self.alpha) or masked or np.issubdtype(self.dtype, np.floating)

    def read_reduced_valid(self, side: int = 1024) -> NDArray[np.bool_]:
        """Return where the whole scene is valid, at a reduced size (H, W).

        GDAL takes it from overviews if there are any, and from a mask band without reading pixels.

        Args:
            side: largest number of rows and columns.

        Raises:
            DataError: the file is damaged.
        """
        shape = min(self.grid.height, side), min(self.grid.width, side)
        with reading(self.path):
            valid = read_valid(self.dataset, self.bands, self.whole, self.alpha, shape)
            if np.issubdtype(self.dtype, np.floating):
                valid &= np.isfinite(read_bands(self.dataset, self.bands, self.whole, shape)).all(axis=0)
        return valid

    @property
    def whole(self) -> Window:
        """The window of all pixels."""
        return Window(0, 0, self.grid.width, self.grid.height)

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Image (C, H, W) in the scene's own dtype, and where it is valid (H, W).

        Raises:
            DataError: the file is damaged there.
        """
        with reading(self.path):
            return read_image(self.dataset, self.bands, window, alpha=self.alpha)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn GDAL's complaints about a file into a sentence that names it."""
    try:
        yield
    except FAILED as error:
        detail = str(error.__cause__ or error).strip().rstrip(".")
        if "CURL error" in detail:
            raise MachineError(
                f"`{path}` could not be fetched: {detail}",
                hint="call again; GDAL_HTTP_LOW_SPEED_TIME in the environment is how many seconds GDAL waits",
            ) from None
        if is_remote(str(path)) and (cause := network_error(str(path), detail)) is not None:
            raise cause from None
        raise DataError(
            f"`{path}` is not a readable raster: {detail}", hint=f"try: gdalinfo -checksum {path}"
        ) from None


@contextmanager
def moving(path: Path | str, own: Grid, grid: Grid) -> Iterator[None]:
    """Turn PROJ's complaints about two CRSs into a sentence that names the file."""
    try:
        yield
    except (CRSError, WarpOperationError, CPLE_BaseError) as error:
        reason = str(error).partition(" from '")[0]  # PROJ appends both CRSs as JSON
        raise DataError(
            f"`{path}` cannot be brought from {own} to {grid}: {reason}", hint="give both a CRS that PROJ knows"
        ) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into a sentence that names the file."""
    try:
        yield
    except FAILED as error:
        raise not_written(path, str(error.__cause__ or error)) from None


def verify_written(path: Path) -> None:
    """Read a raster back: GDAL says nothing when its last blocks no longer fit on the disk.

    Raises:
        MachineError: the file is not whole.
    """
    try:
        with rasterio.open(path) as dataset:
            for _, window in dataset.block_windows(1):
                dataset.read(window=window)
    except FAILED as error:
        raise not_written(path, str(error.__cause__ or error)) from None


def not_written(path: Path, detail: str) -> MachineError:
    """Return the error for a file that could not be written whole."""
    return MachineError(f"`{path.name}` could not be written whole: {detail}", hint="is the disk full?")


def open_raster(path: Path | str) -> rasterio.DatasetReader:
    """Open any raster.

    Raises:
        DataError: there is no such file, GDAL cannot read it, or it is external and `--no-external` is given.
    """
    if str(path).startswith(VIEW):
        path = gdal_name(str(path))
    elif "://" not in str(path) and not str(path).startswith("/vsi") and not Path(path).exists():
        raise DataError(f"there is no file `{path}`", hint="check the path")
    elif is_forbidden():
        refuse_external(str(path))
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the callers say it in their own words
        return rasterio.open(path)


@contextmanager
def open_scene(
    path: Path | str,
    *,
    wanted_bands: Sequence[str] = (),
    chosen_bands: Sequence[str] = (),
    alpha: str | None = None,
    pixel_m: float | None = None,
    is_checked: bool = False,
) -> Iterator[Scene]:
    """Open an image for tiling or prediction.

    Args:
        path: any raster that GDAL opens.
        wanted_bands: names of the bands a model was trained on. If the scene names all of
            them they are read in that order, else by position, see `is_named`; as many as all
            the scene's bands, alpha included, make alpha an image band (raw NAIP tags near
            infrared so).
        chosen_bands: names or numbers (from 1) of the scene's bands in the model's order.
        alpha: whether a band tagged alpha hides pixels (`mask`) or is a band like the others
            (`ignore`); None decides by the rule above, and by its values.
        pixel_m: resample the scene to pixels of so many metres.
        is_checked: the scene was opened before, so its dtype and its place need no check.

    Raises:
        DataError: unreadable, of a dtype or georeferencing that cannot be used, or without
            the wanted bands.
    """
    with ExitStack() as stack:
        dataset = original = stack.enter_context(open_raster(path))
        with reading(path):  # GDAL reads some of the directories of a TIFF only now
            grid = Grid.of(dataset)
            if not is_checked:
                _check(dataset, path)
                warn_of_pages(dataset, path)
            names = band_names(dataset)
            tagged = [band - 1 for band in tagged_alpha(dataset)]
            image = [i for i in range(dataset.count) if i not in tagged]
            if alpha is None:
                alpha_is_image = bool(tagged) and (
                    len(wanted_bands) == dataset.count or _looks_like_an_image(dataset, tagged)
                )
            else:
                alpha_is_image = alpha == "ignore"
            if chosen_bands:
                image = [band_index(band, names, path) for band in chosen_bands]
                alpha_is_image |= alpha is None and any(i in tagged for i in image)
                if wanted_bands and len(image) != len(wanted_bands):
                    raise DataError(
                        f"{len(image)} bands of `{path}` are chosen, but {len(wanted_bands)} are needed: "
                        f"{', '.join(wanted_bands)}",
                        hint="name one for each of them: --bands 3,2,1",
                    )
            else:
                if tagged and alpha_is_image and len(wanted_bands) in (0, dataset.count):
                    image = list(range(dataset.count))
                    log.info("`%s`: band %d is tagged alpha but read as an image band", path, tagged[0] + 1, extra=ONCE)
                if wanted_bands:
                    image = choose_bands(image, names, wanted_bands, path)
            if pixel_m is not None:
                if alpha_is_image:
                    dataset = stack.enter_context(_untagged(dataset))
                dataset = stack.enter_context(_resampled(dataset, grid, pixel_m, path))
                hiding = tagged_alpha(dataset)
            else:
                hiding = [] if alpha_is_image else tagged_alpha(dataset)
        yield Scene(
            path=path,
            dataset=dataset,
            grid=Grid.of(dataset),
            bands=tuple(i + 1 for i in image),
            band_names=tuple(names[i] for i in image),
            dtype=np.result_type(*(dataset.dtypes[i] for i in image)).name,
            alpha=next(iter(hiding), 0),
            original=original,
        )


@contextmanager
def _untagged(dataset: rasterio.DatasetReader) -> Iterator[rasterio.DatasetReader]:
    """The raster without the word alpha, which would make GDAL weigh pixels by that band."""
    with MemoryFile(ext=".vrt") as view:
        rasterio.shutil.copy(dataset, view.name, driver="VRT")
        text = view.read().replace(b"<ColorInterp>Alpha</ColorInterp>", b"")
    with MemoryFile(text, ext=".vrt") as view, view.open() as untagged:
        yield untagged


def _resampled(dataset: rasterio.DatasetReader, grid: Grid, pixel_m: float, path: Path | str) -> WarpedVRT:
    """The scene with pixels of another size: means of smaller ones, or between larger ones."""
    if grid.gsd_m is None:
        raise missing_crs(path, grid, "so its pixels have no size on the ground")
    width, height = (max(1, round(pixels * grid.gsd_m / pixel_m)) for pixels in (grid.width, grid.height))
    masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0] and not tagged_alpha(dataset)
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform @ Affine.scale(grid.width / width, grid.height / height),
        width=width,
        height=height,
        resampling=Resampling.average if pixel_m > grid.gsd_m else Resampling.bilinear,
        add_alpha=masked,
    )


def _check(dataset: rasterio.DatasetReader, path: Path | str) -> None:
    dtype = next((name for name in dataset.dtypes if name in _TOO_WIDE or "complex" in name), None)
    if dtype is not None:
        raise DataError(
            f"`{path}` holds {dtype} values, which cannot be used as an image",
            hint=f"convert it: gdal_translate -ot Float32 {path} converted.tif",
        )
    refuse_unplaced(dataset, path)
    if dataset.colorinterp[0] == ColorInterp.palette:
        raise DataError(
            f"`{path}` is a palette image: its values are codes, not brightness",
            hint=f"if it is a picture, expand it first: gdal_translate -expand rgb {path} rgb.tif",
        )


def refuse_unplaced(dataset: rasterio.DatasetReader, path: Path | str) -> None:
    """Stop at a raster whose pixels have no place of their own.

    Raises:
        DataError: it is georeferenced by control points or RPCs only, or its coordinates are impossible.
    """
    transform = dataset.transform
    unplaced = (transform.a, transform.b, transform.c, transform.d, transform.f) == (1, 0, 0, 0, 0)
    if unplaced and abs(transform.e) == 1 and (dataset.gcps[0] or dataset.rpcs):
        how, option = ("ground control points", "-tps") if dataset.gcps[0] else ("RPCs", "-rpc")
        raise DataError(
            f"`{path}` is georeferenced by {how} only", hint=f"warp it first: gdalwarp {option} {path} warped.tif"
        )
    refuse_impossible(Grid.of(dataset), path)


def warn_of_pages(dataset: rasterio.DatasetReader, path: Path | str) -> None:
    """Say that of a TIFF with several pages only the first is read."""
    pages = [name for name in dataset.subdatasets if name.startswith("GTIFF_DIR:")]
    if len(pages) > 1:
        log.warning("`%s` has %d pages: only the first is read", path, len(pages), extra=ONCE)


def _looks_like_an_image(dataset: rasterio.DatasetReader, alpha: list[int]) -> bool:
    """Whether a band tagged alpha holds grey values: more than one in twenty is neither 0 nor 255."""
    if dataset.dtypes[alpha[0]] != "uint8":
        return False
    shape = (min(dataset.height, 256), min(dataset.width, 256))
    with reading(dataset.name):
        values = dataset.read(alpha[0] + 1, out_shape=shape)
    return bool(((values > 15) & (values < 240)).mean() > 0.05)


def on_pixels_of(grid: Grid, dataset: rasterio.DatasetReader, *, tolerance: float = 1e-6, **options: Any) -> WarpedVRT:
    """A raster that reads as if it lay on a grid: of each pixel, what lies nearest to its middle.

    Args:
        grid: the grid.
        dataset: the raster.
        tolerance: largest error of a middle's place, in pixels. The default is exact; 0.001 takes a tenth of its time.
        options: more options of `WarpedVRT`.
    """
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling.nearest,
        tolerance=tolerance,  # GDAL refuses 0
        **options,
    )
