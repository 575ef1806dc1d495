"""Follow borders row by row: look at every pixel corner once, and only at those where codes differ."""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.vectorize.borders import (
    ARC_FIRST,
    ARC_LAST,
    CLOSED_FIRST,
    CLOSED_LAST,
    CODE,
    CROSS,
    END_FREE,
    ENDS,
    ENDS_LEFT,
    FIRST_END,
    FIXED,
    HEAD,
    HUG,
    LAST,
    LAST_END,
    LEFT,
    MEMBER,
    NEXT,
    NONE,
    PARENT,
    PARTNER,
    QUEUE,
    REGION_FREE,
    REGIONS_LEFT,
    RUNS,
    SHARP,
    TOP,
    VERTEX,
    VERTEX_FREE,
    VERTICES_LEFT,
    Borders,
    Int32,
    X,
    Y,
    root,
)
from cwsam_cli.vectorize.codes import NODATA
from cwsam_cli.vectorize.compiled import compiled, inlined


@compiled
def census(codes: Int32) -> tuple[int, int, int]:
    """How many nodes, other bends and first pixels of runs lie between the rows (H + 1, W + 2)."""
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


@compiled
def scan(b: Borders, codes: Int32, labels: Int32, changes: NDArray[np.uint8], top: int, height: int) -> None:
    """Take in rows: regions grow, close and queue up, arcs grow, end and queue up.

    Args:
        b: the state, changed in place.
        codes: the row above the first new one, then the new rows, each with OUTSIDE before
            and after it (H + 1, W + 2).
        labels: the regions of the row above; those of the new rows are written (H + 1, W + 2).
        changes: room for a mark a pixel corner, a multiple of eight and more than W.
        top: the first new row, counted in the map.
        height: rows of the map.
    """
    width = codes.shape[1] - 2
    eights = changes.view(np.uint64)
    for r in range(1, len(codes)):
        y = top + r - 1
        above, below = codes[r - 1], codes[r]
        label_above, label_below = labels[r - 1], labels[r]
        for c in range(width + 1):
            changes[c] = (above[c] != above[c + 1]) | (below[c] != below[c + 1]) | (above[c] != below[c])
        runs = start = here = labelled = 0
        along = NONE  # the open end on the line between the rows
        for eight in range(len(eights)):
            if eights[eight] == 0:
                continue
            for c in range(8 * eight, 8 * eight + 8):
                if changes[c] == 0:
                    continue
                ul, ur, ll, lr = above[c], above[c + 1], below[c], below[c + 1]
                up, down, left, right = ul != ur, ll != lr, ul != ll, ur != lr
                label_below[labelled : c + 1] = here
                labelled = c + 1
                west = here
                if lr <= NODATA:
                    here = 0
                elif not right:
                    here = root(b, label_above[c + 1])
                    if not down:
                        here = _unite(b, west, here)
                elif down:
                    here = _new_region(b, lr)
                label_below[c + 1] = here
                if down:
                    if west > 0:
                        b.pixels[root(b, west)] += c - start
                    start = c
                    if here > 0:
                        b.runs[1, runs] = here
                        b.regions[here, LAST] = y
                        runs += 1
                if up != down or left != right or (up and left):
                    along = _corner(b, c, y, width, height, along, above, below, label_above, label_below, west)
        label_below[labelled:] = 0
        for i in range(b.counters[RUNS]):
            region = root(b, b.runs[0, i])
            if b.regions[region, LAST] < y:
                b.regions[region, LAST] = height + 1  # said once
                _queue_closed(b, region)
        for i in range(runs):
            b.runs[0, i] = b.runs[1, i]
        b.counters[RUNS] = runs


@inlined
def _corner(
    b: Borders,
    c: int,
    y: int,
    width: int,
    height: int,
    along: int,
    above: Int32,
    below: Int32,
    label_above: Int32,
    label_below: Int32,
    west: int,
) -> int:
    """Bend, join, begin or end arcs at one pixel corner; returns the open end to its right."""
    up, down = above[c] != above[c + 1], below[c] != below[c + 1]
    left, right = above[c] != below[c], above[c + 1] != below[c + 1]
    hanging = b.columns[c]
    edge = (c == 0 or c == width) and (y == 0 or y == height)
    loop = up and left and b.ends[hanging, PARTNER] == along
    if np.int64(up) + np.int64(down) + np.int64(left) + np.int64(right) == 2 and not edge and not loop:
        if up and left:
            _join(b, hanging, along, c, y)
            b.columns[c] = NONE
            return NONE
        if up:
            _extend(b, hanging, c, y)
            b.columns[c] = NONE
            return hanging
        if left:
            _extend(b, along, c, y)
            b.columns[c] = along
            return NONE
        fresh = _begin(b, c, y, below[c + 1] > below[c])
        b.columns[c] = fresh
        return b.ends[fresh, PARTNER]
    to_up = to_left = to_right = to_down = NONE
    if up:
        to_up = hanging
        _extend(b, to_up, c, y)
        b.ends[to_up, LEFT] = label_above[c]
    if left:
        to_left = along
        _extend(b, to_left, c, y)
        b.ends[to_left, LEFT] = west
    along = NONE
    b.columns[c] = NONE
    if right:  # a traveller to the east has the north on the left
        along = _begin(b, c, y, above[c + 1] > below[c + 1])
        to_right = b.ends[along, PARTNER]
        b.ends[to_right, LEFT] = label_above[c + 1]
    if down:  # and one to the south the east
        b.columns[c] = _begin(b, c, y, below[c + 1] > below[c])
        to_down = b.ends[b.columns[c], PARTNER]
        b.ends[to_down, LEFT] = label_below[c + 1]
    _fix(b, to_up, to_right, to_down, to_left)
    _fix(b, to_right, to_down, to_left, to_up)
    _fix(b, to_down, to_left, to_up, to_right)
    _fix(b, to_left, to_up, to_right, to_down)
    return along


@inlined
def _fix(b: Borders, end: int, first: int, second: int, third: int) -> None:
    """Let an end stand on its node; who arrives there turns left if possible.

    Where all four borders meet, two regions lie across from each other. If they prove to be
    one, its rings must not run through the node twice: then the traveller crosses over, to
    the third end.
    """
    if end < 0:
        return
    ends = b.ends
    ends[end, FIXED] = 1
    ends[end, HUG] = first if first >= 0 else second if second >= 0 else third
    ends[end, CROSS] = third if first >= 0 and second >= 0 else NONE
    _queue_if_ended(b, end)


@inlined
def _queue_if_ended(b: Borders, end: int) -> None:
    """Queue an end's arc if it stands on nodes at both its ends."""
    ends = b.ends
    partner = ends[end, PARTNER]
    if ends[end, FIXED] == 1 and ends[partner, FIXED] == 1:
        head = end if ends[end, HEAD] == 1 else partner
        ends[head, NEXT] = NONE
        if b.counters[ARC_FIRST] < 0:
            b.counters[ARC_FIRST] = head
        else:
            ends[b.counters[ARC_LAST], NEXT] = head
        b.counters[ARC_LAST] = head


@inlined
def _new_vertex(b: Borders, x: int, y: int) -> int:
    vertex = b.counters[VERTEX_FREE]
    b.counters[VERTEX_FREE] = b.vertices[vertex, NEXT]
    b.counters[VERTICES_LEFT] -= 1
    b.vertices[vertex, X] = x
    b.vertices[vertex, Y] = y
    b.vertices[vertex, NEXT] = NONE
    b.vertices[vertex, SHARP] = 1
    return vertex


@inlined
def _begin(b: Borders, x: int, y: int, goes: bool) -> int:
    """An arc of one vertex; returns the end at which it goes on, its tail if it `goes` that way."""
    ends = b.ends
    one = b.counters[END_FREE]
    other = np.int64(ends[one, NEXT])
    b.counters[END_FREE] = ends[other, NEXT]
    b.counters[ENDS_LEFT] -= 2
    vertex = _new_vertex(b, x, y)
    for end in (one, other):
        ends[end, VERTEX] = vertex
        ends[end, FIXED] = 0
        ends[end, TOP] = y
    ends[one, PARTNER], ends[other, PARTNER] = other, one
    ends[one, HEAD], ends[other, HEAD] = not goes, goes
    return one


@inlined
def _extend(b: Borders, end: int, x: int, y: int) -> None:
    vertex = _new_vertex(b, x, y)
    last = b.ends[end, VERTEX]
    if b.ends[end, HEAD] == 1:
        b.vertices[vertex, NEXT] = last
    else:
        b.vertices[last, NEXT] = vertex
    b.ends[end, VERTEX] = vertex


@inlined
def _join(b: Borders, one: int, other: int, x: int, y: int) -> None:
    """Make one arc of two whose open ends meet."""
    ends = b.ends
    head, tail = (one, other) if ends[one, HEAD] == 1 else (other, one)
    _extend(b, tail, x, y)
    b.vertices[ends[tail, VERTEX], NEXT] = ends[head, VERTEX]
    before, after = ends[tail, PARTNER], ends[head, PARTNER]
    ends[before, PARTNER] = after
    ends[after, PARTNER] = before
    ends[before, TOP] = ends[after, TOP] = min(ends[tail, TOP], ends[head, TOP])
    ends[head, NEXT] = b.counters[END_FREE]
    ends[tail, NEXT] = head
    b.counters[END_FREE] = tail
    b.counters[ENDS_LEFT] += 2
    _queue_if_ended(b, before)


@inlined
def _new_region(b: Borders, code: int) -> int:
    regions = b.regions
    region = b.counters[REGION_FREE]
    b.counters[REGION_FREE] = regions[region, NEXT]
    b.counters[REGIONS_LEFT] -= 1
    regions[region, PARENT] = region
    regions[region, CODE] = code
    regions[region, FIRST_END] = NONE
    regions[region, MEMBER] = region
    regions[region, ENDS] = 0
    b.pixels[region] = 0
    for s in range(b.sums.shape[1]):
        b.sums[region, s, 0] = b.sums[region, s, 1] = 0
        b.sums[region, s, 2], b.sums[region, s, 3] = np.inf, -np.inf
    return region


@compiled
def _unite(b: Borders, one: int, other: int) -> int:
    one, other = root(b, one), root(b, other)
    if one == other:
        return one
    regions = b.regions
    regions[other, PARENT] = one
    regions[one, LAST] = max(regions[one, LAST], regions[other, LAST])
    regions[one, MEMBER], regions[other, MEMBER] = regions[other, MEMBER], regions[one, MEMBER]
    regions[one, ENDS] += regions[other, ENDS]
    if regions[one, FIRST_END] < 0:
        regions[one, FIRST_END] = regions[other, FIRST_END]
        regions[one, LAST_END] = regions[other, LAST_END]
    elif regions[other, FIRST_END] >= 0:
        b.ends[regions[one, LAST_END], NEXT] = regions[other, FIRST_END]
        regions[one, LAST_END] = regions[other, LAST_END]
    b.pixels[one] += b.pixels[other]
    for s in range(b.sums.shape[1]):
        b.sums[one, s, 0] += b.sums[other, s, 0]
        b.sums[one, s, 1] += b.sums[other, s, 1]
        b.sums[one, s, 2] = min(b.sums[one, s, 2], b.sums[other, s, 2])
        b.sums[one, s, 3] = max(b.sums[one, s, 3], b.sums[other, s, 3])
    return one


@compiled
def _queue_closed(b: Borders, region: int) -> None:
    b.regions[region, QUEUE] = NONE
    if b.counters[CLOSED_FIRST] < 0:
        b.counters[CLOSED_FIRST] = region
    else:
        b.regions[b.counters[CLOSED_LAST], QUEUE] = region
    b.counters[CLOSED_LAST] = region
