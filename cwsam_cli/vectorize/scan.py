"""Follow borders row by row: visit every pixel corner once, and work only where codes differ."""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.maps.codes import NODATA
from cwsam_cli.regions.compiled import compiled, inlined
from cwsam_cli.vectorize.borders import FIXED, NONE, OPEN, Borders, Int32, root


@compiled
def scan(b: Borders, codes: Int32, labels: Int32, changes: NDArray[np.uint8], top: int, height: int) -> None:
    """Add rows to the state: regions grow and close, arcs grow and become complete.

    Args:
        b: the state, changed in place.
        codes: the row above the first new row, then the new rows (H + 1, W + 2), with OUTSIDE before
            and after each row.
        labels: (H + 1, W + 2). The first row holds the regions of the row above; the others are written.
        changes: a buffer with one byte per pixel corner. Its length is a multiple of eight and more than W.
        top: the number of the first new row in the map.
        height: rows of the map.
    """
    width = codes.shape[1] - 2
    eights = changes.view(np.uint64)
    counters = b.counters[0]
    for r in range(1, len(codes)):
        y = top + r - 1
        above, below = codes[r - 1], codes[r]
        label_above, label_below = labels[r - 1], labels[r]
        for c in range(width + 1):
            changes[c] = (above[c] != above[c + 1]) | (below[c] != below[c + 1]) | (above[c] != below[c])
        runs = start = here = labelled = 0
        along = NONE  # the open end on the line between the two rows
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
                        b.regions[here].last_row = y
                        runs += 1
                if up != down or left != right or (up and left):
                    along = _corner(b, c, y, width, height, along, above, below, label_above, label_below, west)
        label_below[labelled:] = 0
        for i in range(counters.runs):
            region = root(b, b.runs[0, i])
            if b.regions[region].last_row < y:
                b.regions[region].last_row = height + 1  # so that it is queued once
                _queue_closed(b, region)
        for i in range(runs):
            b.runs[0, i] = b.runs[1, i]
        counters.runs = runs


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
    """Bend, join, begin or end arcs at one pixel corner; return the open end to its right.

    Eleven parameters, because numba inlines this function into `scan` and a record of them would be an allocation.
    """
    up, down = above[c] != above[c + 1], below[c] != below[c + 1]
    left, right = above[c] != below[c], above[c + 1] != below[c + 1]
    hanging = b.columns[c]
    edge = (c == 0 or c == width) and (y == 0 or y == height)
    loop = up and left and b.ends[hanging].partner == along
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
        return b.ends[fresh].partner
    to_up = to_left = to_right = to_down = NONE
    if up:
        to_up = hanging
        _extend(b, to_up, c, y)
        b.ends[to_up].left = label_above[c]
    if left:
        to_left = along
        _extend(b, to_left, c, y)
        b.ends[to_left].left = west
    along = NONE
    b.columns[c] = NONE
    if right:  # a walk to the east has the region to the north on its left
        along = _begin(b, c, y, above[c + 1] > below[c + 1])
        to_right = b.ends[along].partner
        b.ends[to_right].left = label_above[c + 1]
    if down:  # a walk to the south has the region to the east on its left
        b.columns[c] = _begin(b, c, y, below[c + 1] > below[c])
        to_down = b.ends[b.columns[c]].partner
        b.ends[to_down].left = label_below[c + 1]
    _fix(b, to_up, to_right, to_down, to_left)
    _fix(b, to_right, to_down, to_left, to_up)
    _fix(b, to_down, to_left, to_up, to_right)
    _fix(b, to_left, to_up, to_right, to_down)
    return along


@inlined
def _fix(b: Borders, end: int, first: int, second: int, third: int) -> None:
    """Fix an end to its node and store where a walk that arrives there continues: to the left if possible.

    Where four borders meet, two of the regions lie diagonally. If these two prove to be one region, its rings
    must not pass the node twice. The walk then crosses the node, to the third end.
    """
    if end < 0:
        return
    ends = b.ends
    ends[end].state = FIXED
    ends[end].turn = first if first >= 0 else second if second >= 0 else third
    ends[end].across = third if first >= 0 and second >= 0 else NONE
    _queue_if_complete(b, end)


@inlined
def _queue_if_complete(b: Borders, end: int) -> None:
    """Queue an end's arc if both its ends are fixed."""
    ends, counters = b.ends, b.counters[0]
    partner = ends[end].partner
    if ends[end].state == FIXED and ends[partner].state == FIXED:
        head = end if ends[end].is_head == 1 else partner
        ends[head].next = NONE
        if counters.first_arc < 0:
            counters.first_arc = head
        else:
            ends[counters.last_arc].next = head
        counters.last_arc = head


@inlined
def _new_vertex(b: Borders, x: int, y: int) -> int:
    counters, vertices = b.counters[0], b.vertices
    vertex = counters.free_vertex
    counters.free_vertex = vertices[vertex].next
    counters.free_vertices -= 1
    vertices[vertex].x = x
    vertices[vertex].y = y
    vertices[vertex].next = NONE
    vertices[vertex].is_sharp = 1
    return vertex


@inlined
def _begin(b: Borders, x: int, y: int, grows_at_tail: bool) -> int:
    """Begin an arc of one vertex and return the end at which it will grow."""
    ends, counters = b.ends, b.counters[0]
    one = counters.free_end
    other = np.int64(ends[one].next)
    counters.free_end = ends[other].next
    counters.free_ends -= 2
    vertex = _new_vertex(b, x, y)
    for end in (one, other):
        ends[end].vertex = vertex
        ends[end].state = OPEN
        ends[end].top = y
    ends[one].partner = other
    ends[other].partner = one
    ends[one].is_head = not grows_at_tail
    ends[other].is_head = grows_at_tail
    return one


@inlined
def _extend(b: Borders, end: int, x: int, y: int) -> None:
    """Add a vertex at an open end."""
    vertex = _new_vertex(b, x, y)
    last = b.ends[end].vertex
    if b.ends[end].is_head == 1:
        b.vertices[vertex].next = last
    else:
        b.vertices[last].next = vertex
    b.ends[end].vertex = vertex


@inlined
def _join(b: Borders, one: int, other: int, x: int, y: int) -> None:
    """Join two arcs whose open ends meet."""
    ends, counters = b.ends, b.counters[0]
    head, tail = (one, other) if ends[one].is_head == 1 else (other, one)
    _extend(b, tail, x, y)
    b.vertices[ends[tail].vertex].next = ends[head].vertex
    before, after = ends[tail].partner, ends[head].partner
    ends[before].partner = after
    ends[after].partner = before
    top = min(ends[tail].top, ends[head].top)
    ends[before].top = top
    ends[after].top = top
    ends[head].next = counters.free_end
    ends[tail].next = head
    counters.free_end = tail
    counters.free_ends += 2
    _queue_if_complete(b, before)


@inlined
def _new_region(b: Borders, code: int) -> int:
    regions, counters = b.regions, b.counters[0]
    region = counters.free_region
    counters.free_region = regions[region].next_free
    counters.free_regions -= 1
    regions[region].parent = region
    regions[region].code = code
    regions[region].first_end = NONE
    regions[region].next_member = region
    regions[region].ends = 0
    b.pixels[region] = 0
    for s in range(b.statistics.shape[1]):
        b.statistics[region, s].count = 0
        b.statistics[region, s].total = 0
        b.statistics[region, s].low = np.inf
        b.statistics[region, s].high = -np.inf
    return region


@compiled
def _unite(b: Borders, one: int, other: int) -> int:
    """Make one region of two that prove to touch; return it."""
    one, other = root(b, one), root(b, other)
    if one == other:
        return one
    kept, gone = b.regions[one], b.regions[other]
    gone.parent = one
    kept.last_row = max(kept.last_row, gone.last_row)
    member = kept.next_member
    kept.next_member = gone.next_member
    gone.next_member = member
    kept.ends += gone.ends
    if kept.first_end < 0:
        kept.first_end = gone.first_end
        kept.last_end = gone.last_end
    elif gone.first_end >= 0:
        b.ends[kept.last_end].next = gone.first_end
        kept.last_end = gone.last_end
    b.pixels[one] += b.pixels[other]
    for s in range(b.statistics.shape[1]):
        mine, theirs = b.statistics[one, s], b.statistics[other, s]
        mine.count += theirs.count
        mine.total += theirs.total
        mine.low = min(mine.low, theirs.low)
        mine.high = max(mine.high, theirs.high)
    return one


@compiled
def _queue_closed(b: Borders, region: int) -> None:
    counters = b.counters[0]
    b.regions[region].next_closed = NONE
    if counters.first_closed < 0:
        counters.first_closed = region
    else:
        b.regions[counters.last_closed].next_closed = region
    counters.last_closed = region
