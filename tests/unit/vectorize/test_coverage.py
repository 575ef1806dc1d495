"""The proof finds what is wrong."""

import numpy as np
import pytest
import shapely

from cwsam_cli.maps.codes import Strip
from cwsam_cli.vectorize.coverage import Coverage
from cwsam_cli.vectorize.polygonize import Regions, polygonize


def regions(seed: int = 0) -> Regions:
    codes = np.random.default_rng(seed).integers(0, 4, (20, 20)).astype(np.int32)
    return Regions.concatenate(list(polygonize([Strip(codes)], 20, 20, outline=True)))


def proof(xy: np.ndarray, whole: Regions, batches: int = 1) -> Coverage:
    coverage = Coverage()
    for part in np.array_split(np.arange(len(whole)), batches):
        taken = Regions(**{name: getattr(whole, name) for name in whole.__slots__} | {"xy": xy}).take(part)
        coverage.add_rings(taken.xy, taken.ring_offsets)
        coverage.add_polygons(taken.polygons())
    coverage.add_edges(whole.outline[:, 0], whole.outline[:, 1])
    return coverage


@pytest.mark.parametrize("batches", [1, 3, 10])
def test_a_coverage_is_found_whole_in_any_batches(batches: int) -> None:
    whole = regions()
    found = proof(whole.xy, whole, batches)
    assert (found.unmatched, found.invalid) == (0, 0)
    assert found.edges == len(whole.xy) - len(whole.ring_offsets) + 1


def test_a_gap_as_small_as_a_rounding_is_found() -> None:
    whole = regions()
    xy = whole.xy.copy()
    inner = np.flatnonzero((xy[1:-1] > 0).all(axis=1) & (xy[1:-1] < 20).all(axis=1))[0] + 1
    xy[inner] += 1e-12
    assert proof(xy, whole).unmatched > 0


def test_a_missing_and_a_doubled_polygon_are_found() -> None:
    whole = regions()
    for chosen in (np.arange(1, len(whole)), np.append(np.arange(len(whole)), 0)):
        taken = whole.take(chosen)
        assert proof(taken.xy, taken).unmatched >= 4


def test_a_polygon_that_crosses_itself_is_found() -> None:
    coverage = Coverage()
    coverage.add_polygons(np.array([shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])]))
    assert coverage.invalid == 1


def test_a_class_with_another_area_is_found() -> None:
    coverage = Coverage()
    coverage.mapped |= {1: 100.0, 2: 50.0}
    coverage.add_areas(np.array([1, 1, 2], np.int32), np.array([60.0, 40.0, 50.0]))
    assert coverage.area_error == 0
    coverage.add_areas(np.array([2], np.int32), np.array([0.5]))
    assert coverage.area_error == pytest.approx(0.5 / 50.5)
    coverage.mapped[3] = 1.0
    assert coverage.area_error == 1
