"""Statistics of bands and classes, collected tile by tile in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.dataset.manifest import Band

_SAMPLE = 1 << 21
"""Values of all bands together that are kept for the percentiles of wide dtypes."""
_COUNTABLE = {"uint8", "int8", "uint16", "int16"}


@dataclass(slots=True)
class RunningStats:
    """Mean, standard deviation, extremes and percentiles of bands.

    Integers of up to 16 bits are counted by value, so every figure is exact. Of other values, percentiles are those
    of a regular sample; mean and standard deviation follow Chan et al. (1979). The result of `merge` depends on the
    order of the parts only, so any number of processes gives the same figures.
    """

    first: int = 0
    """The value that the first column of `histogram` counts."""
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """Pixels by band and value (C, V)."""
    moments: NDArray[np.float64] = field(default_factory=lambda: np.zeros((5, 0)))
    """Of values that are not counted, by band: number, mean, sum of squared deviations, minimum, maximum (5, C)."""
    sample: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """Every `stride`-th of these values, by band; NaN where a band has none (C, N)."""
    stride: int = 1

    def add(self, image: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Add the valid pixels of an image.

        Args:
            image: pixels (C, H, W).
            valid: which pixels count, (H, W); NaN and infinity never count.
        """
        whole = bool(valid.all())
        if not valid.size or (not whole and not valid.any()):
            return
        pixels = image.reshape(len(image), -1) if whole else image[:, valid]
        if pixels.dtype.name in _COUNTABLE:
            self._count(pixels)
        else:
            self._measure(pixels.astype(np.float64))

    def merge(self, other: "RunningStats") -> None:
        """Add the pixels that another object has seen."""
        if other.histogram.size:
            self._widen(other.first, other.histogram.shape[1], len(other.histogram))
            start = other.first - self.first
            self.histogram[:, start : start + other.histogram.shape[1]] += other.histogram
        if other.moments.size:
            self._join(other.moments, other.sample, other.stride)

    @property
    def pixels(self) -> int:
        """Return the number of pixels, of the band that has most."""
        counted = self.histogram.sum(axis=1) if self.histogram.size else np.zeros(1, np.int64)
        measured = self.moments[0] if self.moments.size else np.zeros(1)
        return int((counted + measured).max())

    def bands(self, names: Sequence[str]) -> tuple[Band, ...]:
        """Return one `Band` per name; a constant band has the standard deviation 1."""
        return tuple(self._band(number, name) for number, name in enumerate(names))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return arrays by name, for `numpy.savez`."""
        return {
            "first": np.array([self.first]),
            "histogram": self.histogram,
            "moments": self.moments,
            "sample": self.sample,
            "stride": np.array([self.stride]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "RunningStats":
        """Return the object that `to_arrays` described.

        Raises:
            KeyError: an array is missing.
        """
        return cls(
            first=int(arrays["first"][0]),
            histogram=np.asarray(arrays["histogram"], np.int64),
            moments=np.asarray(arrays["moments"], np.float64),
            sample=np.asarray(arrays["sample"], np.float64),
            stride=int(arrays["stride"][0]),
        )

    def _count(self, pixels: NDArray[np.generic]) -> None:
        if pixels.dtype == np.uint8:
            self._widen(0, 256, len(pixels))
            counts = [np.bincount(band, minlength=256) for band in pixels]
            first = 0
        else:
            first = int(pixels.min())
            self._widen(first, int(pixels.max()) - first + 1, len(pixels))
            counts = [np.bincount(band.astype(np.intp) - first) for band in pixels]
        for row, own in zip(self.histogram, counts, strict=True):
            row[first - self.first : first - self.first + len(own)] += own

    def _widen(self, first: int, values: int, bands: int) -> None:
        """Make the histogram hold values from `first` on."""
        if not self.histogram.size:
            self.first, self.histogram = first, np.zeros((bands, values), np.int64)
            return
        before = max(0, self.first - first)
        after = max(0, first + values - self.first - self.histogram.shape[1])
        if before or after:
            self.histogram = np.pad(self.histogram, ((0, 0), (before, after)))
            self.first -= before

    def _measure(self, pixels: NDArray[np.float64]) -> None:
        known = np.isfinite(pixels)
        if known.all():
            known_or_nan, low, high = pixels, pixels, pixels
        else:
            known_or_nan = np.where(known, pixels, np.nan)
            low, high = np.where(known, pixels, np.inf), np.where(known, pixels, -np.inf)
        count = known.sum(axis=1)
        mean = np.where(known, pixels, 0).sum(axis=1) / np.maximum(count, 1)
        moment = (np.where(known, pixels - mean[:, None], 0) ** 2).sum(axis=1)
        moments = np.stack([count, mean, moment, low.min(axis=1), high.max(axis=1)])
        self._join(moments, known_or_nan[:, :: self.stride], self.stride)

    def _join(self, moments: NDArray[np.float64], sample: NDArray[np.float64], stride: int) -> None:
        if not self.moments.size:
            self.moments, self.sample, self.stride = moments, sample, stride
        else:
            count, mean, moment, low, high = self.moments
            more, other, spread, lowest, highest = moments
            total = count + more
            share, apart = more / np.maximum(total, 1), other - mean
            self.moments = np.stack(
                [
                    total,
                    mean + apart * share,
                    moment + spread + apart**2 * count * share,
                    np.minimum(low, lowest),
                    np.maximum(high, highest),
                ]
            )
            common = max(stride, self.stride)
            parts = self.sample[:, :: common // self.stride], sample[:, :: common // stride]
            self.sample, self.stride = np.concatenate(parts, axis=1), common
        while self.sample.size > _SAMPLE:
            self.sample, self.stride = self.sample[:, ::2].copy(), self.stride * 2

    def _band(self, number: int, name: str) -> Band:
        counts = self.histogram[number] if self.histogram.size else np.zeros(0, np.int64)
        values = np.arange(self.first, self.first + len(counts), dtype=np.float64)
        seen = counts > 0
        values, counts = values[seen], counts[seen]
        parts = [self.moments[:, number]] if self.moments.size and self.moments[0, number] else []
        if counts.size:
            mean = float(values @ counts / counts.sum())
            parts.append(np.array([counts.sum(), mean, (values - mean) ** 2 @ counts, values[0], values[-1]]))
        if not parts:
            return Band(name=name, mean=0.0, std=1.0)
        merged = RunningStats()
        for part in parts:
            merged._join(part[:, None], np.zeros((1, 0)), 1)
        count, mean, moment, low, high = merged.moments[:, 0].tolist()
        if self.sample.size:
            own = self.sample[number][np.isfinite(self.sample[number])]
            values = np.concatenate([values, own])
            counts = np.concatenate([counts, np.full(own.size, self.stride)])
        p2, p98 = _percentiles(values, counts, (0.02, 0.98))
        std = float(np.sqrt(moment / count)) or 1.0
        return Band(name=name, mean=mean, std=std, minimum=low, maximum=high, p2=p2, p98=p98)


def _percentiles(values: NDArray[np.float64], counts: NDArray[np.int64], wanted: Sequence[float]) -> list[float]:
    """Return percentiles of values that occur several times, as numpy's linear method defines them."""
    order = np.argsort(values, kind="stable")
    values, ends = values[order], np.cumsum(counts[order])
    places = np.asarray(wanted) * (ends[-1] - 1)
    below = np.floor(places)
    low, high = (
        values[np.searchsorted(ends, np.minimum(place, ends[-1] - 1), side="right")] for place in (below, below + 1)
    )
    return [float(value) for value in low + (high - low) * (places - below)]


def class_weights(pixels: Sequence[int]) -> list[float]:
    """Compute the class weights of `loss_weight: auto`.

    A weight is proportional to one over the square root of the class's share of the pixels. The
    square root raises rare classes, but a class of a few hundred pixels does not dominate.

    Args:
        pixels: labelled pixels per class.

    Returns:
        Weights whose mean over all labelled pixels is 1. A class without labelled pixels gets 0.
    """
    counts = np.asarray(pixels, np.float64)
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    return [float(weight) for weight in weights * counts.sum() / max(1.0, float((weights * counts).sum()))]
