"""Count where the codes of a strip change, so that memory for its regions and borders is made in time."""

import numpy as np

from cwsam_cli.regions.clusters import Int32
from cwsam_cli.regions.compiled import compiled


@compiled
def count_elements(codes: Int32) -> tuple[int, int, int]:
    """Count nodes, other bends and first pixels of runs on the lines between rows.

    Args:
        codes: (H + 1, W + 2), with OUTSIDE before and after each row.
    """
    nodes = bends = starts = 0
    for r in range(1, len(codes)):
        above, below = codes[r - 1], codes[r]
        for c in range(len(above) - 1):
            up, down = above[c] != above[c + 1], below[c] != below[c + 1]
            left, right = above[c] != below[c], above[c + 1] != below[c + 1]
            degree = np.int64(up) + np.int64(down) + np.int64(left) + np.int64(right)
            if degree > 2:
                nodes += 1
            elif up != down:
                bends += 1
            if down and right:
                starts += 1
    return nodes, bends, starts
