"""The summary says how much there is of everything, by split."""

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.taxonomy import from_names
from cwsam_cli.tile.summary import summary_text


def manifest(pixel_m2: float | None) -> Manifest:
    return Manifest(
        taxonomy=from_names(["forest", "ice"]),
        bands=(),
        dtype="uint8",
        gsd_m=None,
        ground_m2={} if pixel_m2 is None else {"train": 1e6 * pixel_m2, "val": 4e3 * pixel_m2, "test": 0.0},
        tiles={"train": 1200, "val": 3, "test": 0},
        pixels={"train": [750_000, 250_000], "val": [4000, 0], "test": [0, 0]},
        left_out={"for the buffer": 12, "without a label": 0},
    )


def test_the_summary_of_placed_tiles_is_in_hectares() -> None:
    assert summary_text(manifest(100)).splitlines() == [
        "                     train      val",
        "tiles                1,200        3",
        "labelled ground  10,000 ha  40.0 ha",
        "forest               75.0%   100.0%",
        "ice                  25.0%     none",
        "left out: 12 for the buffer",
    ]


def test_the_summary_of_other_tiles_is_in_pixels() -> None:
    assert "labelled pixels  1,000,000   4,000" in summary_text(manifest(None)).splitlines()
