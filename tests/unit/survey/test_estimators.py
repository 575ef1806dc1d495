"""Estimates agree with the worked examples of their sources."""

import numpy as np
import pytest

from cwsam_cli.survey.estimators import Estimates, Units, estimate

MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES_PER_PIXEL = 0.09


@pytest.fixture(scope="module")
def olofsson() -> Estimates:
    """Olofsson et al. 2014, section 5: strata are the four map classes."""
    mapped, reference = np.repeat(np.indices((4, 4)).reshape(2, -1), MATRIX.ravel(), axis=1)
    return estimate(Units.of_points(mapped, mapped, reference, classes=4, has_class_strata=True, pixels=PIXELS))


@pytest.fixture(scope="module")
def stehman() -> Estimates:
    """Stehman 2014, section 4: ten units in each of four strata, which are not the map's classes."""
    mapped = "AAAAAAABBBABBBBBBBBBBBCCCCCCBBDDDDDDDDDD"
    reference = "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"
    one, other = (np.array(["ABCD".index(letter) for letter in text]) for text in (mapped, reference))
    pixels = np.array([40_000, 30_000, 20_000, 10_000])
    return estimate(
        Units.of_points(np.repeat(np.arange(4), 10), one, other, classes=4, has_class_strata=False, pixels=pixels)
    )


def test_the_areas_of_olofssons_example_are_the_published_ones(olofsson: Estimates) -> None:
    hectares = [entry.times(10_000_000 * HECTARES_PER_PIXEL) for entry in olofsson.proportions]
    assert [round(entry.value) for entry in hectares] == [21_158, 11_686, 285_770, 581_386]
    assert [round(entry.margin or 0) for entry in hectares] == [6_158, 3_756, 15_510, 16_282]


def test_the_accuracies_of_olofssons_example_are_the_published_ones(olofsson: Estimates) -> None:
    assert round(olofsson.overall.value, 2) == 0.95
    assert round(olofsson.overall.margin or 0, 2) == 0.02
    users = [(round(e.value, 2), round(e.margin or 0, 2)) for e in olofsson.users if e]
    assert users == [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    assert [round(e.value, 2) for e in olofsson.producers if e] == [0.75, 0.85, 0.93, 0.96]


def test_the_errors_of_producers_accuracies_follow_olofssons_formula(olofsson: Estimates) -> None:
    """Equation 7. The margins 0.23 and 0.01 that the paper prints for two classes do not follow from it."""
    totals, points = PIXELS[:, None], MATRIX.sum(axis=1)[:, None]
    shares = MATRIX / points
    real, spread = (totals * shares).sum(axis=0), totals**2 * shares * (1 - shares) / (points - 1)
    for j, entry in enumerate(olofsson.producers):
        assert entry is not None
        others = spread[:, j].sum() - spread[j, j]
        expected = ((1 - entry.value) ** 2 * spread[j, j] + entry.value**2 * others) ** 0.5 / real[j]
        assert entry.standard_error == pytest.approx(expected)


def test_the_matrix_holds_area_proportions(olofsson: Estimates) -> None:
    assert olofsson.matrix.sum() == pytest.approx(1)
    assert olofsson.matrix.sum(axis=1) == pytest.approx([0.02, 0.015, 0.32, 0.645])
    assert olofsson.matrix[0] == pytest.approx([0.0176, 0, 0.0013, 0.0011], abs=5e-5)


def test_stehmans_example_gives_the_published_estimates(stehman: Estimates) -> None:
    found = [
        stehman.overall,
        stehman.proportions[0],
        stehman.proportions[2],
        stehman.users[1],
        stehman.producers[1],
    ]
    published = [(0.63, 0.085), (0.35, 0.082), (0.20, 0.064), (0.574, 0.125), (0.794, 0.117)]
    for entry, (value, error) in zip(found, published, strict=True):
        assert entry is not None
        assert entry.value == pytest.approx(value, abs=5e-4)
        assert entry.standard_error == pytest.approx(error, abs=5e-4)


def test_the_finite_population_counts_where_a_stratum_is_largely_sampled() -> None:
    """Half of a stratum: the variance of the rest is half of that of a large one (Cochran 1977, section 2.6)."""
    strata, reference = np.zeros(40, int), np.repeat([0, 1], 20)
    half, large = (
        estimate(
            Units.of_points(strata, strata, reference, classes=2, has_class_strata=True, pixels=np.array([pixels]))
        )
        for pixels in (80, 10**6)
    )
    assert half.overall.standard_error == pytest.approx((large.overall.standard_error or 0) * 0.5**0.5)


def test_a_census_has_no_error() -> None:
    strata, mapped, reference = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 1, 0, 1, 0]])
    found = estimate(
        Units.of_points(strata, mapped, reference, classes=2, has_class_strata=True, pixels=np.array([3, 2]))
    )
    assert found.overall.value == pytest.approx(0.6)
    assert found.overall.standard_error == 0


def test_a_single_point_of_a_stratum_has_no_known_error() -> None:
    strata, mapped, reference = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]])
    found = estimate(
        Units.of_points(strata, mapped, reference, classes=3, has_class_strata=True, pixels=np.array([300, 200]))
    )
    assert found.overall.value == pytest.approx(0.6 * 2 / 3 + 0.4)
    for entry in (found.overall, *found.proportions, found.producers[1], found.users[1]):
        assert entry is not None
        assert (entry.standard_error, entry.low, entry.high) == (None, None, None)
    assert found.users[0] is not None and found.users[0].standard_error is not None
    assert (found.users[2], found.producers[2]) == (None, None)


def test_regions_are_no_class_strata_even_if_their_points_show_one_class_each() -> None:
    """The map may show class 0 in the second region, too, so its user's accuracy is less certain."""
    strata = np.repeat([0, 1], 30)
    reference = np.where(np.arange(60) % 10 == 0, 1 - strata, strata)
    pixels = np.array([10_000, 90_000])
    known, unknown = (
        estimate(Units.of_points(strata, strata, reference, classes=2, has_class_strata=own, pixels=pixels)).users[0]
        for own in (True, False)
    )
    assert known and unknown and known.low and unknown.low and unknown.value == known.value
    assert unknown.low < known.low - 0.1


def test_the_interval_of_an_accuracy_without_error_has_a_width() -> None:
    strata = mapped = reference = np.repeat([0, 1], 30)
    found = estimate(
        Units.of_points(strata, mapped, reference, classes=2, has_class_strata=True, pixels=np.array([10_000, 10_000]))
    )
    for entry in (found.overall, *found.users):
        assert entry is not None and entry.low is not None and entry.high is not None
        assert 0.9 < entry.low < 0.97 and entry.high == 1


def test_pixels_of_unequal_size_count_by_their_size() -> None:
    """All pixels of the map are sampled, so the estimates are the true shares of ground."""
    rng = np.random.default_rng(0)
    strata, reference, sizes = rng.integers(0, 2, 400), rng.integers(0, 2, 400), rng.uniform(1, 3, 400)
    pixels, areas = np.bincount(strata), np.bincount(strata, sizes)
    found = estimate(
        Units.of_points(
            strata, strata, reference, classes=2, has_class_strata=True, pixels=pixels, areas=areas, sizes=sizes
        )
    )
    assert found.proportions[1].value == pytest.approx(sizes[reference == 1].sum() / sizes.sum())
    assert found.overall.value == pytest.approx(sizes[reference == strata].sum() / sizes.sum())
    same = estimate(Units.of_points(strata, strata, reference, classes=2, has_class_strata=True, pixels=pixels * 10))
    scaled = estimate(
        Units.of_points(
            strata,
            strata,
            reference,
            classes=2,
            has_class_strata=True,
            pixels=pixels * 10,
            areas=pixels * 7.0,
            sizes=np.full(400, 0.7),
        )
    )
    assert scaled.proportions[0].standard_error == pytest.approx(same.proportions[0].standard_error)
