"""A wish that contradicts itself is refused before rasterio is loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cwsam_cli.config.sizes import Size
from cwsam_cli.errors import OutputExists, UsageError
from cwsam_cli.vectorize.request import VectorizeRequest, statistics

MAP = Path("map.tif")


def test_sizes_are_read_in_metres_or_pixels() -> None:
    request = VectorizeRequest(map_path=MAP, output=Path("p.gpkg"), min_area="2ha", simplify="3px")
    assert (request.smallest_area, request.tolerance) == (Size(20_000, False), Size(3, True))
    assert request.driver == "GPKG"


@pytest.mark.parametrize(
    ("output", "values", "named"),
    [
        ("p.gpkg", {"min_area": "2"}, "--min-area"),
        ("p.gpkg", {"simplify": "1ha"}, "--simplify"),
        ("p.fgb", {"append": True}, "--append"),
        ("p.gpkg", {"append": True, "overwrite": True}, "--append"),
        ("p.gpkg", {"allow_overlap": True}, "--allow-overlap"),
        ("p.xyz", {}, "is not a vector format"),
        ("p.txt", {"format": "shp"}, "must end in .shp"),
        ("map.tif", {"format": "gpkg"}, "is an input"),
        ("dem.tif", {"format": "gpkg", "statistics": {"height": Path("dem.tif")}}, "is an input"),
    ],
)
def test_what_contradicts_itself_is_refused(output: str, values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        VectorizeRequest(map_path=MAP, output=Path(output), **values)


def test_an_existing_output_needs_leave_to_be_changed(tmp_path: Path) -> None:
    output = tmp_path / "p.gpkg"
    output.touch()
    with pytest.raises(OutputExists):
        VectorizeRequest(map_path=MAP, output=output)
    for leave in ("overwrite", "append"):
        VectorizeRequest(map_path=MAP, output=output, **{leave: True})


def test_a_raster_needs_a_name_of_its_own() -> None:
    assert statistics("c.tif", ["height=dem.tif"]) == {"conf": Path("c.tif"), "height": Path("dem.tif")}
    for named in (["dem.tif"], ["height="], ["height=a.tif", "HEIGHT=b.tif"], ["2x=a.tif"]):
        with pytest.raises(UsageError, match="--stats"):
            statistics(None, named)


def test_a_request_loads_neither_rasterio_nor_numba() -> None:
    program = "import sys, cwsam_cli.vectorize.request; print({'rasterio', 'numba', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
