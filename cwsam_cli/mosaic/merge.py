"""Choose a class for each pixel of some rows, from the maps that show it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.mosaic.request import Rule
from cwsam_cli.taxonomy import IGNORE

Codes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Place = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class OverlapAgreement:
    """How often maps agree where they overlap. Pixels are counted by the code that the mosaic shows."""

    overlap: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels that two or more maps show."""
    agreed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Those of them where all these maps show the same class."""

    def add(self, codes: Codes, is_overlap: Bools, is_disputed: Bools) -> None:
        """Count some rows (H, W)."""
        shown = codes[is_overlap]
        if shown.size:
            self.overlap[:] += np.bincount(shown, minlength=256)
            self.agreed[:] += np.bincount(shown[~is_disputed[is_overlap]], minlength=256)


class Merge:
    """Rows of the mosaic while maps are added to them, in the order that the rule needs.

    Memory: three bytes per pixel. `confidence` takes one more, and `vote` takes two more and another
    three for each further class that maps show at one pixel.
    """

    def __init__(self, rule: Rule, rows: int, width: int) -> None:
        shape = rows, width
        self.rule = rule
        self.codes: Codes = np.full(shape, IGNORE, np.uint8)
        """For `vote`, the class of the first map."""
        self.is_overlap: Bools = np.zeros(shape, bool)
        self.is_disputed: Bools = np.zeros(shape, bool)
        self._confidence: Codes = np.zeros(shape if rule == "confidence" else (0, 0), np.uint8)
        self._ballots = [(self.codes, np.zeros(shape, np.uint16))] if rule == "vote" else []

    def add(self, place: Place, codes: Codes, confidence: Codes | None = None) -> None:
        """Add a map.

        Args:
            place: the rows and columns that the map shows.
            codes: its codes (h, w) there.
            confidence: its confidence (h, w) in per cent, 255 where it is unknown.
        """
        shown = self.codes[place]
        valid, free = codes != IGNORE, shown == IGNORE
        again = valid & ~free
        if again.any():
            self.is_overlap[place] |= again
            self.is_disputed[place] |= again & (codes != shown)
        if self.rule == "vote":
            self._vote(place, codes, valid)
            return
        if self.rule in ("last", "date"):
            take = valid
        elif self.rule == "first":
            take = valid & free
        else:
            assert confidence is not None
            own, best = confidence + np.uint8(1), self._confidence[place]  # 255 becomes 0, the lowest
            take = valid & (free | (own > best))
            np.copyto(best, own, where=take)
        np.copyto(shown, codes, where=take)

    def _vote(self, place: Place, codes: Codes, waiting: Bools) -> None:
        """Count a map's votes. The ballots of a pixel are in the order in which maps showed their classes first."""
        number = 0
        while waiting.any():
            if number == len(self._ballots):
                shape = self.codes.shape
                self._ballots.append((np.full(shape, IGNORE, np.uint8), np.zeros(shape, np.uint16)))
            own, votes = (array[place] for array in self._ballots[number])
            counted = waiting & ((own == codes) | (own == IGNORE))
            np.copyto(own, codes, where=counted)
            votes += counted
            waiting = waiting & ~counted
            number += 1

    def result(self) -> Codes:
        """Return the codes (H, W). Of classes with equal votes, the one of the earliest map wins."""
        if self._ballots:
            most = self._ballots[0][1]
            for own, votes in self._ballots[1:]:
                more = votes > most
                np.copyto(self.codes, own, where=more)
                np.copyto(most, votes, where=more)
        return self.codes
