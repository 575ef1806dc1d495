"""The smallest mapping unit, against the rule carried out on a whole map by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cwsam_cli.maps.codes import NODATA, Strip
from cwsam_cli.regions import sieve
from cwsam_cli.regions.sieve import Weights, choose_codes, drop_holes, recode, select_holes

modest = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Codes = NDArray[np.int32]

sparse = arrays(
    np.int32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([1, 1, 2, 2, 3, 4, NODATA]),
)


@st.composite
def dense(draw: st.DrawFn) -> Codes:
    """What drawn arrays seldom are: different everywhere, large enough for regions that prove to be one."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    codes = rng.integers(1, draw(st.integers(2, 5)) + 1, draw(st.tuples(st.integers(8, 16), st.integers(4, 10))))
    codes[rng.random(codes.shape) < draw(st.sampled_from([0, 0.1]))] = NODATA
    return codes.astype(np.int32)


maps = sparse | dense()


@pytest.fixture(autouse=True, params=[0, sieve.PATIENCE], ids=["every strip settles", "strips wait"])
def patience(request: pytest.FixtureRequest) -> Iterator[None]:
    usual, sieve.PATIENCE = sieve.PATIENCE, request.param
    yield
    sieve.PATIENCE = usual


def sieved(codes: Codes, minimum: int, rows: int) -> Codes:
    height, width = codes.shape
    weights = Weights(*(np.ones(n, np.int64) for n in (height, height + 1, height)))
    strips = [Strip(codes[top : top + rows]) for top in range(0, height, rows)]
    fates = choose_codes(strips, width, weights, minimum)
    return np.concatenate([strip.codes for strip in recode(strips, width, fates)])


def labelled(codes: Codes) -> NDArray[np.int64]:
    """4-connected regions, numbered by their first pixels."""
    labels = np.full(codes.shape, -1)
    count = 0
    for y, x in np.argwhere(codes != NODATA):
        if labels[y, x] >= 0:
            continue
        stack = [(y, x)]
        while stack:
            y, x = stack.pop()
            if labels[y, x] < 0:
                labels[y, x] = count
                for r, c in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    if 0 <= r < len(codes) and 0 <= c < codes.shape[1] and codes[r, c] == codes[y, x]:
                        stack.append((r, c))
        count += 1
    return labels


def by_hand(codes: Codes, minimum: int) -> Codes:
    """Smallest first, to the neighbour with the longest border; then one with small equals."""
    labels = labelled(codes)
    members = {label: {label} for label in range(labels.max() + 1)}
    code = {label: int(codes[labels == label][0]) for label in members}
    size = {label: int((labels == label).sum()) for label in members}
    edges = [
        ((2 * (y * 1000 + x) + side), labels[y, x], labels[r, c])
        for y, x in np.argwhere(labels >= 0)
        for side, (r, c) in enumerate(((y - 1, x), (y, x - 1)))
        if r >= 0 and c >= 0 and labels[r, c] >= 0 and labels[r, c] != labels[y, x]
    ]
    stuck: set[int] = set()

    def borders(label: int) -> dict[int, tuple[int, int]]:
        home = {piece: group for group, pieces in members.items() for piece in pieces}
        found: dict[int, list[int]] = {}
        for place, one, other in edges:
            pair = home[int(one)], home[int(other)]
            if label in pair and pair[0] != pair[1]:
                found.setdefault(pair[0] if pair[1] == label else pair[1], []).append(place)
        return {group: (len(places), -min(places)) for group, places in found.items()}

    def absorb(group: int, other: int) -> None:
        members[group] |= members.pop(other)
        size[group] += size.pop(other)

    while True:
        small = [label for label in members if size[label] < minimum and label not in stuck]
        if not small:
            break
        region = min(small, key=lambda label: (size[label], label))
        beside = borders(region)
        if not beside:
            stuck.add(region)
            continue
        best = max(beside, key=lambda group: beside[group])
        absorb(best, region)
        equals = [group for group in beside if group != best and code[group] == code[best]]
        was_large = size[best] >= minimum
        for group in equals:
            if size[group] < minimum:
                absorb(best, group)
        large = [group for group in equals if group in members and size[group] >= minimum]
        if not was_large and large:
            absorb(max(large, key=lambda group: beside[group]), best)
    result = codes.copy()
    for group, pieces in members.items():
        for piece in pieces:
            result[labels == piece] = code[group]
    return result


@modest
@given(maps, st.integers(1, 12), st.integers(1, 12))
def test_small_regions_join_as_the_rule_says_by_any_strip_height(codes: Codes, minimum: int, rows: int) -> None:
    np.testing.assert_array_equal(sieved(codes, minimum, rows), by_hand(codes, minimum))


@modest
@given(maps, st.integers(1, 12), st.integers(1, 12))
def test_what_stays_small_has_nobody_beside_it(codes: Codes, minimum: int, rows: int) -> None:
    result = sieved(codes, minimum, rows)
    np.testing.assert_array_equal(result == NODATA, codes == NODATA)
    labels = np.pad(labelled(result), 1, constant_values=-1)
    for label in range(labels.max() + 1):
        own = labels == label
        if own.sum() < minimum:
            around = np.roll(own, 1, 0) | np.roll(own, -1, 0) | np.roll(own, 1, 1) | np.roll(own, -1, 1)
            assert (labels[around & ~own] == -1).all()


@modest
@given(maps, st.integers(1, 12))
def test_nodata_inside_is_filled_from_the_longest_border_and_nodata_at_the_edge_stays(codes: Codes, rows: int) -> None:
    height, width = codes.shape
    weights = Weights(*(np.ones(n, np.int64) for n in (height, height + 1, height)))
    strips = [Strip(codes[top : top + rows]) for top in range(0, height, rows)]
    fates = choose_codes(select_holes(strips), width, weights, 1)
    result = np.concatenate([strip.codes for strip in drop_holes(recode(select_holes(strips), width, fates))])
    np.testing.assert_array_equal(result[codes != NODATA], codes[codes != NODATA])
    gaps = labelled(np.where(codes == NODATA, 1, NODATA).astype(np.int32))
    regions = labelled(codes)
    for label in range(gaps.max() + 1):
        hole = gaps == label
        if hole[0].any() or hole[-1].any() or hole[:, 0].any() or hole[:, -1].any():
            assert (result[hole] == NODATA).all()
            continue
        (code,) = set(result[hole].tolist())
        beside = [
            (regions[r, c], codes[r, c])
            for y, x in np.argwhere(hole)
            for r, c in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            if not hole[r, c]
        ]
        lengths = {pair: beside.count(pair) for pair in beside}
        assert code in {pair[1] for pair, length in lengths.items() if length == max(lengths.values())}


@modest
@given(maps)
def test_a_minimum_of_one_pixel_changes_nothing(codes: Codes) -> None:
    np.testing.assert_array_equal(sieved(codes, 1, 4), codes)
