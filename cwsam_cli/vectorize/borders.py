"""What is known of borders between regions while rows arrive: every border is drawn once, for both its sides.

A pixel corner where three borders meet (or four, or at a corner of the map) is a *node*. An *arc* is a
border between two nodes, or a loop; each belongs to the region on its left and to the one on
its right. An arc grows at its two *ends* while rows arrive: an open end hangs on a column, a
fixed one stands on a node and knows which end a traveller leaves from who arrives there and
keeps a region on the left. So rings need no search: they are walks from end to end.

A region closes when a row shows no more of it. Then its arcs are whole too, its rings are
handed out, and arcs whose both sides are done give their room back: memory follows what is
open.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.vectorize.codes import OUTSIDE
from cwsam_cli.vectorize.compiled import compiled, inlined

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Columns of `vertices`; a list of vertices runs from an arc's head to its tail.
X, Y, NEXT, SHARP = 0, 1, 2, 3
# Columns of `ends`. NEXT as above: of those that wait, of a region's list, or of the free ones.
PARTNER, HEAD, LEFT, VERTEX, COUNT, HUG, CROSS, FIXED, TOP, DRAWN = 0, 1, 3, 4, 5, 6, 7, 8, 9, 10
# Columns of `regions`. PARENT leads to the region that this one turned out to be part of.
PARENT, CODE, FREE, LAST, FIRST_END, LAST_END, MEMBER, QUEUE, ENDS = 0, 1, 2, 3, 4, 5, 6, 7, 8
# Entries of `counters`: what is free, how many are free, and what waits.
VERTEX_FREE, END_FREE, REGION_FREE, VERTICES_LEFT, ENDS_LEFT, REGIONS_LEFT = 0, 1, 2, 3, 4, 5
ARC_FIRST, ARC_LAST, CLOSED_FIRST, CLOSED_LAST, RUNS = 6, 7, 8, 9, 10

NONE = -1


class Borders(NamedTuple):
    """What is open, as arrays that compiled loops can work on."""

    vertices: Int32
    ends: Int32
    areas: Int64
    """By end: twice the area between its arc and the axis, walked from there (pixels)."""
    regions: Int32
    pixels: Int64
    """By region."""
    sums: NDArray[np.float64]
    """By region and statistic: count, sum, minimum, maximum."""
    columns: Int32
    """By pixel corner of a line: the open end that hangs there."""
    runs: Int32
    """Regions of the row above, run by run, and those of the row below."""
    counters: Int64


def no_borders(width: int, statistics: int) -> Borders:
    """The state above the first row."""
    counters = np.zeros(11, np.int64)
    counters[[VERTEX_FREE, END_FREE, REGION_FREE, ARC_FIRST, CLOSED_FIRST]] = NONE
    borders = Borders(
        vertices=np.zeros((0, 4), np.int32),
        ends=np.zeros((0, 11), np.int32),
        areas=np.zeros(0, np.int64),
        regions=np.zeros((0, 9), np.int32),
        pixels=np.zeros(0, np.int64),
        sums=np.zeros((0, statistics, 4)),
        columns=np.full(width + 1, NONE, np.int32),
        runs=np.zeros((2, width + 2), np.int32),
        counters=counters,
    )
    borders = with_room(borders, 0, 0, 1)
    nothing = borders.regions[0]  # region 0 is everything that has no polygons
    counters[REGION_FREE], counters[REGIONS_LEFT] = nothing[NEXT], counters[REGIONS_LEFT] - 1
    nothing[[PARENT, CODE, FIRST_END, MEMBER, ENDS]] = 0, OUTSIDE, NONE, 0, 0
    return borders


def with_room(borders: Borders, vertices: int, ends: int, regions: int) -> Borders:
    """The same state with at least so many free vertices, ends and regions."""
    counters = borders.counters

    def grown(pool: Int32, free: int, left: int, wanted: int) -> Int32:
        if counters[left] >= wanted:
            return pool
        size = max(2 * len(pool), len(pool) + wanted, 1024)
        larger = np.empty((size, pool.shape[1]), np.int32)
        larger[: len(pool)] = pool
        larger[len(pool) :, NEXT] = np.arange(len(pool) + 1, size + 1)
        larger[-1, NEXT] = counters[free]
        counters[free] = len(pool)
        counters[left] += size - len(pool)
        return larger

    grown_regions = grown(borders.regions, REGION_FREE, REGIONS_LEFT, regions)
    grown_ends = grown(borders.ends, END_FREE, ENDS_LEFT, ends)
    more = len(grown_regions) - len(borders.regions)
    return borders._replace(
        vertices=grown(borders.vertices, VERTEX_FREE, VERTICES_LEFT, vertices),
        ends=grown_ends,
        areas=np.concatenate([borders.areas, np.empty(len(grown_ends) - len(borders.ends), np.int64)]),
        regions=grown_regions,
        pixels=np.concatenate([borders.pixels, np.empty(more, np.int64)]),
        sums=np.concatenate([borders.sums, np.empty((more, *borders.sums.shape[1:]))]),
    )


@inlined
def root(b: Borders, region: int) -> int:
    """The region that a label has turned out to be part of."""
    parents = b.regions
    while parents[region, PARENT] != region:
        parents[region, PARENT] = parents[parents[region, PARENT], PARENT]
        region = parents[region, PARENT]
    return region


@compiled
def oldest_line(b: Borders, line: int) -> int:
    """The uppermost line on which an open arc has a vertex, at most `line`."""
    for end in b.columns:
        if end >= 0:
            line = min(line, b.ends[end, TOP])
    return line
