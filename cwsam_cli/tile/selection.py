"""Choose which of the planned tiles become part of the dataset."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cwsam_cli.errors import UsageError

REASONS = ("without a label", "below --min-labelled", "below --min-valid")
"""Why `Selection.why_not` leaves a tile out."""
BEYOND = "beyond --limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a tile must have.

    Raises:
        UsageError: a share is not between 0 and 1, or the limit is not above 0.
    """

    min_valid: float = 0.0
    """Smallest share of its pixels with data, 0 to 1."""
    min_labelled: float = 0.0
    """Smallest share of its pixels with a label, 0 to 1. A tile without any label is always left out."""
    limit: int | None = None
    """Most tiles of all splits together; None is no limit."""

    def __post_init__(self) -> None:
        for option, share in (("--min-valid", self.min_valid), ("--min-labelled", self.min_labelled)):
            if not 0 <= share <= 1:
                raise UsageError(f"{option} {share:g} is not a share", hint=f"give a number from 0 to 1: {option} 0.5")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit} leaves no tile", hint="--limit 100")

    def why_not(self, labelled: float, valid: float = 1.0) -> str | None:
        """Return why a tile is left out, or None if it is kept.

        Args:
            labelled: share of its pixels with a label.
            valid: share of its pixels with data.
        """
        found = not labelled, labelled < self.min_labelled, valid < self.min_valid
        return next((reason for reason, is_so in zip(REASONS, found, strict=True) if is_so), None)


def draw(splits: Sequence[str], limit: int, seed: int, why_not: Callable[[int], str | None]) -> dict[int, str]:
    """Draw tiles at random until `limit` are kept.

    Each split keeps its share of the tiles, and at least one tile.

    Args:
        splits: the split of each tile.
        limit: the number to keep.
        seed: the seed of the draw.
        why_not: a function that returns why a tile is left out anyway, or None.

    Returns:
        The reason for each tile that is left out.
    """
    by_split: dict[str, list[int]] = defaultdict(list)
    for number in np.random.default_rng(seed).permutation(len(splits)).tolist():
        by_split[splits[number]].append(number)
    left_out: dict[int, str] = {}
    kept = 0
    *smaller, largest = sorted(by_split.values(), key=len)
    for numbers in (*smaller, largest):
        share = round(limit * len(numbers) / len(splits)) if numbers is not largest else limit - kept
        wanted, taken = max(1, share), 0
        while numbers and taken < wanted:
            batch, numbers = sorted(numbers[: wanted - taken]), numbers[wanted - taken :]  # as files hold them
            reasons = {number: reason for number in batch if (reason := why_not(number)) is not None}
            left_out |= reasons
            taken += len(batch) - len(reasons)
        left_out |= dict.fromkeys(numbers, BEYOND)
        kept += taken
    return left_out
