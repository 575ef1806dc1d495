"""Simplify borders once for both their sides, so that neighbours go on sharing them.

Vertices go one by one, the smallest triangle with its two neighbours first (Visvalingam and
Whyatt 1993), as long as nothing of the border that was lies farther than the tolerance from
the one that remains. Nodes, where three regions meet, and the corners of the map stay.

Why nothing crosses: a vertex goes only if its triangle holds no vertex of any other border *as
the pixels have it*. A straight edge could enter the triangle only by one of its own vertices, and
those are among the pixels'. So the order does not matter, and neither do borders that are still open
further down. A loop keeps four vertices and any other border that has bends keeps one of them:
two borders between the same nodes never become one line.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.vectorize.borders import ARC_FIRST, NEXT, SHARP, VERTEX, VERTEX_FREE, VERTICES_LEFT, Borders, Int32, X, Y
from cwsam_cli.vectorize.compiled import allocating, compiled

Int64 = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max


@dataclass(slots=True)
class Bends:
    """Where borders bend or meet on the lines that open borders still need, a bit a pixel corner."""

    bits: NDArray[np.uint8]
    first: int = 0
    """The line of the first row of bits."""
    used: int = 0
    """Rows of bits that hold a line."""

    @classmethod
    def none(cls, width: int) -> "Bends":
        """No line yet."""
        return cls(np.zeros((0, width // 8 + 1), np.uint8))

    def take_in(self, codes: Int32, top: int, height: int, oldest: int) -> None:
        """Drop lines above `oldest` and add those between the rows of codes (H + 1, W + 2)."""
        rows = len(codes) - 1
        if self.used + rows > len(self.bits):  # rarely: the room is twice what is needed
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
    b: Borders, tolerance: float, smooth: bool, ground: NDArray[np.float64], bits: NDArray[np.uint8], first_line: int
) -> None:
    """Simplify the arcs that ended and are not registered yet.

    Args:
        b: the state, changed in place.
        tolerance: how far a border may move, in metres.
        smooth: mark bends that can be rounded as not sharp.
        ground: metres a pixel step by line, (dx/dcol, dx/drow, dy/dcol, dy/drow), or one row for all.
        bits: from `Bends`.
        first_line: of the bits.
    """
    ends, vertices = b.ends, b.vertices
    arc = b.counters[ARC_FIRST]
    while arc >= 0:
        count = 0
        vertex = ends[arc, VERTEX]
        while vertex >= 0:
            count += 1
            vertex = vertices[vertex, NEXT]
        if count > 2:
            xy = np.empty((count, 2), np.int64)
            vertex = ends[arc, VERTEX]
            for i in range(count):
                xy[i, 0], xy[i, 1] = vertices[vertex, X], vertices[vertex, Y]
                vertex = vertices[vertex, NEXT]
            stays = _simplify(xy, tolerance, _longest_steps(ground, xy), bits, first_line)
            last = ends[arc, VERTEX]
            before = 0
            for i in range(1, count):
                vertex = vertices[last, NEXT]
                if stays[i]:
                    last = vertex
                    after = i + 1
                    while after < count and not stays[after]:
                        after += 1
                    if smooth and after < count and _is_free(xy, before, i, after, bits, first_line):
                        vertices[vertex, SHARP] = 0
                    before = i
                else:
                    vertices[last, NEXT] = vertices[vertex, NEXT]
                    vertices[vertex, NEXT] = b.counters[VERTEX_FREE]
                    b.counters[VERTEX_FREE] = vertex
                    b.counters[VERTICES_LEFT] += 1
        arc = ends[arc, NEXT]


@allocating
def _longest_steps(ground: NDArray[np.float64], xy: Int64) -> NDArray[np.float64]:
    """Metres a pixel step where it is longest along an arc, so that it moves too far nowhere."""
    first, last = min(xy[:, 1].min(), len(ground) - 1), min(xy[:, 1].max(), len(ground) - 1)
    metres = ground[first].copy()
    for line in range(first + 1, last + 1):
        for k in range(4):
            if abs(ground[line, k]) > abs(metres[k]):
                metres[k] = ground[line, k]
    return metres


@allocating
def _simplify(
    xy: Int64, tolerance: float, metres: NDArray[np.float64], bits: NDArray[np.uint8], first_line: int
) -> NDArray[np.bool_]:
    """Which vertices of one arc stay."""
    count = len(xy)
    before, after = np.arange(-1, count - 1), np.arange(1, count + 1)
    stays = np.ones(count, np.bool_)
    sizes = np.full(count, _NEVER)
    for i in range(1, count - 1):
        sizes[i] = abs(_twice(xy, i - 1, i, i + 1))
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
                if _may_go(xy, one, i, other, tolerance, metres, bits, first_line):
                    stays[i] = False
                    spare -= 1
                    after[one], before[other] = other, one
                    if one > 0:
                        sizes[one] = abs(_twice(xy, before[one], one, other))
                    if other < count - 1:
                        sizes[other] = abs(_twice(xy, one, other, after[other]))
                else:
                    sizes[i] = _NEVER  # until a neighbour goes
            i = other
        going = going and spare > 0
    return stays


@compiled
def _twice(xy: Int64, a: int, v: int, b: int) -> int:
    return (xy[v, 0] - xy[a, 0]) * (xy[b, 1] - xy[a, 1]) - (xy[b, 0] - xy[a, 0]) * (xy[v, 1] - xy[a, 1])


@compiled
def _may_go(
    xy: Int64,
    a: int,
    v: int,
    b: int,
    tolerance: float,
    metres: NDArray[np.float64],
    bits: NDArray[np.uint8],
    first_line: int,
) -> bool:
    """Whether the border may run straight from vertex a to vertex b, past v."""
    along_x = metres[0] * (xy[b, 0] - xy[a, 0]) + metres[1] * (xy[b, 1] - xy[a, 1])
    along_y = metres[2] * (xy[b, 0] - xy[a, 0]) + metres[3] * (xy[b, 1] - xy[a, 1])
    length2 = along_x * along_x + along_y * along_y
    own = 0
    for i in range(a + 1, b):
        dx = metres[0] * (xy[i, 0] - xy[a, 0]) + metres[1] * (xy[i, 1] - xy[a, 1])
        dy = metres[2] * (xy[i, 0] - xy[a, 0]) + metres[3] * (xy[i, 1] - xy[a, 1])
        part = 0.0 if length2 == 0 else min(1.0, max(0.0, (dx * along_x + dy * along_y) / length2))
        if (dx - part * along_x) ** 2 + (dy - part * along_y) ** 2 > tolerance * tolerance:
            return False
        own += i != v and _inside(xy[a], xy[v], xy[b], xy[i, 0], xy[i, 1])
    return _bends_inside(xy[a], xy[v], xy[b], 1, bits, first_line) == own


@allocating
def _is_free(xy: Int64, a: int, v: int, b: int, bits: NDArray[np.uint8], first_line: int) -> bool:
    """Whether the corner at v, up to the middles of its edges, holds nothing of another border."""
    one, corner, other = xy[a] + xy[v], 2 * xy[v], xy[v] + xy[b]
    own = 0
    for i in range(a + 1, b):
        own += i != v and _inside(one, corner, other, 2 * xy[i, 0], 2 * xy[i, 1])
    return _bends_inside(one, corner, other, 2, bits, first_line) == own


@compiled
def _inside(a: Int64, v: Int64, b: Int64, x: int, y: int) -> bool:
    """Whether a point lies in the closed triangle."""
    one = (v[0] - a[0]) * (y - a[1]) - (x - a[0]) * (v[1] - a[1])
    two = (b[0] - v[0]) * (y - v[1]) - (x - v[0]) * (b[1] - v[1])
    three = (a[0] - b[0]) * (y - b[1]) - (x - b[0]) * (a[1] - b[1])
    inside = (one >= 0 and two >= 0 and three >= 0) or (one <= 0 and two <= 0 and three <= 0)
    in_x = min(a[0], v[0], b[0]) <= x <= max(a[0], v[0], b[0])  # three points on a line are one, too
    return inside and in_x and min(a[1], v[1], b[1]) <= y <= max(a[1], v[1], b[1])


@compiled
def _bends_inside(a: Int64, v: Int64, b: Int64, scale: int, bits: NDArray[np.uint8], first_line: int) -> int:
    """How many bends and nodes lie in the closed triangle, its corners not counted.

    Its coordinates are pixels times the scale.
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
