"""Real land cover, cut into overlapping parts of several CRS, becomes one map again."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cwsam_cli.mosaic.pipeline import mosaic
from cwsam_cli.mosaic.request import MosaicRequest
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import from_names


def test_parts_in_other_crs_give_the_land_cover_back(landcover: Path, tmp_path: Path) -> None:
    with rasterio.open(landcover / "nc_landsat7_2002" / "label.tif") as source:
        codes = source.read(1, masked=True).filled(255)
        form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255}
        taxonomy = from_names([f"class {code}" for code in range(int(codes[codes < 255].max()) + 1)])
        height, width = codes.shape
        middle = width // 2
        west = tmp_path / "west.tif"
        with rasterio.open(
            west, "w", crs=source.crs, transform=source.transform, width=middle + 20, height=height, **form
        ) as target:
            target.write(codes[:, : middle + 20].astype(np.uint8), 1)
            tag_classes(target, taxonomy)
        other = {"crs": "EPSG:5070", "resampling": Resampling.nearest, "src_nodata": source.nodata, "nodata": 255}
        east = tmp_path / "east.tif"
        with WarpedVRT(source, **other) as view:
            fine = WarpedVRT(
                source,
                transform=view.transform @ rasterio.Affine.scale(1 / 4),
                width=4 * view.width,
                height=4 * view.height,
                **other,
            )
            with (
                fine,
                rasterio.open(
                    east, "w", crs=fine.crs, transform=fine.transform, width=fine.width, height=fine.height, **form
                ) as target,
            ):
                target.write(fine.read(1).astype(np.uint8), 1)
                tag_classes(target, taxonomy)
    result = mosaic(MosaicRequest(maps=(str(west), str(east)), output=tmp_path / "region.tif"))
    with rasterio.open(tmp_path / "region.tif") as made:
        window = made.window(*source.bounds).round_offsets().round_lengths()
        shown = made.read(1, window=Window(*(int(edge) for edge in window.flatten())))
    np.testing.assert_array_equal(shown[:, : middle + 20], codes[:, : middle + 20])
    # Pixels of a quarter of the size move borders by an eighth of a pixel at most.
    assert (shown == codes).mean() > 0.9
    assert result.agreement is not None and result.agreement > 0.9
    assert result.overlap_pixels > 0.95 * height * (middle + 20) * (codes < 255).mean()
