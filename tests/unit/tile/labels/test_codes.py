"""Codes of labels are counted, with the two codes that stand for no class."""

import numpy as np

from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED, count_codes


def test_a_count_has_the_place_of_its_code_also_where_the_code_is_negative() -> None:
    codes = np.array([[0, 254, 254, 7], [NO_LABEL, NO_LABEL, NO_LABEL, UNEXPECTED]], np.int16)
    counts = count_codes(codes[:, :])
    assert {code: int(counts[code]) for code in (0, 7, 254, NO_LABEL, UNEXPECTED, 1, 255)} == {
        **{0: 1, 7: 1, 254: 2, NO_LABEL: 3, UNEXPECTED: 1},
        **{1: 0, 255: 0},
    }
    assert counts.sum() == codes.size
