"""Turn a class raster into polygons that follow its pixel edges exactly, strip by strip.

A polygon is a 4-connected run of equal codes, with its holes. A vertex stands at every bend and
wherever three regions meet, so neighbours share their vertices and all polygons together are a valid
coverage. The polygons and their order do not depend on the height of the strips.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from cwsam_cli.maps.codes import OUTSIDE, Strip
from cwsam_cli.regions.corners import count_elements
from cwsam_cli.vectorize import borders as b
from cwsam_cli.vectorize import rings
from cwsam_cli.vectorize.scan import scan
from cwsam_cli.vectorize.simplify import Bends, simplify_arcs


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions that closed in the same strip, as ragged arrays.

    Region i has the rings `polygon_offsets[i]` to `polygon_offsets[i + 1]`, its outer ring first. Ring j
    has the vertices `ring_offsets[j]` to `ring_offsets[j + 1]`. Its last vertex equals its first.
    """

    codes: NDArray[np.int32]
    """(N,)"""
    pixels: NDArray[np.int64]
    """(N,)"""
    statistics: b.Records
    """(N, S) of STATISTIC, by region and other raster."""
    xy: NDArray[np.float64]
    """Vertices (V, 2): columns and rows, counted from the map's upper left corner."""
    ring_offsets: NDArray[np.int64]
    polygon_offsets: NDArray[np.int64]
    outline: NDArray[np.float64]
    """Edges (M, 2, 2), from and to, with a region on the right side only. The region may be in another part."""

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, chosen: NDArray[np.int64]) -> "Regions":
        """Return the regions with these indices, in this order."""
        own = _items(self.polygon_offsets, chosen)
        return Regions(
            codes=self.codes[chosen],
            pixels=self.pixels[chosen],
            statistics=self.statistics[chosen],
            xy=self.xy[_items(self.ring_offsets, own)],
            ring_offsets=_offsets(np.diff(self.ring_offsets)[own]),
            polygon_offsets=_offsets(np.diff(self.polygon_offsets)[chosen]),
            outline=self.outline,
        )

    @classmethod
    def concatenate(cls, parts: "Sequence[Regions]") -> "Regions":
        """Return the regions of all parts."""
        return cls(
            codes=np.concatenate([part.codes for part in parts]),
            pixels=np.concatenate([part.pixels for part in parts]),
            statistics=np.concatenate([part.statistics for part in parts]),
            xy=np.concatenate([part.xy for part in parts]),
            ring_offsets=_offsets(np.concatenate([np.diff(part.ring_offsets) for part in parts])),
            polygon_offsets=_offsets(np.concatenate([np.diff(part.polygon_offsets) for part in parts])),
            outline=np.concatenate([part.outline for part in parts]),
        )

    def polygons(self) -> NDArray[Any]:
        """Return the regions as shapely polygons (N,)."""
        return shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, self.xy, (self.ring_offsets, self.polygon_offsets)
        )


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _items(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of all items of the chosen rows of a ragged array."""
    lengths = np.diff(offsets)[chosen]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[chosen] - ends + lengths, lengths)


@dataclass(frozen=True, slots=True)
class Simplify:
    """How borders are simplified."""

    tolerance_m: float
    """The largest distance that a border may move, in metres."""
    jacobians: NDArray[np.float64]
    """Metres per pixel step on each line (H + 1, 2, 2) or (1, 2, 2), see `simplify_arcs`."""
    smooth: bool = False
    """Round bends after vertices were removed."""


def polygonize(
    strips: Iterable[Strip],
    width: int,
    height: int,
    *,
    statistics: int = 0,
    simplify: Simplify | None = None,
    outline: bool = False,
) -> Iterator[Regions]:
    """Yield the regions of a map as they close.

    Args:
        strips: the map, from its first row to its last.
        width: columns of the map.
        height: rows of the map.
        statistics: number of other rasters whose values the strips contain.
        simplify: how borders are simplified; None keeps every vertex.
        outline: also return the edges that have a region on one side only.

    Source: the same polygons as GDAL's polygonize, https://gdal.org/programs/gdal_polygonize.html
    """
    state = b.make_borders(width, statistics)
    codes = np.full((1, width + 2), OUTSIDE, np.int32)
    labels = np.zeros((1, width + 2), np.int32)
    changes = np.zeros((width // 8 + 1) * 8, np.uint8)
    bends = Bends.none(width)
    top = last = 0
    for strip in strips:
        rows = len(strip.codes)
        if len(codes) < rows + 2:
            more = (rows + 2 - len(codes), width + 2)
            codes = np.concatenate([codes, np.full(more, OUTSIDE, np.int32)])
            labels = np.concatenate([labels, np.zeros(more, np.int32)])
        codes[0], labels[0] = codes[last], labels[last]
        codes[1 : rows + 1, 1:-1] = strip.codes
        codes[rows + 1] = OUTSIDE
        last = rows
        size = rows + 1 + (top + rows == height)  # a row of OUTSIDE below the last row closes all regions
        nodes, turns, starts = count_elements(codes[:size])
        capacity = 4 * nodes + 2 * turns + 8  # a loop closes with two vertices
        state = b.with_capacity(state, capacity, capacity, starts)
        oldest = b.oldest_line(state, top) if simplify else 0
        scan(state, codes[:size], labels[:size], changes, top, height)
        if strip.values is not None:
            rings.collect_statistics(state, labels[1 : rows + 1, 1:-1], strip.values)
        if simplify:
            bends.take_in(codes[:size], top, height, oldest)
            simplify_arcs(state, simplify.tolerance_m, simplify.smooth, simplify.jacobians, bends.bits, bends.first)
        edges = rings.collect_outline(state) if outline else np.empty((0, 2, 2))
        rings.register(state)
        regions = _closed(state, edges)
        if len(regions) or len(edges):
            yield regions
        top += rows


def _closed(state: b.Borders, edges: NDArray[np.float64]) -> Regions:
    """Return the closed regions and free them."""
    regions, ends = rings.count_closed(state)
    starts, roots = np.empty(ends, np.int32), np.empty(regions, np.int32)
    ring_offsets, polygon_offsets = np.empty(ends + 1, np.int64), np.empty(regions + 1, np.int64)
    count = rings.walk_rings(state, starts, ring_offsets, polygon_offsets, roots)
    ring_offsets = ring_offsets[: count + 1]
    xy = np.empty((ring_offsets[-1], 2))
    rings.draw_rings(state, starts, ring_offsets, polygon_offsets, roots, xy)
    closed = Regions(
        codes=state.regions["code"][roots],
        pixels=state.pixels[roots],
        statistics=state.statistics[roots],
        xy=xy,
        ring_offsets=ring_offsets,
        polygon_offsets=polygon_offsets,
        outline=edges,
    )
    rings.free_closed(state)
    return closed
