"""Commands × rasters with something odd: a right result, or a sentence with a hint; nothing else is left.

`test_awkward_rasters.py` tries the same rasters as scenes and labels.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from tests.cli.conftest import write
from tests.faults.forks import contents, run_in_fork

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

UNREADABLE = ("fuzzed_0.tif", "zero_bytes.tif")
UNPLACED = ("RGB.byte.gcp.vrt", "gcps_only_s1.tif")
FLOATS = ("float64_nan_nodata.tif", "float_nodata_ignf.tif", "fullearth_float64.tif", "sentinel2_float_nan.tif")
NO_PLACE = ("int8.tif", "planar_lzw.tif")
PICTURES = ("RGB.byte.tif", "RGB2.byte.tif", "south_up_real.tif", "tiny_51px_utm7s.tif", "local_cs.tif")
MASKED = ("rgb_internal_mask.tif", "rgba_alpha_jpeg.tif")
CODES = ("palette_lambert.tif", "label_not_binary_localcs.tif", "label_other_crs_nonsquare.tif")
WORLD = "world_36000x18000.tif"
UTM60 = "antimeridian_utm60.tif"
EMPTY, CORRUPT, COMPLEX, WIDE = "all_nodata.tif", "corrupt_jpeg_tile.tif", "complex_int16_slc.tif", "uint64.tiff"
NO_CRS = "label_float32_nan_nocrs.tif"
ALL = (
    *(*UNREADABLE, *UNPLACED, *FLOATS, *NO_PLACE, *PICTURES, *MASKED, *CODES),
    *(WORLD, UTM60, EMPTY, CORRUPT, COMPLEX, WIDE, NO_CRS),
)

READABLE = "not a readable raster"
POINTS = "ground control points only"
CRS_LESS = "no coordinate reference system"


class Case(NamedTuple):
    """A command, the rasters that it refuses with words of the reason, and a check of its result for the others."""

    words: tuple[str, ...]
    """Arguments; RASTER is the raster, BESIDE a map of stripes on its ground."""
    refused: dict[str, tuple[str, ...]]
    """Rasters by words of the reason."""
    check: Callable[[Path, "Odd"], None]
    left_out: tuple[str, ...] = ()
    band: bool = False
    """Whether a raster of several bands needs --band 1."""


class Odd(NamedTuple):
    """A raster of the index, as rasterio reads it, and a map of stripes in its middle."""

    path: Path
    beside: Path
    window: Window
    crs: CRS | None
    transform: Affine
    shape: tuple[int, int]

    def codes(self, window: Window | None = None) -> Any:
        """The first band, masked where there is no data."""
        with rasterio.open(self.path) as dataset:
            values = dataset.read(1, window=window, masked=True)
        return np.ma.masked_invalid(values) if values.dtype.kind == "f" else values


def same_classes_and_pixels(out: Path, odd: Odd) -> None:
    frame = pyogrio.read_dataframe(out / "out.gpkg", columns=["code", "pixels"], read_geometry=False)
    info = pyogrio.read_info(out / "out.gpkg", force_total_bounds=True)
    codes, counts = np.unique(odd.codes().compressed(), return_counts=True)
    assert CRS.from_user_input(info["crs"]) == odd.crs
    assert frame.groupby("code")["pixels"].sum().to_dict() == dict(zip(codes.tolist(), counts.tolist(), strict=True))
    if len(frame):
        west, south, east, north = info["total_bounds"]
        left, bottom, right, top = rasterio.transform.array_bounds(*odd.shape, odd.transform)
        slack = 1e-12 * max(abs(edge) for edge in (left, right, bottom, top))
        assert min(left, right) - slack <= west < east <= max(left, right) + slack
        assert min(bottom, top) - slack <= south < north <= max(bottom, top) + slack


def points_have_the_class_of_their_pixel(out: Path, odd: Odd) -> None:
    frame = gpd.read_file(out / "out.gpkg")
    assert len(frame) == 520
    columns, rows = (~odd.transform) @ (frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy())
    found = odd.codes()[np.floor(rows).astype(int), np.floor(columns).astype(int)]
    assert not np.ma.getmaskarray(found).any() and (found == frame["map"].to_numpy()).all()


def agrees_with_itself(out: Path, odd: Odd) -> None:
    metrics = json.loads((out / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["accuracy"] == 1
    assert metrics["pixels"] == odd.codes().count()


def means_are_those_of_the_pixels(out: Path, odd: Odd) -> None:
    frame = gpd.read_file(out / "out.gpkg")
    with rasterio.open(odd.beside) as dataset:
        codes = dataset.read(1)
    values = odd.codes(odd.window)
    assert len(frame)
    for entry in frame.itertuples():
        column = int(((~odd.transform) @ entry.geometry.representative_point().coords[0])[0] - odd.window.col_off)
        stripe = np.zeros(codes.shape, bool)
        stripe[:, column // 32 * 32 : column // 32 * 32 + 32] = True
        mean = np.ma.mean(values[stripe].astype(np.float64))
        assert (np.isnan(entry.conf_mean) and mean is np.ma.masked) or entry.conf_mean == pytest.approx(mean, rel=1e-5)


def strata_are_its_values(out: Path, odd: Odd) -> None:
    frame = gpd.read_file(out / "out.gpkg")
    values = set(odd.codes(odd.window).compressed().tolist())
    assert len(frame) == 520 and frame["stratum"].nunique() == len(values)


def a_picture_per_point(out: Path, odd: Odd) -> None:
    assert len([*(out / "chips").glob("*.png")]) == len(gpd.read_file(out / "out.gpkg")) == 8


def the_page_has_its_place(out: Path, odd: Odd) -> None:
    page = json.loads((out / "out" / "layers.json").read_text("utf-8"))
    (layer,) = page["layers"]
    assert layer["name"].startswith(odd.path.stem) and (out / "out" / layer["url"]).is_file()
    if odd.crs is not None:
        expected = rasterio.transform.array_bounds(*odd.shape, odd.transform)
        ours = page["extent"]
        assert sorted(ours) == pytest.approx(sorted(expected), rel=1e-6)


def the_doctor_knows_its_grid(out: Path, odd: Odd) -> None:
    (thing,) = json.loads((out.with_name("said")).read_text("utf-8"))["things"]
    height, width = odd.shape
    assert thing["description"]["facts"]["grid"].startswith(f"{width} × {height} pixels")


def nothing(out: Path, odd: Odd) -> None:
    raise AssertionError("no raster of the index is accepted")


COLORED = (*PICTURES, "planar_lzw.tif", *MASKED)
AS_MAP = {READABLE: (*UNREADABLE, CORRUPT), POINTS: UNPLACED, "of up to 32 bits": (*FLOATS, COMPLEX, WIDE, NO_CRS)}
BESIDE_MAP = {
    READABLE: (*UNREADABLE, CORRUPT),
    POINTS: (*UNPLACED, COMPLEX),
    CRS_LESS: (WIDE, NO_CRS, *NO_PLACE),
}
CASES = {
    "vectorize": Case(
        ("vectorize", "RASTER", "out.gpkg"),
        AS_MAP | {CRS_LESS: NO_PLACE},
        same_classes_and_pixels,
        # WORLD takes gigabytes here, and the others have 200,000 polygons each, as south_up_real.tif.
        left_out=(WORLD, "RGB.byte.tif", "RGB2.byte.tif", "rgb_internal_mask.tif"),
        band=True,
    ),
    "sample": Case(
        ("sample", "RASTER", "-n", "520", "--min-per-class", "2", "-o", "out.gpkg"),
        AS_MAP | {"no pixel in any stratum": (EMPTY,)},
        points_have_the_class_of_their_pixel,
        left_out=(WORLD,),  # reading it here takes 3 GB
        band=True,
    ),
    "eval --map": Case(
        ("eval", "--map", "RASTER", "--reference", "RASTER", "-o", "out"),
        {
            READABLE: UNREADABLE,
            POINTS: ("gcps_only_s1.tif",),
            "of up to 32 bits": (*FLOATS[:3], COMPLEX, WIDE, NO_CRS),
            " bands": (*COLORED, CORRUPT, EMPTY, "RGB.byte.gcp.vrt", "sentinel2_float_nan.tif"),
            CRS_LESS: ("int8.tif",),
        },
        agrees_with_itself,
        left_out=(WORLD,),  # half a minute
    ),
    "vectorize --confidence": Case(
        ("vectorize", "BESIDE", "out.gpkg", "--confidence", "RASTER"), BESIDE_MAP, means_are_those_of_the_pixels
    ),
    "sample --strata": Case(
        ("sample", "BESIDE", "-n", "520", "--min-per-class", "2", "-o", "out.gpkg", "--strata", "RASTER"),
        {
            "neither a raster nor a vector file": UNREADABLE,
            READABLE: (CORRUPT,),
            "that are not whole numbers": FLOATS[:2],
            "not read exactly": ("fullearth_float64.tif",),
            "no pixel in any stratum": (EMPTY, WORLD, "rgba_alpha_jpeg.tif"),
            "points are too few": ("sentinel2_float_nan.tif",),
        }
        | {reason: names for reason, names in BESIDE_MAP.items() if reason != READABLE},
        strata_are_its_values,
    ),
    "sample --chips": Case(
        ("sample", "BESIDE", "-n", "8", "--min-per-class", "2", "-o", "out.gpkg", "--chips", "chips", "--image=RASTER"),
        {
            READABLE: (*UNREADABLE, CORRUPT),
            POINTS: UNPLACED,
            "cannot be used as an image": (COMPLEX, WIDE),
            "one of them has no CRS": (NO_CRS, *NO_PLACE),
            "a palette image": ("palette_lambert.tif",),
        },
        a_picture_per_point,
    ),
    "view": Case(
        ("view", "RASTER", "--export", "out"),
        {
            "neither a raster nor a vector file": UNREADABLE,
            READABLE: (CORRUPT,),
            POINTS: UNPLACED,
            "cannot be used as an image": (COMPLEX, WIDE),
        },
        the_page_has_its_place,
    ),
    "doctor": Case(
        ("doctor", "--json", "RASTER"),
        {READABLE: (*UNREADABLE, CORRUPT), POINTS: UNPLACED, "cannot be used as an image": (COMPLEX, WIDE)},
        the_doctor_knows_its_grid,
    ),
    "mosaic": Case(
        ("mosaic", "RASTER", "-o", "out.tif"),
        {
            READABLE: UNREADABLE,
            " bands; a map is one band": (*COLORED, CORRUPT, EMPTY, "RGB.byte.gcp.vrt", "sentinel2_float_nan.tif"),
            " values; a map is one band": (
                *(*FLOATS[:3], UTM60, COMPLEX, WIDE, NO_CRS),
                *("gcps_only_s1.tif", "int8.tif"),
            ),
            "declares nodata 0": (WORLD, "label_not_binary_localcs.tif"),
            "no class names": ("label_other_crs_nonsquare.tif", "palette_lambert.tif"),
        },
        nothing,
    ),
}


@pytest.fixture(scope="module")
def odd(awkward: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Odd]]:
    """Look at a raster, and write a map of stripes on the ground in its middle."""
    folder = tmp_path_factory.mktemp("beside")
    looked: dict[str, Odd] = {}

    def look(name: str) -> Odd:
        if name not in looked:
            crs, place, shape = None, Affine(30, 0, 600_000, 0, -30, 4_000_000), (64, 64)
            if name not in UNREADABLE:
                with rasterio.open(awkward / name) as dataset:
                    crs, place, shape = dataset.crs, dataset.transform, dataset.shape
            high, wide = (min(200, length) for length in shape)
            window = Window((shape[1] - wide) // 2, (shape[0] - high) // 2, wide, high)
            codes = (np.arange(wide)[None] // 32 % 3 + 1).repeat(high, 0).astype(np.uint8)
            is_placed = crs is not None and place != Affine.identity()
            given = {"crs": crs, "transform": place @ Affine.translation(window.col_off, window.row_off)}
            beside = write(folder / f"{name}.map.tif", codes, nodata=255, **(given if is_placed else {}))
            looked[name] = Odd(awkward / name, beside, window, crs, place, shape)
        return looked[name]

    yield look


def test_the_table_has_every_raster_of_the_index(awkward: Path) -> None:
    with (awkward / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row["a_land_cover_cli_should"] for row in csv.DictReader(file)}
    assert set(ALL) == set(rows) - {"RGB2.byte.tif.msk"} and len(ALL) == len(set(ALL))
    never = {name for name, should in rows.items() if should.startswith("REFUSE") and " or " not in should}
    never -= {EMPTY, "label_not_binary_localcs.tif"}  # refused as training data only
    for command, case in CASES.items():
        assert never - {name for names in case.refused.values() for name in names} == set(), command


@pytest.mark.parametrize("command", CASES)
def test_a_command_reads_or_refuses_every_raster(odd: Callable[[str], Odd], tmp_path: Path, command: str) -> None:
    case = CASES[command]
    reasons = {name: reason for reason, names in case.refused.items() for name in names}
    for number, name in enumerate(each for each in ALL if each not in case.left_out):
        raster, folder = odd(name), tmp_path / str(number)
        folder.mkdir()
        words = [w.replace("RASTER", str(raster.path)).replace("BESIDE", str(raster.beside)) for w in case.words]
        if case.band and name in (*COLORED, EMPTY, CORRUPT, "RGB.byte.gcp.vrt", "sentinel2_float_nan.tif"):
            words += ["--band", "1"]
        code, text = run_in_fork(folder, words)
        said = (name, code, text[-1500:])
        assert "Traceback" not in text, said
        left = [*folder.iterdir()]
        if name in reasons:
            assert code in (2, 4) and not left, (said, left)
            if command == "doctor":
                assert reasons[name] in text and json.loads(text)["things"][0]["hint"], said
                continue
            error = text[text.index("error: ") :].split("\n")
            assert reasons[name] in error[0] and error[1] == "" and error[2].startswith("hint: "), said
            continue
        assert code == 0, said
        assert not [path for path in contents(folder) if ".part" in path or ".lock" in path or ".journal" in path]
        (tmp_path / "said").write_text(text, "utf-8")
        try:
            case.check(folder, raster)
        except AssertionError as error:
            raise AssertionError(said) from error
