"""Maps are told from the layers beside them."""

from cwsam_cli.raster.mapfile import without_layers


def test_only_layers_whose_map_is_given_are_left_out() -> None:
    given = ["a.tif", "a.confidence.tif", "b.confidence.tif", "dir/a.entropy.tif", "a.experts.tif"]
    assert without_layers(given) == ["a.tif", "b.confidence.tif", "dir/a.entropy.tif"]
