"""Simplify each border once for both its sides, so that neighbours still share it.

Vertices are removed one by one, in the order of the triangle that they form with their two neighbours,
the smallest first (Visvalingam and Whyatt 1993). A vertex is removed only if the original border then
stays within the tolerance of the remaining one. Nodes and the corners of the map are never removed.

Borders cannot cross. A vertex is removed only if its triangle contains no vertex of any other border in
its original form. An edge could enter the triangle only with one of its own vertices, and these are among
the original ones. The result therefore depends neither on the order of arcs nor on arcs that are still open.
A loop keeps at least four vertices, and any other arc that has bends keeps at least one of them. Two borders
between the same two nodes therefore never become one line.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.regions.compiled import allocating, compiled
from cwsam_cli.vectorize.borders import Borders, Int32

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]

_NEVER = np.iinfo(np.int64).max


@dataclass(slots=True)
class Bends:
    """The pixel corners where borders bend or meet, one bit per corner, on the lines that open arcs still need."""

    bits: NDArray[np.uint8]
    first: int = 0
    """The number of the line in the first row of bits."""
    used: int = 0
    """Rows of bits in use."""

    @classmethod
    def none(cls, width: int) -> "Bends":
        """Return an empty store for a map of this width in pixels."""
        return cls(np.zeros((0, width // 8 + 1), np.uint8))

    def take_in(self, codes: Int32, top: int, height: int, oldest: int) -> None:
        """Drop the lines above `oldest` and add the lines between rows.

        Args:
            codes: (H + 1, W + 2), with OUTSIDE before and after each row.
            top: the number of the second of these rows in the map.
            height: rows of the map.
            oldest: the uppermost line that is still needed.
        """
        rows = len(codes) - 1
        if self.used + rows > len(self.bits):  # rare, because twice the needed capacity is allocated
            kept = self.bits[max(0, oldest - self.first) : self.used]
            self.bits = np.zeros((2 * (len(kept) + rows), self.bits.shape[1]), np.uint8)
            self.bits[: len(kept)] = kept
            self.first += self.used - len(kept)
            self.used = len(kept)
        fresh = self.bits[self.used : self.used + rows]
        fresh[:] = 0
        _mark(codes, top, height, fresh)
        self.used += rows


@compiled
def _mark(codes: Int32, top: int, height: int, bits: NDArray[np.uint8]) -> None:
    width = codes.shape[1] - 2
    for r in range(1, len(codes)):
        above, below = codes[r - 1], codes[r]
        edge = top + r - 1 == 0 or top + r - 1 == height
        for c in range(width + 1):
            up, down = above[c] != above[c + 1], below[c] != below[c + 1]
            left, right = above[c] != below[c], above[c + 1] != below[c + 1]
            if up != down or left != right or (up and left) or (edge and (c == 0 or c == width)):
                bits[r - 1, c >> 3] |= np.uint8(1 << (c & 7))


@allocating
def simplify_arcs(
    b: Borders, tolerance: float, smooth: bool, jacobians: Floats, bits: NDArray[np.uint8], first_line: int
) -> None:
    """Simplify the complete arcs that are not registered yet.

    Args:
        b: the state, changed in place.
        tolerance: the largest distance that a border may move, in metres.
        smooth: mark bends that can be rounded as not sharp.
        jacobians: metres per pixel step on each line (H + 1, 2, 2), [[dx/dcol, dx/drow], [dy/dcol, dy/drow]];
            one matrix (1, 2, 2) if all lines are equal.
        bits: `Bends.bits`.
        first_line: `Bends.first`.
    """
    ends, vertices, counters = b.ends, b.vertices, b.counters[0]
    arc = counters.first_arc
    while arc >= 0:
        count = 0
        vertex = ends[arc].vertex
        while vertex >= 0:
            count += 1
            vertex = vertices[vertex].next
        if count > 2:
            xy = np.empty((count, 2), np.int64)
            vertex = ends[arc].vertex
            for i in range(count):
                xy[i, 0], xy[i, 1] = vertices[vertex].x, vertices[vertex].y
                vertex = vertices[vertex].next
            stays = _simplify(xy, tolerance, _longest_steps(jacobians, xy), bits, first_line)
            last = ends[arc].vertex
            before = 0
            for i in range(1, count):
                vertex = vertices[last].next
                if stays[i]:
                    last = vertex
                    after = i + 1
                    while after < count and not stays[after]:
                        after += 1
                    if smooth and after < count and _is_free(xy, before, i, after, bits, first_line):
                        vertices[vertex].is_sharp = 0
                    before = i
                else:
                    vertices[last].next = vertices[vertex].next
                    vertices[vertex].next = counters.free_vertex
                    counters.free_vertex = vertex
                    counters.free_vertices += 1
        arc = ends[arc].next


@allocating
def _longest_steps(jacobians: Floats, xy: Int64) -> Floats:
    """Return the largest ground distances per pixel step along an arc (2, 2), so the tolerance is never exceeded."""
    first, last = min(xy[:, 1].min(), len(jacobians) - 1), min(xy[:, 1].max(), len(jacobians) - 1)
    longest = jacobians[first].copy()
    for line in range(first + 1, last + 1):
        for i in range(2):
            for j in range(2):
                if abs(jacobians[line, i, j]) > abs(longest[i, j]):
                    longest[i, j] = jacobians[line, i, j]
    return longest


@allocating
def _simplify(
    xy: Int64, tolerance: float, steps: Floats, bits: NDArray[np.uint8], first_line: int
) -> NDArray[np.bool_]:
    """Decide which vertices of one arc stay.

    Args:
        xy: the arc's vertices (N, 2), in pixel corners.
        tolerance: in metres.
        steps: metres per pixel step (2, 2).
        bits: `Bends.bits`.
        first_line: `Bends.first`.

    Returns:
        True where a vertex stays (N,).
    """
    count = len(xy)
    before, after = np.arange(-1, count - 1), np.arange(1, count + 1)
    stays = np.ones(count, np.bool_)
    sizes = np.full(count, _NEVER)
    for i in range(1, count - 1):
        sizes[i] = abs(_twice_area(xy, i - 1, i, i + 1))
    loop = xy[0, 0] == xy[-1, 0] and xy[0, 1] == xy[-1, 1]
    spare = count - (5 if loop else 3)
    going = spare > 0 and tolerance > 0
    while going:
        going = False
        i = after[0]
        while i < count - 1 and spare > 0:
            one, other = before[i], after[i]
            if sizes[i] < _NEVER and sizes[i] <= sizes[one] and sizes[i] <= sizes[other]:
                going = True
                if _can_go(xy, one, i, other, tolerance, steps, bits, first_line):
                    stays[i] = False
                    spare -= 1
                    after[one], before[other] = other, one
                    if one > 0:
                        sizes[one] = abs(_twice_area(xy, before[one], one, other))
                    if other < count - 1:
                        sizes[other] = abs(_twice_area(xy, one, other, after[other]))
                else:
                    sizes[i] = _NEVER  # until a neighbour is removed
            i = other
        going = going and spare > 0
    return stays


@compiled
def _twice_area(xy: Int64, a: int, v: int, b: int) -> int:
    return (xy[v, 0] - xy[a, 0]) * (xy[b, 1] - xy[a, 1]) - (xy[b, 0] - xy[a, 0]) * (xy[v, 1] - xy[a, 1])


@compiled
def _can_go(
    xy: Int64,
    a: int,
    v: int,
    b: int,
    tolerance: float,
    steps: Floats,
    bits: NDArray[np.uint8],
    first_line: int,
) -> bool:
    """Return whether vertex v can be removed, so that the border is straight from vertex a to vertex b."""
    along_x = steps[0, 0] * (xy[b, 0] - xy[a, 0]) + steps[0, 1] * (xy[b, 1] - xy[a, 1])
    along_y = steps[1, 0] * (xy[b, 0] - xy[a, 0]) + steps[1, 1] * (xy[b, 1] - xy[a, 1])
    length2 = along_x * along_x + along_y * along_y
    own = 0
    for i in range(a + 1, b):
        dx = steps[0, 0] * (xy[i, 0] - xy[a, 0]) + steps[0, 1] * (xy[i, 1] - xy[a, 1])
        dy = steps[1, 0] * (xy[i, 0] - xy[a, 0]) + steps[1, 1] * (xy[i, 1] - xy[a, 1])
        part = 0.0 if length2 == 0 else min(1.0, max(0.0, (dx * along_x + dy * along_y) / length2))
        if (dx - part * along_x) ** 2 + (dy - part * along_y) ** 2 > tolerance * tolerance:
            return False
        own += i != v and _inside(xy[a], xy[v], xy[b], xy[i, 0], xy[i, 1])
    return _bends_inside(xy[a], xy[v], xy[b], 1, bits, first_line) == own


@allocating
def _is_free(xy: Int64, a: int, v: int, b: int, bits: NDArray[np.uint8], first_line: int) -> bool:
    """Return whether no other border lies in the triangle between v and the middles of its two edges."""
    one, corner, other = xy[a] + xy[v], 2 * xy[v], xy[v] + xy[b]
    own = 0
    for i in range(a + 1, b):
        own += i != v and _inside(one, corner, other, 2 * xy[i, 0], 2 * xy[i, 1])
    return _bends_inside(one, corner, other, 2, bits, first_line) == own


@compiled
def _inside(a: Int64, v: Int64, b: Int64, x: int, y: int) -> bool:
    """Return whether a point lies in the closed triangle."""
    one = (v[0] - a[0]) * (y - a[1]) - (x - a[0]) * (v[1] - a[1])
    two = (b[0] - v[0]) * (y - v[1]) - (x - v[0]) * (b[1] - v[1])
    three = (a[0] - b[0]) * (y - b[1]) - (x - b[0]) * (a[1] - b[1])
    inside = (one >= 0 and two >= 0 and three >= 0) or (one <= 0 and two <= 0 and three <= 0)
    in_x = min(a[0], v[0], b[0]) <= x <= max(a[0], v[0], b[0])  # also right if the triangle is flat
    return inside and in_x and min(a[1], v[1], b[1]) <= y <= max(a[1], v[1], b[1])


@compiled
def _bends_inside(a: Int64, v: Int64, b: Int64, scale: int, bits: NDArray[np.uint8], first_line: int) -> int:
    """Count the bends and nodes in a closed triangle, except at its corners.

    Args:
        a: a corner, in pixel corners times `scale`.
        v: a corner.
        b: a corner.
        scale: 1, or 2 where corners lie between pixel corners.
        bits: `Bends.bits`.
        first_line: `Bends.first`.
    """
    count = 0
    for line in range(-(-min(a[1], v[1], b[1]) // scale), max(a[1], v[1], b[1]) // scale + 1):
        y = line * scale
        low, high = np.inf, -np.inf
        for one, other in ((a, v), (v, b), (b, a)):
            if min(one[1], other[1]) <= y <= max(one[1], other[1]):
                if one[1] == other[1]:
                    near, far = float(one[0]), float(other[0])
                else:
                    near = far = one[0] + (other[0] - one[0]) * (y - one[1]) / (other[1] - one[1])
                low, high = min(low, near, far), max(high, near, far)
        row = bits[line - first_line]
        for column in range(int(np.ceil(low / scale - 1e-6)), int(np.floor(high / scale + 1e-6)) + 1):
            if row[column >> 3] >> (column & 7) & 1:
                x = column * scale
                corner = (x == a[0] and y == a[1]) or (x == v[0] and y == v[1]) or (x == b[0] and y == b[1])
                count += not corner and _inside(a, v, b, x, y)
    return count
