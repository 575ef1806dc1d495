"""Codes become indices in one place, and every pixel is judged once."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image

from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.dataset.loader import BatchShare
from cwsam_cli.dataset.manifest import Band, Manifest, read_manifest, write_manifest
from cwsam_cli.dataset.samples import TileDataset, balanced_probabilities, count_class_pixels, describe
from cwsam_cli.errors import ConfigError, DataError
from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, from_names

MakeRaster = Callable[..., Path]
MakeTiles = Callable[..., FolderArgs]

TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=7, name="forest", color="#006e28"),
        LandCoverClass(code=0, name="background", color="#000000"),
        LandCoverClass(code=3, name="water", color="#005adc"),
    )
)
PLAIN = tuple(Band(name=name, mean=0.0, std=1.0) for name in "rgb")
CODES = np.array([7, 0, 3, 200, IGNORE], np.uint8)  # 200 is no class
INDEX = np.array([0, 1, 2, IGNORE, IGNORE], np.uint8)


@pytest.fixture
def make_tiles(make_raster: MakeRaster, tmp_path: Path) -> MakeTiles:
    """Write image and label tiles as `cwsam tile` does; sizes are (height, width)."""

    def make(*sizes: tuple[int, int], classes: str | list[str] | None = None, ignore_bg: bool = False) -> FolderArgs:
        for number, (height, width) in enumerate(sizes):
            image, choice = random_tile(number, height, width)
            make_raster(f"data/images/train/tile_{number:02d}.tif", image)
            make_raster(f"data/labels/train/tile_{number:02d}.tif", CODES[choice], nodata=255)
        return FolderArgs(
            root_path_1=str(tmp_path / "data/images/train"),
            root_path_2=str(tmp_path / "data/labels/train"),
            classes=classes,
            ignore_bg=ignore_bg,
        )

    return make


def random_tile(number: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """An image of values below 10, and which of `CODES` stands where."""
    rng = np.random.default_rng(number)
    return rng.integers(1, 10, (3, height, width)).astype(np.uint8), rng.integers(0, len(CODES), (height, width))


# --- codes and indices ---


def test_codes_become_indices_of_the_table(make_tiles: MakeTiles) -> None:
    tiles = TileDataset(make_tiles((8, 8)), TAXONOMY, PLAIN, 8)
    image, label = tiles[0]
    expected_image, choice = random_tile(0, 8, 8)
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(label, INDEX[choice])


def test_code_0_is_a_class_unless_background_is_ignored(make_tiles: MakeTiles) -> None:
    args = make_tiles((16, 16), ignore_bg=True)
    _, choice = random_tile(0, 16, 16)
    _, label = TileDataset(args, TAXONOMY, PLAIN, 16)[0]
    expected = INDEX[choice]
    expected[CODES[choice] == 0] = IGNORE
    np.testing.assert_array_equal(label, expected)
    assert (expected == 2).any() and not (expected == 1).any()


def test_images_are_normalised_by_the_bands_they_come_with(make_tiles: MakeTiles) -> None:
    bands = tuple(Band(name=name, mean=4.0, std=2.0) for name in "rgb")
    image, _ = TileDataset(make_tiles((8, 8)), TAXONOMY, bands, 8)[0]
    np.testing.assert_allclose(image, (random_tile(0, 8, 8)[0].astype(float) - 4) / 2)


def test_nodata_of_an_image_tile_is_0(make_tiles: MakeTiles, make_raster: MakeRaster) -> None:
    args = make_tiles((8, 8))
    mask = np.ones((8, 8), bool)
    mask[2:4] = False
    make_raster("data/images/train/tile_00.tif", random_tile(0, 8, 8)[0], mask=mask)
    image, _ = TileDataset(args, TAXONOMY, PLAIN, 8)[0]
    assert (image[:, 2:4] == 0).all() and (image[:, 4:] > 0).all()


def test_near_infrared_tagged_as_alpha_is_a_band_and_hides_nothing(
    make_tiles: MakeTiles, make_raster: MakeRaster
) -> None:
    args = make_tiles((8, 8))
    values = np.concatenate([random_tile(0, 8, 8)[0], np.eye(8, dtype=np.uint8)[None]])
    make_raster("data/images/train/tile_00.tif", values, photometric="RGB", alpha="YES")
    image, _ = TileDataset(args, TAXONOMY, (*PLAIN, Band(name="nir", mean=0.0, std=1.0)), 8)[0]
    np.testing.assert_array_equal(image, values)


def test_pixels_are_counted_by_tile_and_class_over_whole_tiles(make_tiles: MakeTiles) -> None:
    args = make_tiles((9, 7), (5, 11))
    expected = []
    for number, size in enumerate([(9, 7), (5, 11)]):
        index = INDEX[random_tile(number, *size)[1]]
        expected.append(np.bincount(index[index != IGNORE], minlength=3).tolist())
    for training in (False, True):
        assert count_class_pixels(TileDataset(args, TAXONOMY, PLAIN, 4, train=training), 3).tolist() == expected


# --- samples ---


@pytest.mark.parametrize("size", [4, 5, 8, 12, 32])
def test_evaluation_counts_every_pixel_exactly_once(make_tiles: MakeTiles, size: int) -> None:
    shapes = [(12, 12), (13, 9), (8, 21), (3, 40)]
    tiles = TileDataset(make_tiles(*shapes), TAXONOMY, PLAIN, size)
    counted = np.zeros(3, int)
    for image, label in (tiles[number] for number in range(len(tiles))):
        assert image.shape == (3, size, size) and label.shape == (size, size)
        counted += np.bincount(label[label != IGNORE], minlength=3)
    expected = np.zeros(3, int)
    for number, shape in enumerate(shapes):
        index = INDEX[random_tile(number, *shape)[1]]
        expected += np.bincount(index[index != IGNORE], minlength=3)
    assert counted.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [4, 5, 7, 16])
def test_evaluation_squares_show_real_ground_at_their_place(
    make_tiles: MakeTiles, make_raster: MakeRaster, size: int
) -> None:
    height, width = 13, 10
    args = make_tiles((height, width))
    number = np.arange(height * width).reshape(height, width)
    every = from_names([f"c{i}" for i in range(height * width)])
    make_raster("data/labels/train/tile_00.tif", number.astype(np.uint8))
    make_raster("data/images/train/tile_00.tif", np.stack([number + 1] * 3).astype(np.float32))
    bands = tuple(Band(name=name, mean=0.0, std=100.0) for name in "rgb")
    tiles = TileDataset(args, every, bands, size)
    seen = []
    for image, label in (tiles[sample] for sample in range(len(tiles))):
        counts = label != IGNORE
        torch.testing.assert_close(image[0][counts] * 100 - 1, label[counts].float())
        seen += label[counts].tolist()
    assert sorted(seen) == list(range(height * width))


def test_training_takes_one_square_a_tile(make_tiles: MakeTiles) -> None:
    tiles = TileDataset(make_tiles((20, 20), (6, 30)), TAXONOMY, PLAIN, 8, train=True)
    assert len(tiles) == 2
    full, choice = random_tile(0, 20, 20)
    places = set()
    for seed in range(20):
        image, label = tiles[0, seed]
        found = [
            (top, left)
            for top in range(13)
            for left in range(13)
            if np.array_equal(full[:, top : top + 8, left : left + 8], image)
        ]
        assert len(found) == 1
        (top, left) = found[0]
        np.testing.assert_array_equal(label, INDEX[choice[top : top + 8, left : left + 8]])
        places.add(found[0])
    assert len(places) > 10


def test_a_training_square_is_repeatable_by_its_seed(make_tiles: MakeTiles) -> None:
    tiles = TileDataset(make_tiles((20, 20)), TAXONOMY, PLAIN, 8, train=True, augmented=True)
    first, again, other = tiles[0, 5], tiles[0, 5], tiles[0, 6]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_training_pads_a_tile_that_is_smaller_than_a_sample(make_tiles: MakeTiles) -> None:
    tiles = TileDataset(make_tiles((6, 30)), TAXONOMY, PLAIN, 8, train=True)
    image, label = tiles[0, 1]
    assert (image[:, 6:] == 0).all() and (image[:, :6] > 0).all()
    assert (label[6:] == IGNORE).all()


def test_a_sampled_key_is_one_that_the_dataset_takes(make_tiles: MakeTiles) -> None:
    tiles = TileDataset(make_tiles((9, 9), (9, 9), (9, 9)), TAXONOMY, PLAIN, 8, train=True, augmented=True)
    (batch,) = BatchShare(len(tiles), 4, seed=0, epoch=0)
    images, labels = tiles.collate([tiles[key] for key in batch])
    assert (images.shape, labels.shape) == ((3, 3, 8, 8), (3, 8, 8))


def test_a_batch_of_nothing_has_the_shape_and_type_of_any_other(make_tiles: MakeTiles) -> None:
    tiles = TileDataset(make_tiles((9, 9)), TAXONOMY, PLAIN, 8)
    for none, one in zip(tiles.collate([]), tiles.collate([tiles[0]]), strict=True):
        assert (none.shape, none.dtype) == ((0, *one.shape[1:]), one.dtype)
        assert torch.equal(torch.cat([none, one]), one)


# --- balance ---

PIXELS = np.array([[90, 10, 0], [100, 0, 0], [60, 0, 5], [0, 0, 0], [100, 0, 0]])  # the fourth is unlabelled


def test_chances_of_tiles_sum_to_1_and_unlabelled_tiles_have_none() -> None:
    probabilities = balanced_probabilities(PIXELS)
    assert probabilities.shape == (5,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert probabilities[3] == 0 and (probabilities[[0, 1, 2, 4]] > 0).all()


def test_tiles_with_rare_classes_are_drawn_more_often() -> None:
    probabilities = balanced_probabilities(PIXELS)
    assert min(probabilities[0], probabilities[2]) > 2 * max(probabilities[1], probabilities[4])
    assert probabilities[1] == probabilities[4]


def test_each_class_stands_for_an_equal_part_of_the_chances() -> None:
    # a class first, then a tile by its share of it: (90/350 + 10/10 + 0) / 3, ...
    expected = [(90 / 350 + 1) / 3, (100 / 350) / 3, (60 / 350 + 1) / 3, 0, (100 / 350) / 3]
    assert balanced_probabilities(PIXELS) == pytest.approx(expected)


def test_a_class_without_pixels_changes_no_chance() -> None:
    assert balanced_probabilities(np.insert(PIXELS, 1, 0, axis=1)) == pytest.approx(balanced_probabilities(PIXELS))


def test_equal_tiles_have_equal_chances() -> None:
    assert balanced_probabilities(np.full((8, 3), 7)) == pytest.approx([1 / 8] * 8)


# --- what is refused ---


@pytest.mark.parametrize("gone", ["images", "labels"])
def test_a_tile_without_its_partner_is_refused_by_name(make_tiles: MakeTiles, tmp_path: Path, gone: str) -> None:
    args = make_tiles((8, 8), (8, 8))
    (tmp_path / "data" / gone / "train" / "tile_01.tif").unlink()
    with pytest.raises(DataError, match=r"tile_01\.tif") as caught:
        TileDataset(args, TAXONOMY, PLAIN, 8)
    assert caught.value.exit_code == 4 and caught.value.hint


def test_a_missing_folder_is_refused_by_its_key(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((8, 8))
    shutil.rmtree(tmp_path / "data/labels")
    with pytest.raises(DataError, match="root_path_2"):
        TileDataset(args, TAXONOMY, PLAIN, 8)
    with pytest.raises(DataError, match="root_path_1"):
        TileDataset(FolderArgs(), TAXONOMY, PLAIN, 8)


def test_a_folder_without_tiles_is_refused(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((8, 8))
    for path in (tmp_path / "data").rglob("*.tif"):
        path.unlink()
    with pytest.raises(DataError, match="holds no tiles"):
        TileDataset(args, TAXONOMY, PLAIN, 8)


@pytest.mark.parametrize(("name", "bands"), [("labels", 1), ("images", 2)])
def test_tiles_that_do_not_fit_are_refused_by_name(
    make_tiles: MakeTiles, make_raster: MakeRaster, name: str, bands: int
) -> None:
    args = make_tiles((8, 8))
    make_raster(f"data/{name}/train/tile_00.tif", np.ones((bands, 8, 8), np.uint16))
    with pytest.raises(DataError, match=r"tile_00\.tif") as caught:
        TileDataset(args, TAXONOMY, PLAIN, 8)[0]
    assert caught.value.hint == "tile the scenes again"


def test_a_damaged_tile_is_refused_by_name(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((64, 64))
    path = tmp_path / "data/labels/train/tile_00.tif"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"tile_00\.tif"):
        TileDataset(args, TAXONOMY, PLAIN, 8)[0]


# --- describe ---

MANIFEST = Manifest(taxonomy=TAXONOMY, bands=PLAIN, dtype="uint8", gsd_m=30.0)


def test_a_dataset_that_describes_itself_is_believed(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((8, 8))
    write_manifest(tmp_path / "data", MANIFEST)
    assert describe(args) == MANIFEST


def test_tiles_without_a_description_are_measured(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((8, 9), (12, 5), classes=["one", "two"])
    for path in (tmp_path / "data/images/train").iterdir():
        with rasterio.open(path, "r+") as target:
            target.descriptions = ("red", "", "nir")
    manifest = describe(args)
    pixels = np.concatenate([random_tile(n, *size)[0].reshape(3, -1) for n, size in enumerate([(8, 9), (12, 5)])], 1)
    assert [band.name for band in manifest.bands] == ["red", "band_2", "nir"]
    np.testing.assert_allclose([band.mean for band in manifest.bands], pixels.mean(axis=1))
    np.testing.assert_allclose([band.std for band in manifest.bands], pixels.std(axis=1))
    assert (manifest.dtype, manifest.gsd_m) == ("uint8", pytest.approx(30))
    assert (manifest.taxonomy.names, manifest.taxonomy.codes) == (["one", "two"], [0, 1])


def test_a_class_table_that_contradicts_the_dataset_is_refused(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((8, 8), classes=["water", "forest"])
    write_manifest(tmp_path / "data", MANIFEST)
    with pytest.raises(ConfigError, match="water, forest") as caught:
        describe(args)
    assert caught.value.exit_code == 3
    assert "forest, background, water" in str(caught.value)


def test_a_class_table_that_agrees_with_the_dataset_is_fine(make_tiles: MakeTiles, tmp_path: Path) -> None:
    args = make_tiles((8, 8), classes=["water", "forest"])
    same = Manifest(taxonomy=from_names(["water", "forest"]), bands=PLAIN, dtype="uint8", gsd_m=None)
    write_manifest(tmp_path / "data", same)
    assert describe(args) == same


def test_tiles_without_description_and_class_table_are_refused(make_tiles: MakeTiles) -> None:
    with pytest.raises(ConfigError, match="classes") as caught:
        describe(make_tiles((8, 8)))
    assert caught.value.exit_code == 3


# --- several folders, and pictures without a position ---


def dataset_of(folder: Path, make_raster: MakeRaster, values: NDArray[np.uint8], **changes: Any) -> Path:
    """A dataset of one training tile, described as `cwsam tile` does."""
    name = folder.name
    make_raster(f"{name}/images/train/tile.tif", values)
    make_raster(f"{name}/labels/train/tile.tif", np.full(values.shape[1:], 3, np.uint8))
    bands = tuple(
        Band(name=f"b{i}", mean=float(band.mean()), std=float(band.std()) or 1.0) for i, band in enumerate(values)
    )
    taxonomy = changes.get("taxonomy", TAXONOMY)
    described = Manifest(
        taxonomy=taxonomy,
        bands=changes.get("bands", bands),
        dtype="uint8",
        gsd_m=30,
        tiles={"train": 1},
        pixels={"train": [*[0] * (len(taxonomy) - 1), values[0].size]},
    )
    write_manifest(folder, described)
    return folder


def folders(*roots: Path) -> FolderArgs:
    return FolderArgs(
        root_path_1=[str(root / "images" / "train") for root in roots],
        root_path_2=[str(root / "labels" / "train") for root in roots],
    )


def test_folders_with_few_labels_weigh_by_their_pixels(make_raster: MakeRaster, tmp_path: Path) -> None:
    """All pixels of a training tile are normalised, whether they have labels or not."""
    values = [np.full((2, 8, 8), value, np.uint8) for value in (10, 30)]
    roots = [dataset_of(tmp_path / name, make_raster, own) for name, own in zip("ab", values, strict=True)]
    for root, labelled in zip(roots, (2, 64), strict=True):
        write_manifest(root, replace(read_manifest(root), pixels={"train": [0, 0, labelled]}, valid_pixels=64))
    assert [band.mean for band in describe(folders(*roots)).bands] == [20, 20]


def test_statistics_of_several_folders_are_those_of_all_their_pixels(make_raster: MakeRaster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [
        rng.integers(low, high, (2, side, side)).astype(np.uint8) for low, high, side in ((1, 50, 8), (90, 250, 20))
    ]
    roots = [dataset_of(tmp_path / name, make_raster, own) for name, own in zip("ab", values, strict=True)]
    bands = describe(folders(*roots)).bands
    pixels = np.concatenate([own.reshape(2, -1) for own in values], axis=1).astype(float)
    assert [band.mean for band in bands] == pytest.approx(pixels.mean(axis=1))
    assert [band.std for band in bands] == pytest.approx(pixels.std(axis=1))
    tiles = TileDataset(folders(*roots), TAXONOMY, bands, 8, train=True)
    assert [pair[0].parents[2].name for pair in tiles.pairs] == ["a", "b"], "tiles of one name stay apart"
    left = TileDataset(folders(*roots), TAXONOMY, bands, 8, train=True, without={tiles.pairs[1][0]})
    assert left.pairs == tiles.pairs[:1]


def test_folders_that_differ_in_classes_or_bands_are_refused(make_raster: MakeRaster, tmp_path: Path) -> None:
    values = np.ones((2, 8, 8), np.uint8)
    first = dataset_of(tmp_path / "a", make_raster, values)
    other = dataset_of(tmp_path / "b", make_raster, values, taxonomy=from_names(["one", "two"]))
    with pytest.raises(ConfigError, match="other classes") as caught:
        describe(folders(first, other))
    assert str(other) in str(caught.value) and caught.value.hint
    swapped = dataset_of(tmp_path / "c", make_raster, values, bands=PLAIN[:2])
    with pytest.raises(ConfigError, match="other bands"):
        describe(folders(first, swapped))


def test_as_many_folders_of_labels_as_of_images_are_needed() -> None:
    with pytest.raises(ValueError, match="number of folders"):
        FolderArgs(root_path_1=["a", "b"], root_path_2="c")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_without_a_position_are_samples(tmp_path: Path, suffix: str) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    image, choice = random_tile(0, 16, 16)
    codes = CODES[choice]
    Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "images" / f"a{suffix}")
    Image.fromarray(codes).save(tmp_path / "labels" / "a.png")
    args = FolderArgs(
        root_path_1=str(tmp_path / "images"), root_path_2=str(tmp_path / "labels"), classes=["a", "b", "c", "d"]
    )
    manifest = describe(args)
    assert len(manifest.bands) == 3 and manifest.dtype == "uint8" and manifest.gsd_m is None
    (picture, index) = TileDataset(args, TAXONOMY, manifest.bands, 16)[0]
    assert picture.shape == (3, 16, 16)
    assert index.numpy().tolist() == INDEX[choice].tolist()


def test_labels_in_colours_are_refused(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.ones((8, 8, 3), np.uint8)).save(tmp_path / kind / "a.png")
    args = FolderArgs(root_path_1=str(tmp_path / "images"), root_path_2=str(tmp_path / "labels"))
    with pytest.raises(DataError, match=r"a\.png` has 3 bands"):
        TileDataset(args, TAXONOMY, PLAIN, 8)[0]
