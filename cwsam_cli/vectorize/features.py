"""Turn regions into rows of a layer: class, area, perimeter, statistics of other rasters, polygon."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from cwsam_cli.maps.legend import Legend
from cwsam_cli.vector.layers import GEOMETRY
from cwsam_cli.vectorize.borders import STATISTIC, Records
from cwsam_cli.vectorize.measure import to_wkb
from cwsam_cli.vectorize.polygonize import Regions
from cwsam_cli.vectorize.request import CONFIDENCE

_ATTRIBUTES = (
    pa.field("code", pa.int32()),
    pa.field("name", pa.string()),
    pa.field("area_m2", pa.float64()),
    pa.field("area_ha", pa.float64()),
    pa.field("perim_m", pa.float64()),
    pa.field("pixels", pa.int64()),
)
_AGGREGATES = ("mean", "min", "max")
_SHAPEFILE_NAME = 10


@dataclass(frozen=True, slots=True)
class Columns:
    """The fields of a layer."""

    statistics: tuple[str, ...] = ()
    """Names of the other rasters."""

    @classmethod
    def of(cls, names: Sequence[str], *, shapefile: bool) -> "Columns":
        """Return the fields for these statistics, with names cut to a shapefile's ten bytes if needed."""
        longest = _SHAPEFILE_NAME - len("_mean") if shapefile else sys.maxsize
        chosen: list[str] = []
        for name in names:
            short, number = _cut(name, longest), 1
            while short in chosen:
                number += 1
                short = f"{_cut(name, longest - len(str(number)))}{number}"
            chosen.append(short)
        return cls(tuple(chosen))

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema of the record batches."""
        statistics = [
            pa.field(f"{name}_{kind}", pa.float64()) for name in self.statistics for kind in _list_aggregates(name)
        ]
        return pa.schema([*_ATTRIBUTES, *statistics, pa.field(GEOMETRY, pa.large_binary())])

    def batch(
        self,
        regions: Regions,
        areas: NDArray[np.float64],
        perimeters: NDArray[np.float64],
        legend: Legend,
        geometry: pa.Array,
    ) -> pa.RecordBatch:
        """Return one row per region.

        Args:
            regions: N regions.
            areas: (N,) in m².
            perimeters: (N,) in m.
            legend: the names of the codes.
            geometry: N polygons as WKB.
        """
        codes, index = np.unique(regions.codes, return_inverse=True)
        names = [legend.name(int(code)).encode() for code in codes]
        name = _bytes(pa.string(), [names[i] for i in index])
        numbers = (areas, areas / 1e4, perimeters, regions.pixels)
        arrays = [_numbers(regions.codes), name, *map(_numbers, numbers)]
        for at, statistic in enumerate(self.statistics):
            arrays += [_aggregate(regions.statistics[:, at], kind) for kind in _list_aggregates(statistic)]
        return pa.RecordBatch.from_arrays([*arrays, geometry], schema=self.schema)


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


def _list_aggregates(statistic: str) -> tuple[str, ...]:
    return _AGGREGATES[:2] if statistic == CONFIDENCE else _AGGREGATES


def _aggregate(statistic: Records, kind: str) -> pa.Array:
    count = statistic["count"]
    if kind == "mean":
        values = statistic["total"] / np.maximum(count, 1)
    else:
        values = statistic["low" if kind == "min" else "high"]
    return _numbers(values, np.packbits(count > 0, bitorder="little"))


def _numbers(values: NDArray[Any], present: NDArray[np.uint8] | None = None) -> pa.Array:
    """Return an Arrow array of numbers without copying them.

    Args:
        values: (N,).
        present: one bit per value, 0 where it is missing; None if none is missing.
    """
    buffers = [None if present is None else pa.py_buffer(present), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def _bytes(kind: pa.DataType, items: Sequence[bytes]) -> pa.Array:
    """Return an Arrow array of bytes or texts; types that begin with `large_` may exceed 2 GB in total."""
    width = np.int64 if kind in (pa.large_binary(), pa.large_string()) else np.int32
    offsets = np.cumsum([0, *map(len, items)], dtype=width)
    return pa.Array.from_buffers(kind, len(items), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(items))])


def encode_regions(xy: NDArray[np.float64], regions: Regions) -> pa.Array:
    """Return the regions' polygons as WKB, without one Python object per polygon.

    Args:
        xy: vertices (V, 2) to use instead of those of the regions.
        regions: N regions.
    """
    data, offsets = to_wkb(xy, regions)
    return pa.Array.from_buffers(pa.large_binary(), len(regions), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def encode_geometries(geometries: NDArray[Any]) -> pa.Array:
    """Return shapely geometries as WKB."""
    return _bytes(pa.large_binary(), shapely.to_wkb(geometries).tolist())


def dissolve(
    parts: Sequence[tuple[Regions, NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[Regions, NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Unite the regions of each class.

    Args:
        parts: regions with their areas in m² and perimeters in m.

    Returns:
        One region per class whose vertices must not be used, areas, perimeters, and one multipolygon per class.
    """
    regions = Regions.concatenate([part for part, _, _ in parts])
    order = np.argsort(regions.codes, kind="stable")
    regions = regions.take(order)
    areas, perimeters = (np.concatenate([part[i] for part in parts])[order] for i in (1, 2))
    codes, starts = np.unique(regions.codes, return_index=True)
    offsets = (regions.ring_offsets, regions.polygon_offsets, np.append(starts, len(regions)))
    geometry = shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, regions.xy, offsets)
    if not len(codes):
        return regions, areas, perimeters, geometry
    statistics = np.empty((len(codes), regions.statistics.shape[1]), STATISTIC)
    united = {"count": np.add, "total": np.add, "low": np.minimum, "high": np.maximum}
    for name, function in united.items():
        statistics[name] = function.reduceat(regions.statistics[name], starts)
    whole = replace(regions, codes=codes, pixels=np.add.reduceat(regions.pixels, starts), statistics=statistics)
    return whole, np.add.reduceat(areas, starts), np.add.reduceat(perimeters, starts), geometry
