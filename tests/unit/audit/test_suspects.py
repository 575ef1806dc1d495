"""Tiles with wrong labels come first among the suspects, and no tile judges itself."""

from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from cwsam_cli.audit.suspects import Classifier, Sample, Suspect, draw_sample, judge_samples, write_suspects
from cwsam_cli.audit.tiles import Pair
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid

SIDE = 16
UTM = CRS.from_epsg(32617)


def grid(col: int = 0, crs: CRS | None = UTM) -> Grid:
    place = Affine(10, 0, 600_000 + col * 160, 0, -10, 4_000_000) if crs is not None else Affine.identity()
    return Grid(crs, place, SIDE, SIDE)


def tile(seed: int, *, wrong: bool = False, labels: int = SIDE * SIDE) -> Sample:
    """A tile of three classes; their brightness overlaps a little. Wrong labels are those of the next class."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, 4, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    image = codes * np.array([40, 60])[:, None, None] + rng.normal(0, 12, (2, SIDE, SIDE))
    if wrong:
        codes = (codes % 3 + 1).astype(np.uint8)
    labelled = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) < labels
    full = np.ones((SIDE, SIDE), bool)
    return draw_sample("train", Path(f"t{seed}.tif"), Pair(image, full, codes, labelled, grid()), seed)


def test_planted_errors_come_first() -> None:
    wrong = {3, 17, 29}
    samples = [tile(seed, wrong=seed in wrong) for seed in range(40)]
    shares, seen = judge_samples(samples, [f"block {number // 2}" for number in range(40)])
    assert set(np.argsort(shares)[-3:].tolist()) == wrong
    assert min(shares[number] for number in wrong) > 0.8
    assert max(share for number, share in enumerate(shares) if number not in wrong) < 0.4
    assert (seen[3] % 3 + 1 == samples[3].codes).mean() > 0.8, "the classifier sees the right classes"


def test_a_block_does_not_teach_its_own_classifier() -> None:
    samples = [tile(seed, wrong=seed < 5) for seed in range(15)]
    apart, _ = judge_samples(samples, ["wrong"] * 5 + [f"right {number}" for number in range(10)])
    assert min(apart[:5]) > 0.8, "the wrong labels are equal to each other, but of one block"


def test_one_block_alone_gives_no_suspects() -> None:
    samples = [tile(seed, wrong=seed == 0) for seed in range(5)]
    assert judge_samples(samples, ["a"] * 5)[0] == [0.0] * 5


def test_unlabelled_and_invalid_pixels_are_not_drawn() -> None:
    assert len(tile(0, labels=7).codes) == 7
    assert tile(0, labels=0).features.shape == (0, 6)


@pytest.mark.parametrize("values", ["equal bands", "constant band"])
def test_odd_bands_do_not_stop_the_classifier(values: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 3, 300)
    band = codes + rng.normal(0, 0.1, 300)
    other = band if values == "equal bands" else np.ones(300)
    features = np.stack([band, other], axis=1).astype(np.float32)
    assert (Classifier.learn(features, codes).classify(features) == codes).all()


def test_a_class_of_one_pixel_is_no_error() -> None:
    rng = np.random.default_rng(0)
    codes: NDArray[np.int64] = np.array([1] * 100 + [2] * 100 + [9])
    features = (codes[:, None] + rng.normal(0, 0.1, (201, 3))).astype(np.float32)
    assert (Classifier.learn(features, codes).classify(features)[:200] == codes[:200]).all()


def suspect(number: int) -> Suspect:
    return Suspect(image=f"images/t{number}.tif", split="val", disagreement=0.9, label="a", looks_like="b")


@pytest.mark.parametrize("systems", [(UTM, UTM), (UTM, CRS.from_epsg(32618)), ()])
def test_the_layer_has_the_outlines(tmp_path: Path, systems: tuple[CRS, ...]) -> None:
    path = tmp_path / "suspects.gpkg"
    write_suspects([(suspect(number), grid(number, crs)) for number, crs in enumerate(systems)], path, overwrite=False)
    frame = geopandas.read_file(path)
    assert pyogrio.list_layers(path)[0, 0] == "suspects"
    assert frame["rank"].tolist() == list(range(1, len(systems) + 1)) and "looks_like" in frame
    if systems:
        assert frame.to_crs(32617).geometry[0].bounds == pytest.approx(
            (600_000, 3_999_840, 600_160, 4_000_000), abs=0.1
        )
        assert frame.crs.to_epsg() == (32617 if systems[0] == systems[1] else 4326)


def test_tiles_without_a_position_go_to_a_table(tmp_path: Path) -> None:
    found = [(suspect(1), grid(crs=None))]
    with pytest.raises(DataError, match="no position"):
        write_suspects(found, tmp_path / "suspects.gpkg", overwrite=False)
    assert not (tmp_path / "suspects.gpkg").exists()
    write_suspects(found, tmp_path / "suspects.csv", overwrite=False)
    assert pandas.read_csv(tmp_path / "suspects.csv")["tile"].tolist() == ["t1"]
    with pytest.raises(UsageError):
        write_suspects(found, tmp_path / "suspects.csv", overwrite=False)
