"""Keep the borders between regions while rows arrive, so that each border is drawn once for both its sides.

A *node* is a pixel corner where three or four borders meet, or a corner of the map. An *arc* is a
border between two nodes, or a closed loop. One region lies on its left side and one on its right.
An arc has two *ends* and grows at them while rows arrive. An end is either open, and then belongs to
the column that it will continue in, or fixed to a node. A fixed end stores the end at which a ring
leaves the node, so rings are found by walking from end to end, without a search.

A region closes when a row no longer contains it. Its arcs are complete then, its rings are returned,
and arcs whose two sides are both closed are freed. Memory is therefore bounded by the open regions.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.maps.codes import OUTSIDE
from cwsam_cli.regions.compiled import compiled, inlined

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Records = NDArray[Any]
"""A structured array; its dtype names the fields."""


def _record(kind: type, *names: str) -> np.dtype[Any]:
    return np.dtype([(name, kind) for name in names], align=True)


VERTEX = _record(np.int32, "x", "y", "next", "is_sharp")
"""A vertex of an arc, in pixel corners. `next` leads from the arc's head to its tail, or to the next free vertex."""

END = _record(
    np.int32,
    "partner",  # the arc's other end
    "next",  # the next end of a region's list, the next complete arc, or the next free end
    "is_head",  # 1 if the list of vertices begins at this end
    "left",  # the region on the left of a walk that starts at this end
    "vertex",
    "state",  # OPEN, FIXED or IN_RING
    "turn",  # where a walk that arrives here leaves the node: the first end to the left
    "across",  # the end across a node of four borders, else NONE
    "top",  # the uppermost line of the arc
    "vertices",  # of the arc
    "points",  # that the arc is drawn with; more than `vertices` where bends are rounded
)
"""An end of an arc."""

OPEN, FIXED, IN_RING = 0, 1, 2

REGION = _record(
    np.int32,
    "parent",  # the region that this one was united with, or itself
    "next_free",
    "code",
    "last_row",
    "first_end",
    "last_end",
    "ends",
    "next_member",  # of the regions that were united, as a circle
    "next_closed",
)
"""A region. Its ends are a list from `first_end` to `last_end`."""

STATISTIC = _record(np.float64, "count", "total", "low", "high")
"""What is known of one other raster's values in a region."""

COUNTERS = _record(
    np.int64,
    "free_vertex",
    "free_end",
    "free_region",
    "free_vertices",
    "free_ends",
    "free_regions",
    "first_arc",
    "last_arc",
    "first_closed",
    "last_closed",
    "runs",
)
"""First free items, numbers of free items, and the queues of complete arcs and closed regions."""

NONE = -1


class Borders(NamedTuple):
    """The state of open regions and arcs, as arrays for compiled loops."""

    vertices: Records
    """(V,) of VERTEX."""
    ends: Records
    """(E,) of END."""
    areas: Int64
    """(E,) twice the area in pixels between an end's arc and the axis, walked from that end."""
    regions: Records
    """(R,) of REGION. Region 0 stands for all pixels without polygons."""
    pixels: Int64
    """(R,) pixels of a region."""
    statistics: Records
    """(R, S) of STATISTIC, by region and other raster."""
    columns: Int32
    """(W + 1,) the open end at each pixel corner of a line, or NONE."""
    runs: Int32
    """(2, W + 2) the regions of the row above and of the row below, one per run of equal pixels."""
    counters: Records
    """(1,) of COUNTERS."""


def make_borders(width: int, statistics: int) -> Borders:
    """Return the state above the first row.

    Args:
        width: columns of the map.
        statistics: number of other rasters whose values are collected.
    """
    counters = np.zeros(1, COUNTERS)
    for queue in ("free_vertex", "free_end", "free_region", "first_arc", "first_closed"):
        counters[queue] = NONE
    borders = Borders(
        vertices=np.zeros(0, VERTEX),
        ends=np.zeros(0, END),
        areas=np.zeros(0, np.int64),
        regions=np.zeros(0, REGION),
        pixels=np.zeros(0, np.int64),
        statistics=np.zeros((0, statistics), STATISTIC),
        columns=np.full(width + 1, NONE, np.int32),
        runs=np.zeros((2, width + 2), np.int32),
        counters=counters,
    )
    borders = with_capacity(borders, 0, 0, 1)
    counters["free_region"] = borders.regions["next_free"][0]
    counters["free_regions"] -= 1
    borders.regions[0] = (0, NONE, OUTSIDE, 0, NONE, NONE, 0, 0, NONE)
    return borders


def with_capacity(borders: Borders, vertices: int, ends: int, regions: int) -> Borders:
    """Return the same state with at least this many free vertices, ends and regions."""
    counters = borders.counters

    def grown(pool: Records, link: str, first: str, left: str, wanted: int) -> Records:
        if counters[left][0] >= wanted:
            return pool
        size = max(2 * len(pool), len(pool) + wanted, 1024)
        larger = np.empty(size, pool.dtype)
        larger[: len(pool)] = pool
        larger[link][len(pool) :] = np.arange(len(pool) + 1, size + 1)
        larger[link][-1] = counters[first][0]
        counters[first] = len(pool)
        counters[left] += size - len(pool)
        return larger

    grown_regions = grown(borders.regions, "next_free", "free_region", "free_regions", regions)
    grown_ends = grown(borders.ends, "next", "free_end", "free_ends", ends)
    more = len(grown_regions) - len(borders.regions)
    fresh = np.empty((more, borders.statistics.shape[1]), STATISTIC)
    return borders._replace(
        vertices=grown(borders.vertices, "next", "free_vertex", "free_vertices", vertices),
        ends=grown_ends,
        areas=np.concatenate([borders.areas, np.empty(len(grown_ends) - len(borders.ends), np.int64)]),
        regions=grown_regions,
        pixels=np.concatenate([borders.pixels, np.empty(more, np.int64)]),
        statistics=np.concatenate([borders.statistics, fresh]),
    )


@inlined
def root(b: Borders, region: int) -> int:
    """Return the region that a label now stands for."""
    regions = b.regions
    while regions[region].parent != region:
        regions[region].parent = regions[regions[region].parent].parent
        region = regions[region].parent
    return region


@compiled
def oldest_line(b: Borders, line: int) -> int:
    """Return the uppermost line on which an open arc has a vertex, at most `line`."""
    for end in b.columns:
        if end >= 0:
            line = min(line, b.ends[end].top)
    return line
