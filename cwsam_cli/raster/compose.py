"""Turn a `View` into a raster that GDAL reads: a virtual raster in memory, in which files on other grids are warped."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from math import ceil, floor

import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import CRSError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, transform_bounds
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.bands import band_names
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.views import View
from cwsam_cli.raster.vrt import BandSource, build_vrt

_ALIKE = 1e-3  # pixels by which grids may differ and count as one


@cache
def compose(text: str) -> str:
    """Return the XML of a virtual raster for a view.

    Files with other pixels are brought onto the common grid: means of smaller pixels, or bilinear between larger ones.

    Args:
        text: the view, see `View.to_text`.

    Raises:
        DataError: the files cannot be brought onto one grid.
    """
    from cwsam_cli.raster.scene import open_raster, refuse_unplaced

    view = View.from_text(text)
    with ExitStack() as stack:
        members = []
        for name, path in view.members:
            dataset = stack.enter_context(open_raster(path))
            refuse_unplaced(dataset, path)
            members.append((name, path, dataset))
        grid = _common_grid(view, [(path, Grid.of(dataset)) for _, path, dataset in members])
        bands: list[BandSource] = []
        hiding: list[BandSource] = []
        for number, (name, path, dataset) in enumerate(members):
            scales = _scales(path, dataset, view.scales[number] if view.scales else ()) if view.unscale else None
            own = _member(name, path, dataset, grid, scales)
            bands += [band for band in own if not band.is_alpha and band.band != "mask,1"]
            hiding += [band for band in own if band.is_alpha or band.band == "mask,1"]
    whole = Window(0, 0, grid.width, grid.height)
    if len(hiding) == 1:
        (only,) = hiding
        if only.is_alpha or any(band.nodata is not None for band in bands):  # GDAL ignores nodata values beside a mask
            return build_vrt(grid, [*bands, replace(only, is_alpha=True)], shown=whole)
        return build_vrt(grid, bands, shown=whole, mask=only)
    return build_vrt(grid, bands, shown=whole, alphas=hiding)


def _common_grid(view: View, grids: list[tuple[str, Grid]]) -> Grid:
    """Return the grid of the smallest pixels where all files have ground, or the grid that is asked for."""
    path, finest = min(grids, key=lambda item: item[1].gsd_m or abs(item[1].transform.determinant) ** 0.5)
    lacking = next((other for other, grid in grids if grid.crs is None), None)
    if lacking is not None and (len(grids) > 1 or view.crs or view.pixel_m):
        raise DataError(
            f"`{lacking}` has no coordinate reference system, so it cannot be brought onto another grid",
            hint=f"if you know it: rio edit-info --crs EPSG:<code> {lacking}",
        )
    grid = _cut_to_all(finest, grids) if len(grids) > 1 else finest
    if not view.crs and not view.pixel_m:
        return grid
    assert grid.crs is not None
    try:
        crs = CRS.from_user_input(view.crs) if view.crs else grid.crs
    except CRSError:
        raise DataError(
            f"--crs `{view.crs}` is not a CRS that PROJ knows", hint="for example: --crs EPSG:32632"
        ) from None
    step = None
    if view.pixel_m:
        unit = Grid(crs, Affine.identity(), 1, 1).unit_m
        if unit is None:
            raise DataError(
                f"--res is in metres, but the CRS of `{path}` has degrees",
                hint="choose a projected CRS: --crs EPSG:<code>",
            )
        step = view.pixel_m / unit
    bounds = rasterio.transform.array_bounds(grid.height, grid.width, grid.transform)
    transform, width, height = calculate_default_transform(
        grid.crs, crs, grid.width, grid.height, *bounds, resolution=step
    )
    assert width is not None and height is not None
    return Grid(crs, transform, width, height)


def _cut_to_all(grid: Grid, grids: list[tuple[str, Grid]]) -> Grid:
    """Cut a grid to the pixels that all grids cover.

    Raises:
        DataError: there are none.
    """
    left, top, right, bottom = 0.0, 0.0, float(grid.width), float(grid.height)
    for _, other in grids:
        bounds = rasterio.transform.array_bounds(other.height, other.width, other.transform)
        west, south, east, north = transform_bounds(other.crs, grid.crs, *bounds) if other.crs != grid.crs else bounds
        cols, rows = zip(*(~grid.transform @ corner for corner in ((west, north), (east, south))), strict=True)
        left, right = max(left, min(cols)), min(right, max(cols))
        top, bottom = max(top, min(rows)), min(bottom, max(rows))
    first_col, first_row = ceil(left - _ALIKE), ceil(top - _ALIKE)
    width, height = floor(right + _ALIKE) - first_col, floor(bottom + _ALIKE) - first_row
    if width <= 0 or height <= 0:
        raise DataError(
            f"the files of a stack cover no common ground: {', '.join(path for path, _ in grids[:4])}",
            hint="let {scene} in --stack name the place",
        )
    return grid.part(Window(first_col, first_row, width, height))


def _scales(
    path: str, dataset: rasterio.DatasetReader, told: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return factor and offset of each band: those that a STAC item tells, else those of the file."""
    if not told:
        return list(zip(dataset.scales, dataset.offsets, strict=True))
    if len(told) not in (1, dataset.count):
        raise DataError(
            f"the STAC item gives scales of {len(told)} bands for `{path}`, which has {dataset.count}",
            hint="leave out --unscale, or correct the item",
        )
    return list(told) * (dataset.count if len(told) == 1 else 1)


def _member(
    name: str,
    path: str,
    dataset: rasterio.DatasetReader,
    grid: Grid,
    scales: Sequence[tuple[float, float]] | None,
) -> list[BandSource]:
    """Return the bands of a file on the common grid, with what hides its pixels.

    Args:
        name: begins the names of its bands.
        path: the file.
        dataset: the open file.
        grid: the common grid.
        scales: factor and offset of each band; None leaves the values as they are.
    """
    own = Grid.of(dataset)
    offset = ~own.transform @ (grid.transform.c, grid.transform.f)
    window = Window(round(offset[0]), round(offset[1]), grid.width, grid.height)
    steps = zip(own.part(window).transform[:6], grid.transform[:6], strict=True)
    size = abs(grid.transform.a) + abs(grid.transform.b)
    is_on_grid = own.crs == grid.crs and all(
        abs(a - b) < _ALIKE * size / (1 if number in (2, 5) else max(own.width, own.height))
        for number, (a, b) in enumerate(steps)
    )
    alphas = [kind == rasterio.enums.ColorInterp.alpha for kind in dataset.colorinterp]
    is_masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0] and not any(alphas)
    is_turned = own.crs != grid.crs or bool(own.transform.b or own.transform.d)  # then the grid has other corners
    is_whole = MaskFlags.all_valid in dataset.mask_flag_enums[0] and not any(alphas)
    needs_alpha = not is_on_grid and (is_masked or (is_turned and is_whole))
    source, names = path, band_names(dataset)
    if not is_on_grid:
        source, window = _warped(dataset, own, grid, add_alpha=needs_alpha), Window(0, 0, grid.width, grid.height)
    bands = [
        BandSource(
            path=source,
            band=number,
            name=(name if dataset.count - sum(alphas) == 1 else f"{name}_{own_name}") if name else own_name,
            dtype="float32" if scales and not is_alpha else dtype,
            nodata=None if is_alpha else nodata,
            window=window,
            is_alpha=is_alpha,
            scale=scales[number - 1] if scales and not is_alpha else None,
        )
        for number, (own_name, dtype, nodata, is_alpha) in enumerate(
            zip(names, dataset.dtypes, dataset.nodatavals, alphas, strict=True), start=1
        )
    ]
    if is_masked and is_on_grid:
        bands.append(BandSource(path=source, band="mask,1", window=window))
    elif needs_alpha:
        bands.append(
            BandSource(path=source, band=dataset.count + 1, dtype=dataset.dtypes[0], window=window, is_alpha=True)
        )
    return bands


def _warped(dataset: rasterio.DatasetReader, own: Grid, grid: Grid, *, add_alpha: bool) -> str:
    """Return the XML of a file on another grid."""
    is_finer = (grid.gsd_m or 1.0) > (own.gsd_m or 1.0) * (1 + _ALIKE)
    with (
        WarpedVRT(
            dataset,
            crs=grid.crs,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            resampling=Resampling.average if is_finer else Resampling.bilinear,
            add_alpha=add_alpha,
        ) as warped,
        MemoryFile(ext=".vrt") as copied,
    ):
        rasterio.shutil.copy(warped, copied.name, driver="VRT")
        return bytes(copied.read()).decode()
