"""Every scene's map has a name of its own."""

import pytest

from cwsam_cli.predict.many import map_names


@pytest.mark.parametrize(
    ("scenes", "names"),
    [
        (["x/a.tif", "y/b.jp2"], ["a.tif", "b.tif"]),
        (["x/a.tif", "y/a.vrt"], ["a-1.tif", "a-2.tif"]),
        (["x/a.tif", "y/a.tif", "x/a-1.tif"], ["a-2.tif", "a-3.tif", "a-1.tif"]),
        (["x/A.tif", "y/a.tif"], ["A-1.tif", "a-2.tif"]),
        (["https://example.org/a.tif?key=b/c", "/vsizip/z.zip/d.tif"], ["a.tif", "d.tif"]),
    ],
)
def test_maps_are_called_after_their_scenes_and_numbered_around_names_that_are_taken(
    scenes: list[str], names: list[str]
) -> None:
    assert map_names(scenes) == names
