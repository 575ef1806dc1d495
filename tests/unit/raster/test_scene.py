"""Every way a raster can say "no data" is understood, and what cannot be used says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.scene import open_raster, open_scene

MakeRaster = Callable[..., Path]
RGB = ("red", "green", "blue")


def image(bands: int = 3, height: int = 12, width: int = 16, dtype: str = "uint8") -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(20, 200, (bands, height, width)).astype(dtype)


def left_half(height: int = 12, width: int = 16) -> NDArray[np.bool_]:
    inside = np.zeros((height, width), bool)
    inside[:, : width // 2] = True
    return inside


def read(path: Path, wanted: tuple[str, ...] = ()) -> tuple[tuple[int, ...], NDArray[np.generic], NDArray[np.bool_]]:
    """A scene's bands, values and validity, whole."""
    with open_scene(path, wanted_bands=wanted) as scene:
        values, valid = scene.read(Window(0, 0, scene.grid.width, scene.grid.height))
        assert values.dtype == scene.dtype
        return scene.bands, values, valid


def refusal(path: Path, wanted: tuple[str, ...] = ()) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path, wanted)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


# --- what is no data ---


def test_a_scene_without_nodata_is_valid_everywhere(make_raster: MakeRaster) -> None:
    bands, values, valid = read(make_raster("plain.tif", image()))
    assert bands == (1, 2, 3)
    np.testing.assert_array_equal(values, image())
    assert valid.all()


def test_the_nodata_value_is_no_data_where_all_bands_have_it(make_raster: MakeRaster) -> None:
    values = image()
    values[:, ~left_half()] = 0
    values[0, 3, 3] = 0  # one dark band is a dark pixel
    _, _, valid = read(make_raster("collar.tif", values, nodata=0))
    np.testing.assert_array_equal(valid, left_half())


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_without_a_finite_value_in_any_one_band_are_no_data(
    make_raster: MakeRaster, nodata: float | None, value: float
) -> None:
    values = image(dtype="float32")
    values[2, ~left_half()] = value
    _, _, valid = read(make_raster("nan.tif", values, nodata=nodata))
    np.testing.assert_array_equal(valid, left_half())


@pytest.mark.parametrize(("dtype", "nodata"), [("float32", -9999), ("float64", -9999), ("int16", -9999)])
def test_the_nodata_value_of_a_single_band_is_no_measurement_where_it_is_no_brightness(
    make_raster: MakeRaster, dtype: str, nodata: float
) -> None:
    values = image(dtype=dtype)
    values[1, ~left_half()] = nodata
    _, _, valid = read(make_raster("holes.tif", values, nodata=nodata))
    np.testing.assert_array_equal(valid, left_half())


def test_a_band_that_is_not_read_hides_no_pixel(make_raster: MakeRaster) -> None:
    values = image(dtype="float32")
    values[2, ~left_half()] = np.nan
    path = named(make_raster("nan.tif", values), "a", "b", "c")
    _, _, valid = read(path, ("a", "b"))
    assert valid.all()


def test_an_internal_mask_is_honoured(make_raster: MakeRaster) -> None:
    _, _, valid = read(make_raster("internal.tif", image(), mask=left_half()))
    np.testing.assert_array_equal(valid, left_half())


def test_a_mask_file_beside_the_raster_is_honoured(make_raster: MakeRaster) -> None:
    path = make_raster("beside.tif", image())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(left_half())
    assert path.with_name("beside.tif.msk").exists()
    _, _, valid = read(path)
    np.testing.assert_array_equal(valid, left_half())


def test_an_alpha_band_is_a_mask_and_no_image_band(make_raster: MakeRaster) -> None:
    values = np.concatenate([image(), left_half()[None] * np.uint8(255)])
    bands, read_values, valid = read(make_raster("rgba.tif", values, photometric="RGB", alpha="YES"))
    assert bands == (1, 2, 3)
    np.testing.assert_array_equal(read_values, image())
    np.testing.assert_array_equal(valid, left_half())


def test_near_infrared_tagged_as_alpha_is_an_image_band_and_no_mask(make_raster: MakeRaster) -> None:
    values = image(4)
    values[3, :, -2:] = 0  # water is black in near infrared, and no hole
    path = make_raster("naip.tif", values, photometric="RGB", alpha="YES")
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    bands, read_values, valid = read(path)
    assert bands == (1, 2, 3, 4)
    np.testing.assert_array_equal(read_values, values)
    assert valid.all()


def test_a_mask_beside_near_infrared_tagged_as_alpha_is_honoured(make_raster: MakeRaster) -> None:
    path = make_raster("naip_masked.tif", image(4), photometric="RGB", alpha="YES", mask=left_half())
    bands, _, valid = read(path)
    assert bands == (1, 2, 3, 4)
    np.testing.assert_array_equal(valid, left_half())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("metres", [None, 15.0])
@pytest.mark.parametrize("how", ["alpha", "mask"])
def test_pixels_are_hidden_beside_any_number_of_bands(
    make_raster: MakeRaster, count: int, metres: float | None, how: str
) -> None:
    values, hidden = image(count), left_half()[None] * np.uint8(255)
    if how == "alpha":
        path = make_raster("scene.tif", np.concatenate([values, hidden]), photometric="MINISBLACK", alpha="NO")
        with rasterio.open(path, "r+") as target:
            target.colorinterp = [*target.colorinterp[:-1], ColorInterp.alpha]
    else:
        path = make_raster("scene.tif", values, mask=hidden[0])
    with open_scene(path, wanted_bands="abcde"[:count], pixel_m=metres) as scene:
        read_values, valid = scene.read(Window(0, 0, scene.grid.width, scene.grid.height))
    assert len(read_values) == count
    np.testing.assert_array_equal(valid, left_half() if metres is None else left_half(24, 32))


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
def test_a_scene_whose_corner_is_no_place_is_refused(make_raster: MakeRaster, tmp_path: Path, number: str) -> None:
    scene = make_raster("scene.tif", image())
    (tmp_path / "odd.vrt").write_text(
        '<VRTDataset rasterXSize="16" rasterYSize="12"><SRS>EPSG:4326</SRS>'
        f"<GeoTransform>10, 0.1, 0, {number}, 0, -0.1</GeoTransform><VRTRasterBand dataType='Byte' band='1'>"
        f"<SimpleSource><SourceFilename>{scene}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match=r"upper left corner of `.*odd\.vrt`"), open_scene(tmp_path / "odd.vrt"):
        pytest.fail("opened")


def test_a_scene_in_a_mercator_plane_is_resampled_to_metres_on_the_ground(make_raster: MakeRaster) -> None:
    path = make_raster("scene.tif", image(), crs="EPSG:3857", transform=from_origin(1_113_194, 8_399_737, 30, 30))
    with open_scene(path, pixel_m=15.05) as scene:
        assert (scene.grid.width, scene.grid.height) == (16, 12)  # 30 m there are 15.05 m at 60° N


def test_a_band_tagged_alpha_hides_what_it_says_also_where_it_is_read_as_an_image(make_raster: MakeRaster) -> None:
    values = image(4)
    values[3, :5] = 0
    path = make_raster("naip.tif", values, photometric="RGB", alpha="YES")
    with open_scene(path, chosen_bands=("1", "2", "3", "4"), alpha="mask") as scene:
        read_values, valid = scene.read(Window(0, 0, 16, 12))
    np.testing.assert_array_equal(read_values, values)
    np.testing.assert_array_equal(valid, values[3] > 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("metres", [20.0, 60.0])
def test_near_infrared_tagged_as_alpha_is_resampled_as_the_other_bands_are(
    make_raster: MakeRaster, metres: float, masked: bool
) -> None:
    """Alpha would weigh the pixels."""
    values, mask = image(4), left_half() if masked else None
    values[3, :, 3:7] = 0
    read_values = []
    for name, tag in (("tagged.tif", "YES"), ("plain.tif", "NO")):
        path = make_raster(name, values, photometric="RGB", alpha=tag, mask=mask)
        with open_scene(path, wanted_bands="rgbn", pixel_m=metres) as scene:
            read_values.append(scene.read(Window(0, 0, scene.grid.width, scene.grid.height)))
    np.testing.assert_array_equal(read_values[0][1], read_values[1][1])
    np.testing.assert_array_equal(read_values[0][0][:, read_values[0][1]], read_values[1][0][:, read_values[1][1]])
    assert read_values[0][1].all() != masked


@pytest.mark.parametrize(("wanted", "bands"), [(4, (1, 2, 3, 4)), (3, (1, 2, 3))])
def test_as_many_wanted_bands_as_the_file_has_make_alpha_an_image_band(
    make_raster: MakeRaster, wanted: int, bands: tuple[int, ...]
) -> None:
    values = np.concatenate([image(), left_half()[None] * np.uint8(255)])
    path = make_raster("rgba.tif", values, photometric="RGB", alpha="YES")
    read_bands, _, valid = read(path, tuple(f"b{i}" for i in range(wanted)))
    assert read_bands == bands
    assert valid.all() == (wanted == 4)


def test_a_window_is_read_as_the_whole_is(make_raster: MakeRaster) -> None:
    path = make_raster("masked.tif", image(), mask=left_half())
    with open_scene(path) as scene:
        values, valid = scene.read(Window(5, 2, 7, 4))
    np.testing.assert_array_equal(values, image()[:, 2:6, 5:12])
    np.testing.assert_array_equal(valid, left_half()[2:6, 5:12])


# --- which bands ---


def named(path: Path, *names: str) -> Path:
    with rasterio.open(path, "r+") as target:
        target.descriptions = names
    return path


def test_wanted_bands_are_found_by_name_in_any_order(make_raster: MakeRaster) -> None:
    path = named(make_raster("s2.tif", image(5, dtype="uint16")), "blue", "green", "red", "red edge", "nir")
    bands, values, _ = read(path, ("nir", "red", "green"))
    assert bands == (5, 3, 2)
    np.testing.assert_array_equal(values, image(5, dtype="uint16")[[4, 2, 1]])


def test_a_scene_tells_the_names_of_its_bands(make_raster: MakeRaster) -> None:
    described = named(make_raster("described.tif", image(2)), "B08", "B04")
    colored, bare = make_raster("colored.tif", image(), photometric="RGB"), make_raster("bare.tif", image(2))
    told = []
    for path in (described, colored, bare):
        with open_scene(path) as scene:
            told.append(scene.band_names)
    assert told == [("B08", "B04"), RGB, ("band_1", "band_2")]


def test_wanted_bands_that_the_scene_does_not_name_are_taken_by_position(make_raster: MakeRaster) -> None:
    bands, _, _ = read(make_raster("bare.tif", image(3)), ("swir", "nir", "thermal"))
    assert bands == (1, 2, 3)


@pytest.mark.parametrize("wanted", [("band_1", "band_2", "band_3"), ("Band 2", "Band 1", "band3")])
def test_names_that_a_file_without_names_gets_match_none(make_raster: MakeRaster, wanted: tuple[str, ...]) -> None:
    bare = make_raster("bare.tif", image(8))
    assert "8 image bands" in str(refusal(bare, wanted))
    bands, _, _ = read(make_raster("three.tif", image(3), photometric="MINISBLACK"), wanted)
    assert bands == (1, 2, 3)


def test_bands_in_another_order_are_refused_when_not_all_have_names(make_raster: MakeRaster) -> None:
    error = refusal(make_raster("bare.tif", image(3)), ("green", "blue", "nir"))
    assert "red, green, blue" in str(error) and "green, blue, nir" in str(error)


@pytest.mark.parametrize("count", [2, 5])
def test_another_number_of_bands_than_the_model_knows_is_refused(make_raster: MakeRaster, count: int) -> None:
    path = make_raster("other.tif", image(count, dtype="uint16"))
    error = refusal(path, ("swir", "nir", "red"))
    assert f"{count} image bands" in str(error) and "swir, nir, red" in str(error) and str(path) in str(error)


# --- what is refused ---


@pytest.mark.parametrize("dtype", ["complex64", "uint64", "int64"])
def test_a_dtype_that_no_model_can_take_is_refused_by_name(make_raster: MakeRaster, dtype: str) -> None:
    error = refusal(make_raster("odd.tif", np.ones((1, 4, 4), dtype)))
    assert dtype in str(error)
    assert "gdal_translate -ot Float32" in error.hint


def test_ground_control_points_alone_are_refused(make_raster: MakeRaster) -> None:
    points = [GroundControlPoint(row, col, 8 + col / 100, 47 - row / 100) for row in (0, 12) for col in (0, 16)]
    path = make_raster("gcps.tif", image(), transform=Affine.identity(), gcps=points)
    error = refusal(path)
    assert "ground control points" in str(error)
    assert error.hint.startswith("warp it first: gdalwarp")


def test_a_palette_image_is_refused(make_raster: MakeRaster) -> None:
    path = make_raster("palette.tif", image(1))
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {1: (255, 0, 0, 255)})
    assert "palette" in str(refusal(path))


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    assert "no file" in str(refusal(tmp_path / "missing.tif"))
    empty = tmp_path / "empty.tif"
    empty.touch()
    assert "not a readable raster" in str(refusal(empty))


@pytest.mark.parametrize("kept", [100, 5000])
def test_a_truncated_file_is_refused_by_name(make_raster: MakeRaster, kept: int) -> None:
    path = make_raster("cut.tif", image(3, 64, 64))
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in str(refusal(path))


def test_a_folder_is_no_raster(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable raster"):
        open_raster(tmp_path)


# --- real files with something odd about each ---


def dark(path: Path) -> NDArray[np.bool_]:
    with rasterio.open(path) as dataset:
        return (dataset.read() == 0).all(axis=0)


def test_the_collar_of_a_real_scene_is_no_data(awkward: Path) -> None:
    bands, _, valid = read(awkward / "RGB.byte.tif")
    assert bands == (1, 2, 3)
    np.testing.assert_array_equal(valid, ~dark(awkward / "RGB.byte.tif"))
    assert 0.67 < valid.mean() < 0.68


def test_a_south_up_scene_is_the_north_up_one_reversed(awkward: Path) -> None:
    _, north, north_valid = read(awkward / "RGB.byte.tif")
    _, south, south_valid = read(awkward / "south_up_real.tif")
    np.testing.assert_array_equal(south, north[:, ::-1])
    np.testing.assert_array_equal(south_valid, north_valid[::-1])


def test_a_real_mask_file_is_honoured(awkward: Path) -> None:
    with rasterio.open(awkward / "RGB2.byte.tif.msk") as mask:
        expected = mask.read(1) > 0
    _, _, valid = read(awkward / "RGB2.byte.tif")
    np.testing.assert_array_equal(valid, expected)
    assert 0 < valid.mean() < 1


def test_a_real_alpha_band_is_a_mask(awkward: Path) -> None:
    path = awkward / "rgba_alpha_jpeg.tif"
    with rasterio.open(path) as dataset:
        expected = dataset.read(4) > 0
    bands, _, valid = read(path)
    assert bands == (1, 2, 3)
    np.testing.assert_array_equal(valid, expected)
    assert 0 < valid.mean() < 1


def test_a_real_internal_mask_is_honoured(awkward: Path) -> None:
    path = awkward / "rgb_internal_mask.tif"
    with rasterio.open(path) as dataset:
        expected = dataset.dataset_mask() > 0
    _, _, valid = read(path)
    np.testing.assert_array_equal(valid, expected)
    assert 0 < valid.mean() < 1


@pytest.mark.parametrize("name", ["float64_nan_nodata.tif", "sentinel2_float_nan.tif", "float_nodata_ignf.tif"])
def test_real_floats_without_data_never_pass_as_values(awkward: Path, name: str) -> None:
    _, values, valid = read(awkward / name)
    assert 0 < valid.mean() < 1
    assert np.isfinite(values[:, valid]).all()
    assert np.abs(values[:, valid]).max() < 1e6


def test_a_real_scene_of_nodata_alone_has_no_valid_pixel(awkward: Path) -> None:
    _, _, valid = read(awkward / "all_nodata.tif")
    assert not valid.any()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gcps_only_s1.tif", "ground control points"),
        ("RGB.byte.gcp.vrt", "ground control points"),
        ("complex_int16_slc.tif", "complex_int16"),
        ("uint64.tiff", "uint64"),
        ("palette_lambert.tif", "palette"),
        ("fuzzed_0.tif", "not a readable raster"),
        ("zero_bytes.tif", "not a readable raster"),
    ],
)
def test_a_real_file_that_cannot_be_used_is_refused_by_name(awkward: Path, name: str, said: str) -> None:
    error = refusal(awkward / name)
    assert said in str(error) and name in str(error)
    assert "\n" not in str(error)


def test_a_damaged_jpeg_opens_and_its_reading_fails_by_name(awkward: Path) -> None:
    path = awkward / "corrupt_jpeg_tile.tif"
    with open_scene(path) as scene, pytest.raises(DataError, match=r"corrupt_jpeg_tile\.tif") as caught:
        scene.read(Window(0, 0, scene.grid.width, scene.grid.height))
    assert caught.value.exit_code == 4
    assert "gdalinfo" in caught.value.hint


def test_a_world_of_648_million_pixels_is_read_by_the_window(awkward: Path) -> None:
    with open_scene(awkward / "world_36000x18000.tif") as scene:
        assert (scene.grid.width, scene.grid.height) == (36_000, 18_000)
        values, valid = scene.read(Window(18_000, 9_000, 64, 64))
    assert values.shape == (1, 64, 64) and valid.shape == (64, 64)
