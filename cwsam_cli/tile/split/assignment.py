"""Choose the split of each block, so that every class is divided evenly and little ground is lost to buffers.

A block is any unit that goes to one split whole: a square of ground, a scene, or all scenes of one date.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.dataset.manifest import SPLITS

_CANDIDATES = 200
_SWAPS = 6000
_HEAT = 40
"""The first temperature is the first cost divided by this."""
_ABSENT_FROM_TRAINING = 1.0
_ABSENT_ELSEWHERE = 0.1


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Pairs of blocks near each other. Each array has one entry per pair, and both orders are pairs."""

    ours: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    theirs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    lost: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Share of our block that is lost to the buffer if it has to make way for theirs, 0 to 1."""


def assign(
    histograms: NDArray[np.int64],
    shares: Sequence[float],
    *,
    seed: int,
    neighbours: Neighbours | None = None,
    kept: Sequence[str | None] = (),
) -> list[str]:
    """Choose each block's split so that every class is divided as evenly as the blocks allow.

    The search begins with the best of 200 random divisions and swaps blocks. In the best division, each split's part
    of each class is closest to the split's share, no class is missing from a split, and the buffers cost little
    ground. A class has the weight of the square root of its size, so that rare classes count too.

    Args:
        histograms: labelled pixels by block and class (N, K).
        shares: of train, val and test; they need not sum to 1.
        seed: the seed of the search.
        neighbours: blocks near each other. Train makes way for val and test, and val for test.
        kept: the splits of blocks that an earlier run assigned, None for new blocks, (N,). Empty: all are new.

    Returns:
        `train`, `val` or `test` for each of the N blocks.
    """
    wanted = np.asarray(shares, float) / sum(shares)
    fixed = np.array(
        [-1 if split is None else SPLITS.index(split) for split in kept or [None] * len(histograms)], np.int64
    )
    counts = _sizes(len(histograms), wanted)
    found = _Search(histograms, wanted, neighbours or Neighbours(), is_ordered=True).run(counts, fixed, seed)
    return [SPLITS[i] for i in found]


def assign_folds(
    histograms: NDArray[np.int64],
    folds: int,
    *,
    seed: int,
    neighbours: Neighbours | None = None,
    kept: Sequence[int | None] = (),
) -> list[int]:
    """Divide blocks into folds of equal shares; see `assign`.

    Args:
        histograms: labelled pixels by block and class (N, K).
        folds: the number of folds.
        seed: the seed of the search.
        neighbours: blocks near each other.
        kept: the folds of blocks that an earlier run assigned, None for new blocks, (N,). Empty: all are new.

    Returns:
        The fold of each block, from 0.
    """
    wanted = np.full(folds, 1 / folds)
    counts = np.array([len(histograms) // folds + (fold < len(histograms) % folds) for fold in range(folds)])
    search = _Search(histograms, wanted, neighbours or Neighbours(), is_ordered=False)
    fixed = np.array([-1 if fold is None else fold for fold in kept or [None] * len(histograms)], np.int64)
    return search.run(counts, fixed, seed)


def _sizes(count: int, wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of blocks per split: rounded shares, at least one where the share is not 0, the rest train."""
    held_out = np.where(wanted[1:] > 0, np.maximum(1, np.rint(wanted[1:] * count)), 0).astype(np.int64)
    floor = 1 if wanted[0] > 0 else 0
    while held_out.sum() > count - floor:  # the larger first; test if equal, because training needs validation
        held_out[1 if held_out[1] >= held_out[0] else 0] -= 1
    return np.array([count - held_out.sum(), *held_out])


class _Search:
    """Simulated annealing: swap the parts of two blocks, and keep the division with the lowest cost.

    Args:
        histograms: labelled pixels by block and class (N, K).
        wanted: the share of each part; their sum is 1.
        neighbours: blocks near each other.
        is_ordered: whether a block makes way for later parts only, as splits do; else for all others, as folds do.
    """

    def __init__(
        self, histograms: NDArray[np.int64], wanted: NDArray[np.float64], neighbours: Neighbours, *, is_ordered: bool
    ) -> None:
        known = histograms[:, histograms.sum(axis=0) > 0]
        self.pixels = known.sum(axis=0)
        self.shares = known / self.pixels  # (N, K)
        self.weights = np.sqrt(self.pixels / self.pixels.sum())
        self.ground = histograms.sum(axis=1) / max(1, histograms.sum())
        self.wanted = wanted
        self.penalties = np.where(wanted > 0, _ABSENT_ELSEWHERE, 0.0)
        self.penalties[0] = _ABSENT_FROM_TRAINING if is_ordered else _ABSENT_ELSEWHERE
        self.is_ordered = is_ordered
        self.parts = 1 if is_ordered else max(1, len(wanted) - 1)
        self.neighbours = neighbours
        self.near: list[list[tuple[int, float]]] = [[] for _ in histograms]
        self.reverse: list[list[int]] = [[] for _ in histograms]
        for i, j, lost in zip(
            *(a.tolist() for a in (neighbours.ours, neighbours.theirs, neighbours.lost)), strict=True
        ):
            self.near[i].append((j, lost))
            self.reverse[j].append(i)

    def run(self, counts: NDArray[np.int64], fixed: NDArray[np.int64], seed: int) -> list[int]:
        """Search.

        Args:
            counts: the number of blocks of each part. Fixed blocks count too.
            fixed: the part of each block that may not change, or -1, (N,).
            seed: the seed.

        Returns:
            The part of each block.
        """
        rng = np.random.default_rng(seed)
        free = np.flatnonzero(fixed < 0)
        rest = np.maximum(0, counts - np.bincount(fixed[fixed >= 0], minlength=len(counts)))
        while rest.sum() > len(free):  # earlier blocks fill more than their share of a part
            rest[int(rest.argmax())] -= 1
        rest[0] += len(free) - rest.sum()
        labels = np.repeat(np.arange(len(counts)), rest)
        candidates = np.tile(fixed, (_CANDIDATES, 1))
        for row in candidates:
            row[free] = rng.permutation(labels)
        parts = min(candidates.tolist(), key=self._whole_cost)
        return self._improve(parts, free, rng)

    def _improve(self, parts: list[int], free: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
        if len({parts[i] for i in free.tolist()}) < 2:
            return parts
        kept = [self._kept(i, parts) for i in range(len(parts))]
        sums = self._sums(parts, kept)
        ground = float(np.dot(kept, self.ground))
        cost = self._cost(sums, ground)
        best, lowest, first = list(parts), cost, cost
        pairs = free[rng.integers(len(free), size=(_SWAPS, 2))].tolist()
        luck = -np.log(1 - rng.random(_SWAPS))
        for turn, (i, j) in enumerate(pairs):
            if parts[i] == parts[j]:
                continue
            parts[i], parts[j] = parts[j], parts[i]
            touched = list({i, j, *self.reverse[i], *self.reverse[j]})
            changed, left, before = sums.copy(), ground, [kept[t] for t in touched]
            for t, old in zip(touched, before, strict=True):
                was = parts[j] if t == i else parts[i] if t == j else parts[t]
                kept[t] = self._kept(t, parts)
                if kept[t] == old and was == parts[t]:
                    continue
                changed[was] -= self.shares[t] * old
                changed[parts[t]] += self.shares[t] * kept[t]
                left += (kept[t] - old) * self.ground[t]
            tried = self._cost(changed, left)
            heat = first / _HEAT * (1 - turn / _SWAPS) ** 2
            if tried <= cost + heat * luck[turn]:
                cost, sums, ground = tried, changed, left
                if cost < lowest - 1e-12:
                    best, lowest = list(parts), cost
            else:
                parts[i], parts[j] = parts[j], parts[i]
                for t, old in zip(touched, before, strict=True):
                    kept[t] = old
        return best

    def _kept(self, block: int, parts: list[int]) -> float:
        """Return the share of a block that its neighbours' buffers leave."""
        own, left = parts[block], 1.0
        for other, lost in self.near[block]:
            if parts[other] > own or (parts[other] != own and not self.is_ordered):
                left -= lost / self.parts
        return max(0.0, left)

    def _sums(self, parts: list[int], kept: Sequence[float]) -> NDArray[np.float64]:
        sums = np.zeros((len(self.wanted), self.shares.shape[1]))
        np.add.at(sums, parts, self.shares * np.asarray(kept)[:, None])
        return sums

    def _whole_cost(self, parts: list[int]) -> float:
        own, other = np.asarray(parts)[self.neighbours.ours], np.asarray(parts)[self.neighbours.theirs]
        gives = other > own if self.is_ordered else other != own
        lost = np.bincount(self.neighbours.ours, self.neighbours.lost * gives / self.parts, len(parts))
        kept = np.maximum(0, 1 - lost)
        return self._cost(self._sums(parts, kept.tolist()), float(np.dot(kept, self.ground)))

    def _cost(self, sums: NDArray[np.float64], ground: float) -> float:
        """Return the cost of a division.

        Args:
            sums: each part's share of each class that the buffers leave (parts, K).
            ground: share of the labelled ground that the buffers leave.
        """
        share = sums / np.maximum(sums.sum(axis=0), 1e-12)
        uneven = ((share - self.wanted[:, None]) ** 2).sum(axis=0) @ self.weights
        missing = self.penalties @ (share < 1e-9).sum(axis=1)
        return float(uneven + missing + (1 - ground) ** 2)
