"""Plans of maps whose scores a stub gives: no checkpoint is read for them."""

from pathlib import Path
from typing import Any

from rasterio.windows import Window

from cwsam_cli.predict.layers import MapLayers
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.lattice import Lattice, cuts
from cwsam_cli.raster.mapfile import BLOCK
from cwsam_cli.taxonomy import from_names


def plan_of(
    scene: Path | str,
    grid: Grid,
    *,
    classes: int,
    size: int,
    overlap: int,
    margin: int = 0,
    columns: int = 10**6,
    **changes: Any,
) -> MapPlan:
    """Plan a map of a whole scene, or of the part `shown`.

    Args:
        scene: its name.
        grid: of the scene, north up.
        classes: how many.
        size: pixels per side of a window.
        overlap: pixels that neighbouring windows share at least.
        margin: pixels that windows see beyond the scene.
        columns: pixels across a column.
        changes: fields of the plan with other values.
    """
    shown = changes.get("shown", Window(0, 0, grid.width, grid.height))
    request = MapRequest(scene=str(scene), checkpoint=Path("model.pth"), output=Path("map.tif"))
    plain: dict[str, Any] = {
        "request": request,
        "scene_fingerprint": "",
        "checkpoint_sha256": "",
        "device": "cpu",
        "precision": "fp32",
        "grid": grid.part(shown),
        "lattice": Lattice.over(grid.width, grid.height, size, overlap, margin),
        "shown": shown,
        "row_cuts": cuts(int(shown.row_off), int(shown.height), BLOCK),
        "col_cuts": cuts(int(shown.col_off), int(shown.width), columns),
        "layers": MapLayers(from_names([f"class {number}" for number in range(classes)])),
        "batch": 4,
    }
    return MapPlan(**plain | changes)
