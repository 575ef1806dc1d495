"""Make polygons of arcs and regions that are whole, and give their room back.

An arc is drawn from its head to its tail, and from both its sides with the same vertices; smoothed
ones get more of them only here, so that nothing else need know.
"""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.vectorize.borders import (
    ARC_FIRST,
    CLOSED_FIRST,
    COUNT,
    CROSS,
    DRAWN,
    END_FREE,
    ENDS,
    ENDS_LEFT,
    FIRST_END,
    FIXED,
    HEAD,
    HUG,
    LAST_END,
    LEFT,
    MEMBER,
    NEXT,
    NONE,
    PARTNER,
    QUEUE,
    REGION_FREE,
    REGIONS_LEFT,
    SHARP,
    VERTEX,
    VERTEX_FREE,
    VERTICES_LEFT,
    Borders,
    Int32,
    Int64,
    X,
    Y,
    root,
)
from cwsam_cli.vectorize.compiled import allocating, compiled

Floats = NDArray[np.float64]

_ROUNDED = 3
"""How many points more a bend that is rounded is drawn with."""


@compiled
def measure(b: Borders, labels: Int32, values: NDArray[np.float32]) -> None:
    """Add other rasters' values (S, H, W) to the statistics of the regions `labels` (H, W); NaN is no value."""
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
                total = b.sums[region, s]
                total[0] += 1
                total[1] += value
                total[2] = min(total[2], value)
                total[3] = max(total[3], value)


@allocating
def outline(b: Borders) -> Floats:
    """The edges from and to (M, 2, 2), with no region on the left, of the arcs that ended; before `register`."""
    ends = b.ends
    count = 0
    head = b.counters[ARC_FIRST]
    while head >= 0:
        if _is_outer(b, head):
            count += _points(b, head) - 1
        head = ends[head, NEXT]
    edges = np.empty((count, 2, 2))
    at = 0
    head = b.counters[ARC_FIRST]
    while head >= 0:
        if _is_outer(b, head):
            xy = np.empty((_points(b, head), 2))
            draw_arc(b, head, xy)
            one, other = (0, 1) if root(b, ends[head, LEFT]) == 0 else (1, 0)
            for i in range(len(xy) - 1):
                edges[at, one], edges[at, other] = xy[i], xy[i + 1]
                at += 1
        head = ends[head, NEXT]
    return edges


@compiled
def _is_outer(b: Borders, head: int) -> bool:
    """Whether an arc has a region on one side only."""
    return (root(b, b.ends[head, LEFT]) == 0) != (root(b, b.ends[b.ends[head, PARTNER], LEFT]) == 0)


@compiled
def _points(b: Borders, head: int) -> int:
    """How many points an arc is drawn with."""
    count, soft = 0, 0
    vertex = b.ends[head, VERTEX]
    while vertex >= 0:
        count += 1
        soft += 1 - b.vertices[vertex, SHARP]
        vertex = b.vertices[vertex, NEXT]
    return count + _ROUNDED * soft


@compiled
def draw_arc(b: Borders, head: int, xy: Floats) -> None:
    """Write an arc's points, in pixels; bends that are not sharp have their corners cut twice (Chaikin 1974)."""
    vertices = b.vertices
    before = vertex = b.ends[head, VERTEX]
    at = 0
    while vertex >= 0:
        after = vertices[vertex, NEXT]
        if vertices[vertex, SHARP] == 1:
            xy[at, 0], xy[at, 1] = vertices[vertex, X], vertices[vertex, Y]
            at += 1
        else:
            for axis in range(2):  # X and Y are the columns 0 and 1
                here = float(vertices[vertex, axis])
                one, other = float(vertices[before, axis]), float(vertices[after, axis])
                first, second = here + (one - here) / 4, here + (other - here) / 4
                if vertices[before, SHARP] == 0:
                    one += (here - one) / 4
                if vertices[after, SHARP] == 0:
                    other += (here - other) / 4
                xy[at, axis], xy[at + 1, axis] = first + (one - first) / 4, first + (second - first) / 4
                xy[at + 2, axis], xy[at + 3, axis] = second + (first - second) / 4, second + (other - second) / 4
            at += 4
        before, vertex = vertex, after


@compiled
def register(b: Borders) -> None:
    """Give the arcs that ended to the regions on both their sides."""
    ends, vertices = b.ends, b.vertices
    head = b.counters[ARC_FIRST]
    b.counters[ARC_FIRST] = NONE
    while head >= 0:
        following = np.int64(ends[head, NEXT])
        tail = np.int64(ends[head, PARTNER])
        count, soft, twice = 0, 0, np.int64(0)
        vertex = ends[head, VERTEX]
        x, y = np.int64(vertices[vertex, X]), np.int64(vertices[vertex, Y])
        while vertex >= 0:
            after_x, after_y = np.int64(vertices[vertex, X]), np.int64(vertices[vertex, Y])
            twice += x * after_y - after_x * y
            x, y = after_x, after_y
            count += 1
            soft += 1 - vertices[vertex, SHARP]
            vertex = vertices[vertex, NEXT]
        b.areas[head], b.areas[tail] = twice, -twice
        ends[head, COUNT] = ends[tail, COUNT] = count
        ends[head, DRAWN] = ends[tail, DRAWN] = count + _ROUNDED * soft
        for end in (head, tail):
            ends[end, LEFT] = root(b, ends[end, LEFT])
        for end in (head, tail):
            region = ends[end, LEFT]
            if region > 0:
                ends[end, NEXT] = NONE
                if b.regions[region, FIRST_END] < 0:
                    b.regions[region, FIRST_END] = end
                else:
                    ends[b.regions[region, LAST_END], NEXT] = end
                b.regions[region, LAST_END] = end
                b.regions[region, ENDS] += 1
        if ends[head, LEFT] == 0 and ends[tail, LEFT] == 0:
            _free_arc(b, head, tail)
        head = following


@compiled
def _free_arc(b: Borders, head: int, tail: int | np.int64) -> None:
    ends = b.ends
    for end in (head, tail):
        # The end across the node must not be led to whoever takes this place.
        if ends[ends[end, HUG], CROSS] == end:
            ends[ends[end, HUG], CROSS] = NONE
        ends[end, FIXED] = 0
    b.vertices[ends[tail, VERTEX], NEXT] = b.counters[VERTEX_FREE]
    b.counters[VERTEX_FREE] = ends[head, VERTEX]
    b.counters[VERTICES_LEFT] += ends[head, COUNT]
    ends[head, NEXT] = b.counters[END_FREE]
    ends[tail, NEXT] = head
    b.counters[END_FREE] = tail
    b.counters[ENDS_LEFT] += 2


@compiled
def count_closed(b: Borders) -> tuple[int, int]:
    """How many regions closed, and how many ends their arcs have."""
    regions = ends = 0
    region = b.counters[CLOSED_FIRST]
    while region >= 0:
        regions += 1
        ends += b.regions[region, ENDS]
        region = b.regions[region, QUEUE]
    return regions, ends


@compiled
def walk_rings(b: Borders, starts: Int32, ring_offsets: Int64, polygon_offsets: Int64, roots: Int32) -> int:
    """Find the rings of the regions that closed, each region's outer one first.

    Args:
        b: the state; an end that is part of a ring loses its `FIXED` mark.
        starts: an end of each ring is written, as many rings as there are ends at most.
        ring_offsets: where each ring's vertices begin, one more than rings.
        polygon_offsets: where each region's rings begin, one more than regions.
        roots: the regions.

    Returns:
        How many rings there are.
    """
    ends = b.ends
    rings = closed = 0
    region = b.counters[CLOSED_FIRST]
    ring_offsets[0] = polygon_offsets[0] = 0
    while region >= 0:
        roots[closed] = region
        first = rings
        start = b.regions[region, FIRST_END]
        while start >= 0:
            if ends[start, FIXED] == 1:
                count, twice = 1, np.int64(0)
                end = start
                while ends[end, FIXED] == 1:
                    ends[end, FIXED] = 2
                    count += ends[end, DRAWN] - 1
                    twice += b.areas[end]
                    end = leaving(b, end, region)
                at = rings
                if twice < 0:  # the outer ring: y counts downwards
                    starts[rings], starts[first] = starts[first], start
                    at = first
                else:
                    starts[rings] = start
                lengths = ring_offsets[1:]
                lengths[rings], lengths[at] = lengths[at], count
                rings += 1
            start = ends[start, NEXT]
        closed += 1
        polygon_offsets[closed] = rings
        region = b.regions[region, QUEUE]
    for ring in range(rings):
        ring_offsets[ring + 1] += ring_offsets[ring]
    return rings


@compiled
def leaving(b: Borders, end: int, region: int) -> int:
    """The end that a ring of `region` leaves from after the arc that begins with `end`."""
    arrived = b.ends[end, PARTNER]
    across = b.ends[arrived, CROSS]
    if across >= 0 and b.ends[across, LEFT] >= 0 and root(b, b.ends[across, LEFT]) == region:
        return across
    return b.ends[arrived, HUG]


@compiled
def draw_rings(
    b: Borders, starts: Int32, ring_offsets: Int64, polygon_offsets: Int64, roots: Int32, xy: Floats
) -> None:
    """Write the rings' points (N, 2) in pixels."""
    ends = b.ends
    for polygon in range(len(roots)):
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            at = ring_offsets[ring]
            end = starts[ring]
            while True:
                points = xy[at : at + ends[end, DRAWN]]
                if ends[end, HEAD] == 1:
                    draw_arc(b, end, points)
                else:
                    draw_arc(b, ends[end, PARTNER], points[::-1])
                at += ends[end, DRAWN] - 1
                end = leaving(b, end, roots[polygon])
                if end == starts[ring]:
                    break


@compiled
def forget_closed(b: Borders) -> None:
    """Give back the room of the regions that closed, and of the arcs that nobody needs any more."""
    ends, regions = b.ends, b.regions
    region = b.counters[CLOSED_FIRST]
    b.counters[CLOSED_FIRST] = NONE
    while region >= 0:
        end = regions[region, FIRST_END]
        while end >= 0:
            following = ends[end, NEXT]
            ends[end, LEFT] = NONE
            partner = ends[end, PARTNER]
            if ends[partner, LEFT] <= 0:
                head, tail = (end, partner) if ends[end, HEAD] == 1 else (partner, end)
                _free_arc(b, head, tail)
            end = following
        closed = regions[region, QUEUE]
        member = region
        while True:
            following = regions[member, MEMBER]
            regions[member, NEXT] = b.counters[REGION_FREE]
            b.counters[REGION_FREE] = member
            b.counters[REGIONS_LEFT] += 1
            if following == region:
                break
            member = following
        region = closed
