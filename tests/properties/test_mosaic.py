"""Overlapping maps, against each pixel's classes put side by side by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cwsam_cli.mosaic.merge import Merge, OverlapAgreement
from cwsam_cli.mosaic.request import Rule
from cwsam_cli.taxonomy import IGNORE

modest = settings(max_examples=150, deadline=None, database=None)
SHAPE = 5, 6
Codes = NDArray[np.uint8]
Piece = tuple[tuple[slice, slice], Codes, Codes]


@st.composite
def pieces(draw: st.DrawFn) -> list[Piece]:
    """Rectangles with few classes, holes and confidences, in the order in which they are merged."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    found = []
    for _ in range(draw(st.integers(1, 7))):
        (top, bottom), (left, right) = (sorted(rng.choice(size + 1, 2, replace=False)) for size in SHAPE)
        shape = bottom - top, right - left
        codes = rng.choice([0, 1, 2, 254, IGNORE], shape).astype(np.uint8)
        confidence = rng.choice([0, 30, 60, 100, IGNORE], shape).astype(np.uint8)
        found.append(((slice(top, bottom), slice(left, right)), codes, confidence))
    return found


def by_hand(rule: Rule, shown: list[tuple[int, int]]) -> int:
    """The class of one pixel from the (code, confidence) of the maps that show it."""
    codes = [code for code, _ in shown]
    if not codes:
        return IGNORE
    if rule == "vote":
        votes = Counter(codes)
        return next(code for code in codes if votes[code] == max(votes.values()))
    if rule == "confidence":
        sure = [-1 if confidence == IGNORE else confidence for _, confidence in shown]
        return codes[sure.index(max(sure))]
    return codes[0 if rule == "first" else -1]


@pytest.mark.parametrize("rule", ["first", "last", "date", "vote", "confidence"])
@modest
@given(pieces())
def test_every_rule_chooses_as_by_hand_and_agreement_is_counted_exactly(rule: Rule, given_pieces: list[Piece]) -> None:
    merge, agreement = Merge(rule, *SHAPE), OverlapAgreement()
    for place, codes, confidence in given_pieces:
        merge.add(place, codes, confidence if rule == "confidence" else None)
    result = merge.result()
    agreement.add(result, merge.is_overlap, merge.is_disputed)
    overlap, agreed = np.zeros(256, int), np.zeros(256, int)
    for y, x in np.ndindex(SHAPE):
        shown = []
        for (rows, columns), codes, confidence in given_pieces:
            if rows.start <= y < rows.stop and columns.start <= x < columns.stop:
                at = y - rows.start, x - columns.start
                if codes[at] != IGNORE:
                    shown.append((int(codes[at]), int(confidence[at])))
        assert result[y, x] == by_hand(rule, shown)
        if len(shown) > 1:
            overlap[result[y, x]] += 1
            agreed[result[y, x]] += len({code for code, _ in shown}) == 1
    np.testing.assert_array_equal(agreement.overlap, overlap)
    np.testing.assert_array_equal(agreement.agreed, agreed)
