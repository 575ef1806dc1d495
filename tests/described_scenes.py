"""Scenes as `tile` describes them, without files."""

from pathlib import Path
from typing import Any

from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile.scenes import LabelledScene


def described(name: str, grid: Grid) -> LabelledScene:
    """Describe a scene of one band on a grid."""
    labels: Any = Path("labels.tif")
    return LabelledScene(
        name=name,
        path=f"{name}.tif",
        labels=labels,
        crs=grid.crs.to_wkt() if grid.crs else None,
        transform=tuple(grid.transform)[:6],
        width=grid.width,
        height=grid.height,
        chosen_bands=(),
        alpha="ignore",
        hides_pixels=False,
        block=(256, 256),
        pixel_bytes=1,
        fingerprint="",
        band_names=("red",),
        dtype="uint8",
    )
