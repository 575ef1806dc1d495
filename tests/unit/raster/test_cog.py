"""A COG of class codes is made whole, and its overviews show the most frequent class."""

from collections import Counter
from pathlib import Path

import numpy as np
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.raster.cog import COG_BLOCK, DRAFT_CREATION, halve, write_class_cog
from cwsam_cli.taxonomy import IGNORE, from_names

Codes = NDArray[np.uint8]


@settings(max_examples=300, deadline=None, database=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.sampled_from([0, 1, 2, 254, 255])))
def test_a_half_shows_the_most_frequent_class_of_four_pixels(codes: Codes) -> None:
    half = halve(codes)
    assert half.shape == ((codes.shape[0] + 1) // 2, (codes.shape[1] + 1) // 2)
    for row, column in np.ndindex(half.shape):
        four = codes[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist()
        votes = Counter(code for code in four if code != IGNORE)
        expected = next((code for code in four if votes[code] == max(votes.values(), default=0)), IGNORE)
        assert half[row, column] == expected


def test_a_part_becomes_a_file_with_overviews(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 3, (1300, 2500)).astype(np.uint8)
    codes[200:900, 300:1200] = IGNORE
    place = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 10, 10)}
    with rasterio.open(tmp_path / "draft.tif", "w", width=2500, height=1300, **place, **DRAFT_CREATION) as draft:
        draft.write(codes, 1)
    part = Window(101, 7, 2201, 1111)
    write_class_cog(tmp_path / "draft.tif", part, tmp_path / "part.tif", from_names(["a", "b", "c"]), {"MADE": "here"})
    assert {entry.name for entry in tmp_path.iterdir()} - {"part.tif.aux.xml"} == {"draft.tif", "part.tif"}
    with rasterio.open(tmp_path / "part.tif") as made:
        expected = codes[part.toslices()]
        np.testing.assert_array_equal(made.read(1), expected)
        assert made.transform == from_origin(601_010, 3_999_930, 10, 10)
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert made.tags()["MADE"] == "here"
        assert made.overviews(1) == [2, 4, 8]
    for level in range(3):
        expected = halve(expected)
        with rasterio.open(tmp_path / "part.tif", overview_level=level) as overview:
            np.testing.assert_array_equal(overview.read(1), expected)
    assert max(expected.shape) <= COG_BLOCK
