from pathlib import Path

import pytest

from cwsam_cli.errors import UsageError
from cwsam_cli.vector.formats import layer_name, vector_driver


@pytest.mark.parametrize(
    ("stem", "layer"), [("map", "map"), ("a b-c", "a b-c"), ("-a", "_-a"), ("[1]", "_[1]"), ("gpkg1", "_gpkg1")]
)
def test_a_geopackage_gets_a_layer_that_it_can_have(stem: str, layer: str) -> None:
    assert layer_name(Path(f"{stem}.gpkg"), "GPKG", None) == layer
    assert layer_name(Path(f"{stem}.fgb"), "FlatGeobuf", None) == stem


def test_names_that_gdal_would_change_are_refused() -> None:
    with pytest.raises(UsageError, match="--layer `#1`"):
        layer_name(Path("a.gpkg"), "GPKG", "#1")
    with pytest.raises(UsageError, match="shapefile"):
        vector_driver(Path("a\\b.shp"))
