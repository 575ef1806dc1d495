"""Draw the polygons of regions that have closed, and free their arcs.

An arc is always drawn from its head to its tail, so both its sides get the same points. Rounded bends
get their extra points here, when an arc is drawn; the state stores only the vertices.
"""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.regions.compiled import allocating, compiled, inlined
from cwsam_cli.vectorize.borders import FIXED, IN_RING, NONE, OPEN, Borders, Int32, Int64, root

Floats = NDArray[np.float64]

_EXTRA_POINTS = 3
"""Points that a rounded bend is drawn with, in addition to one."""


@compiled
def collect_statistics(b: Borders, labels: Int32, values: NDArray[np.float32]) -> None:
    """Add other rasters' values to the statistics of regions.

    Args:
        b: the state, changed in place.
        labels: the regions of some rows (H, W).
        values: the other rasters (S, H, W); NaN is no value.
    """
    for s in range(len(values)):
        for r in range(labels.shape[0]):
            last = region = 0
            for c in range(labels.shape[1]):
                label = labels[r, c]
                value = np.float64(values[s, r, c])
                if label == 0 or np.isnan(value):
                    continue
                if label != last:
                    last, region = label, root(b, label)
                statistic = b.statistics[region, s]
                statistic.count += 1
                statistic.total += value
                statistic.low = min(statistic.low, value)
                statistic.high = max(statistic.high, value)


@allocating
def collect_outline(b: Borders) -> Floats:
    """Return the edges of complete arcs that have a region on one side only.

    Call it before `register`.

    Returns:
        Edges (M, 2, 2), from and to, with no region on the left, in pixels.
    """
    ends = b.ends
    count = 0
    head = b.counters[0].first_arc
    while head >= 0:
        if _is_outer(b, head):
            count += _points(b, head) - 1
        head = ends[head].next
    edges = np.empty((count, 2, 2))
    at = 0
    head = b.counters[0].first_arc
    while head >= 0:
        if _is_outer(b, head):
            xy = np.empty((_points(b, head), 2))
            draw_arc(b, head, xy)
            one, other = (0, 1) if root(b, ends[head].left) == 0 else (1, 0)
            for i in range(len(xy) - 1):
                edges[at, one], edges[at, other] = xy[i], xy[i + 1]
                at += 1
        head = ends[head].next
    return edges


@compiled
def _is_outer(b: Borders, head: int) -> bool:
    """Return whether an arc has a region on one side only."""
    return (root(b, b.ends[head].left) == 0) != (root(b, b.ends[b.ends[head].partner].left) == 0)


@compiled
def _points(b: Borders, head: int) -> int:
    """Return the number of points that an arc is drawn with."""
    count, rounded = 0, 0
    vertex = b.ends[head].vertex
    while vertex >= 0:
        count += 1
        rounded += 1 - b.vertices[vertex].is_sharp
        vertex = b.vertices[vertex].next
    return count + _EXTRA_POINTS * rounded


@compiled
def draw_arc(b: Borders, head: int, xy: Floats) -> None:
    """Write an arc's points (N, 2) in pixels.

    The corners of bends that are not sharp are cut twice (Chaikin 1974).
    """
    vertices = b.vertices
    before = vertex = b.ends[head].vertex
    at = 0
    while vertex >= 0:
        after = vertices[vertex].next
        here = vertices[vertex]
        if here.is_sharp == 1:
            xy[at, 0], xy[at, 1] = here.x, here.y
            at += 1
        else:
            sharp_before, sharp_after = vertices[before].is_sharp == 1, vertices[after].is_sharp == 1
            _round(xy[at : at + 4, 0], vertices[before].x, here.x, vertices[after].x, sharp_before, sharp_after)
            _round(xy[at : at + 4, 1], vertices[before].y, here.y, vertices[after].y, sharp_before, sharp_after)
            at += 4
        before, vertex = vertex, after


@inlined
def _round(points: Floats, before: float, here: float, after: float, sharp_before: bool, sharp_after: bool) -> None:
    """Write the four points that replace a bend, along one axis.

    Args:
        points: where they are written (4,).
        before: the vertex before the bend.
        here: the bend.
        after: the vertex after it.
        sharp_before: the vertex before keeps its place.
        sharp_after: the vertex after keeps its place.
    """
    first, second = here + (before - here) / 4, here + (after - here) / 4
    if not sharp_before:
        before += (here - before) / 4
    if not sharp_after:
        after += (here - after) / 4
    points[0], points[1] = first + (before - first) / 4, first + (second - first) / 4
    points[2], points[3] = second + (first - second) / 4, second + (after - second) / 4


@compiled
def register(b: Borders) -> None:
    """Add complete arcs to the regions on both their sides, and empty the queue of arcs."""
    ends, vertices = b.ends, b.vertices
    head = b.counters[0].first_arc
    b.counters[0].first_arc = NONE
    while head >= 0:
        following = np.int64(ends[head].next)
        tail = np.int64(ends[head].partner)
        count, rounded, twice = 0, 0, np.int64(0)
        vertex = ends[head].vertex
        x, y = np.int64(vertices[vertex].x), np.int64(vertices[vertex].y)
        while vertex >= 0:
            after_x, after_y = np.int64(vertices[vertex].x), np.int64(vertices[vertex].y)
            twice += x * after_y - after_x * y
            x, y = after_x, after_y
            count += 1
            rounded += 1 - vertices[vertex].is_sharp
            vertex = vertices[vertex].next
        b.areas[head], b.areas[tail] = twice, -twice
        for end in (head, tail):
            ends[end].vertices = count
            ends[end].points = count + _EXTRA_POINTS * rounded
            ends[end].left = root(b, ends[end].left)
        for end in (head, tail):
            left = ends[end].left
            if left > 0:
                region = b.regions[left]
                ends[end].next = NONE
                if region.first_end < 0:
                    region.first_end = end
                else:
                    ends[region.last_end].next = end
                region.last_end = end
                region.ends += 1
        if ends[head].left == 0 and ends[tail].left == 0:
            _free_arc(b, head, tail)
        head = following


@compiled
def _free_arc(b: Borders, head: int, tail: int | np.int64) -> None:
    ends, counters = b.ends, b.counters[0]
    for end in (head, tail):
        # A later arc may reuse this end. The end across the node must not lead a walk there.
        if ends[ends[end].turn].across == end:
            ends[ends[end].turn].across = NONE
        ends[end].state = OPEN
    b.vertices[ends[tail].vertex].next = counters.free_vertex
    counters.free_vertex = ends[head].vertex
    counters.free_vertices += ends[head].vertices
    ends[head].next = counters.free_end
    ends[tail].next = head
    counters.free_end = tail
    counters.free_ends += 2


@compiled
def count_closed(b: Borders) -> tuple[int, int]:
    """Return the number of closed regions and the number of their arcs' ends."""
    regions = ends = 0
    region = b.counters[0].first_closed
    while region >= 0:
        regions += 1
        ends += b.regions[region].ends
        region = b.regions[region].next_closed
    return regions, ends


@compiled
def walk_rings(b: Borders, starts: Int32, ring_offsets: Int64, polygon_offsets: Int64, roots: Int32) -> int:
    """Find the rings of the closed regions, each region's outer ring first.

    Args:
        b: the state. Ends that belong to a ring change from FIXED to IN_RING.
        starts: receives one end per ring; there are at most as many rings as ends.
        ring_offsets: receives the first vertex of each ring, and the total number of vertices.
        polygon_offsets: receives the first ring of each region, and the total number of rings.
        roots: receives the closed regions.

    Returns:
        The number of rings.
    """
    ends = b.ends
    rings = closed = 0
    region = b.counters[0].first_closed
    ring_offsets[0] = polygon_offsets[0] = 0
    while region >= 0:
        roots[closed] = region
        first = rings
        start = b.regions[region].first_end
        while start >= 0:
            if ends[start].state == FIXED:
                count, twice = 1, np.int64(0)
                end = start
                while ends[end].state == FIXED:
                    ends[end].state = IN_RING
                    count += ends[end].points - 1
                    twice += b.areas[end]
                    end = _following(b, end, region)
                at = rings
                if twice < 0:  # the outer ring, because y counts downwards
                    starts[rings], starts[first] = starts[first], start
                    at = first
                else:
                    starts[rings] = start
                lengths = ring_offsets[1:]
                lengths[rings], lengths[at] = lengths[at], count
                rings += 1
            start = ends[start].next
        closed += 1
        polygon_offsets[closed] = rings
        region = b.regions[region].next_closed
    for ring in range(rings):
        ring_offsets[ring + 1] += ring_offsets[ring]
    return rings


@compiled
def _following(b: Borders, end: int, region: int) -> int:
    """Return the end at which a ring of `region` continues after the arc that begins at `end`."""
    arrived = b.ends[end].partner
    across = b.ends[arrived].across
    if across >= 0 and b.ends[across].left >= 0 and root(b, b.ends[across].left) == region:
        return across
    return b.ends[arrived].turn


@compiled
def draw_rings(
    b: Borders, starts: Int32, ring_offsets: Int64, polygon_offsets: Int64, roots: Int32, xy: Floats
) -> None:
    """Write the points (N, 2) of rings that `walk_rings` found, in pixels."""
    ends = b.ends
    for polygon in range(len(roots)):
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            at = ring_offsets[ring]
            end = starts[ring]
            while True:
                points = xy[at : at + ends[end].points]
                if ends[end].is_head == 1:
                    draw_arc(b, end, points)
                else:
                    draw_arc(b, ends[end].partner, points[::-1])
                at += ends[end].points - 1
                end = _following(b, end, roots[polygon])
                if end == starts[ring]:
                    break


@compiled
def free_closed(b: Borders) -> None:
    """Free the closed regions, and the arcs whose two sides are both closed."""
    ends, regions, counters = b.ends, b.regions, b.counters[0]
    region = counters.first_closed
    counters.first_closed = NONE
    while region >= 0:
        end = regions[region].first_end
        while end >= 0:
            following = ends[end].next
            ends[end].left = NONE
            partner = ends[end].partner
            if ends[partner].left <= 0:
                head, tail = (end, partner) if ends[end].is_head == 1 else (partner, end)
                _free_arc(b, head, tail)
            end = following
        closed = regions[region].next_closed
        member = region
        while True:
            following = regions[member].next_member
            regions[member].next_free = counters.free_region
            counters.free_region = member
            counters.free_regions += 1
            if following == region:
                break
            member = following
        region = closed
