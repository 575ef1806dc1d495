"""The shipped class tables: the right names, the right codes, colours that a reader can tell apart."""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cwsam_cli.config.load import load_taxonomy
from cwsam_cli.taxonomy import Taxonomy

TABLES = sorted(path.stem for path in (Path(__file__).parents[3] / "configs" / "classes").glob("*.yaml"))

THE_33 = """
background, dry cropland, orchard and garden, paddy field, shrub forest, arbor forest, sparse woodland, other forest,
grassland, dense built-up area, isolated building, agricultural greenhouse, airport, tailings pond, open-pit mine,
open-pit quarry, construction site, cemetery, impervious surface, road, railway, bridge, square, stadium, water,
dam (hydropower), dam (other), desert, bare land, glacier, cloud, parking lot, photovoltaic panels
"""

LEAST_DIFFERENCE = 15.0  # CIE76; about 2 is just visible side by side, a legend across a map needs far more


def _lab(rgb: tuple[int, int, int]) -> NDArray[np.float64]:
    """sRGB (D65) → CIE L*a*b*."""
    part = np.array(rgb) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_conversion_to_lab_knows_pure_red() -> None:
    assert _lab((255, 0, 0)) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


def test_the_33_classes_stand_in_their_order_with_code_equal_to_index() -> None:
    table = load_taxonomy("land_cover_33")
    assert table.names == [name.strip() for name in THE_33.replace("\n", " ").split(",")]
    assert table.codes == list(range(33))


def test_four_tables_are_shipped() -> None:
    assert {"chesapeake", "land_cover_33", "nc_landclass96", "zion_nlcd"} <= set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_any_two_colors_of_a_table_can_be_told_apart(name: str) -> None:
    table = load_taxonomy(name)
    close = [
        (one.name, other.name)
        for one, other in combinations(table.classes, 2)
        if np.linalg.norm(_lab(one.rgb) - _lab(other.rgb)) < LEAST_DIFFERENCE
    ]
    assert close == []


@pytest.mark.parametrize("name", TABLES)
def test_every_shipped_table_has_a_title(name: str) -> None:
    assert load_taxonomy(name).name


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("nc_landclass96", "nc_landsat7_2002"),
        ("zion_nlcd", "zion_landsat8_nlcd"),
        ("chesapeake", "naip_wv_1m_nogeo"),
    ],
)
def test_a_shipped_table_has_the_codes_and_names_of_its_data(landcover: Path, name: str, folder: str) -> None:
    with (landcover / folder / "classes.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [(int(row["id"]), row["name"]) for row in csv.DictReader(file)]
    table: Taxonomy = load_taxonomy(name)
    assert [(entry.code, entry.name) for entry in table.classes] == rows
