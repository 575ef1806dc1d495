"""Classes are equal if their names are; their codes may differ."""

import numpy as np
import pytest

from cwsam_cli.errors import DataError
from cwsam_cli.mosaic.classes import recoding, unite
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy


def table(*classes: tuple[int, str]) -> Taxonomy:
    return Taxonomy(classes=tuple(LandCoverClass(code=code, name=name, color="#000000") for code, name in classes))


def test_the_first_table_comes_first_and_later_ones_add_their_classes() -> None:
    common = unite([("a", table((1, "water"), (2, "forest"))), ("b", table((7, "Forest "), (3, "ice"), (1, "WATER")))])
    assert [(entry.code, entry.name) for entry in common.classes] == [(1, "water"), (2, "forest"), (3, "ice")]


def test_codes_go_to_the_codes_of_equal_names() -> None:
    own = table((7, "forest"), (3, "ice"), (1, "water"))
    codes = recoding(own, unite([("a", table((1, "water"), (2, "forest"))), ("b", own)]))
    assert {code: int(codes[code]) for code in (1, 3, 7, 255)} == {1: 1, 3: 3, 7: 2, 255: 255}
    assert (codes[[0, 2, 254]] == -1).all()
    assert codes.shape == (256,) and codes.dtype == np.int16


def test_one_code_for_two_new_classes_is_refused() -> None:
    with pytest.raises(DataError, match="code 3 is `snow` in `c` and `ice` in `b`"):
        unite([("a", table((1, "water"))), ("b", table((3, "ice"))), ("c", table((3, "snow")))])
