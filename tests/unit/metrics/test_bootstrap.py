"""Intervals by spatial block hold as often as they say."""

import numpy as np
import pytest

from cwsam_cli.metrics import bootstrap as module
from cwsam_cli.metrics.bootstrap import Arrays, bootstrap


def share(sums: Arrays) -> Arrays:
    return {"share": sums["right"] / sums["pixels"]}


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    right = rng.normal(60, 10, 400)
    low, high = bootstrap({"right": right, "pixels": np.full(400, 100.0)}, share)["share"]
    spread = 1.96 * right.std() / np.sqrt(400) / 100
    assert low == pytest.approx(right.mean() / 100 - spread, abs=spread / 10)
    assert high == pytest.approx(right.mean() / 100 + spread, abs=spread / 10)


def test_intervals_of_30_blocks_cover_the_truth_in_about_95_per_cent_though_pixels_are_alike_within_blocks() -> None:
    rng, covered, covered_by_pixels = np.random.default_rng(1), 0, 0
    for _ in range(300):
        right = rng.beta(6, 4, 30) * 1000  # 0.6 of all ground is right, but whole blocks are better or worse
        low, high = bootstrap({"right": right, "pixels": np.full(30, 1000.0)}, share, draws=400)["share"]
        covered += bool(low <= 0.6 <= high)
        mean = right.sum() / 30_000
        covered_by_pixels += bool(abs(mean - 0.6) <= 1.96 * np.sqrt(mean * (1 - mean) / 30_000))
    assert 0.90 <= covered / 300 <= 0.98
    assert covered_by_pixels / 300 < 0.5


def test_chunks_do_not_change_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"right": np.arange(12.0).reshape(6, 2), "pixels": np.full((6, 2), 20.0)}
    whole = bootstrap(counts, share)["share"]
    monkeypatch.setattr(module, "_VALUES", 100)
    assert bootstrap(counts, share)["share"].tolist() == whole.tolist()


def test_one_block_gives_no_interval() -> None:
    assert np.isnan(bootstrap({"right": np.array([3.0]), "pixels": np.array([5.0])}, share)["share"]).all()


def test_a_figure_that_some_draws_lack_is_taken_from_the_others() -> None:
    counts = {"right": np.array([4.0, 0, 0, 0]), "pixels": np.array([8.0, 0, 0, 0])}

    def compute(sums: Arrays) -> Arrays:
        with np.errstate(invalid="ignore"):
            return share(sums)

    assert bootstrap(counts, compute)["share"].tolist() == [0.5, 0.5]
