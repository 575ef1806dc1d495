"""Find tiles whose labels disagree with most of what a quick classifier sees.

The classifier is one Gaussian per class (quadratic discriminant analysis) of each band, its mean and its spread in
5 × 5 pixels. It learns from the labels of other blocks of ground, so a wrong tile does not teach itself. It makes no
good map, but it puts the tiles in an order: errors are likely among the first.
Source: Friedman, Regularized discriminant analysis, 1989, doi:10.1080/01621459.1989.10478752.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.audit.tiles import Pair, local_mean, read_pair
from cwsam_cli.console import track
from cwsam_cli.errors import DataError
from cwsam_cli.files import csv_text, staged
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import has_position
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.vector.layers import write_frame

_Floats = NDArray[np.float64]

_MOST = 0.5
"""Share of a tile's pixels that must disagree for a suspect."""
_PIXELS = 200
"""Most pixels of a tile that are used."""
_FEW = 20
"""Fewest pixels of a tile that is judged."""
_FOLDS = 5
_TRAINING = 50_000
"""Most pixels that a classifier learns from."""
_REACH = 2
"""Pixels around a pixel whose mean and spread are features."""
_POOLED = 50
"""Pixels by which the covariance of all classes counts in that of a class, so that rare classes have one."""
_RIDGE = 1e-2
"""Added to variances of standardised features, so that equal bands are no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A tile whose labels are probably wrong, or whose image shows something unusual."""

    image: str
    split: str
    disagreement: float
    """Share of its labelled pixels to which the classifier gives another class, 0 to 1."""
    label: str
    """The most frequent label of the pixels that disagree."""
    looks_like: str
    """The classifier's most frequent class of those pixels, which is another one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some labelled pixels of a tile."""

    split: str
    image: Path
    grid: Grid
    features: NDArray[np.float32]
    """(P, F)."""
    codes: NDArray[np.int64]
    """(P,)."""


def find_suspects(
    work: Sequence[tuple[str, Path, Path]], root: Path, names: Mapping[int, str]
) -> list[tuple[Suspect, Grid]]:
    """Return the tiles that disagree with most of their labels, the worst first, with their grids.

    Args:
        work: split, image and label of each tile.
        root: the dataset. Its `tiles.gpkg` names the blocks of ground; without it each tile is a block.
        names: class names by code.

    Raises:
        DataError: a tile is damaged.
    """
    samples = [
        draw_sample(split, image, read_pair(image, label), number)
        for number, (split, image, label) in enumerate(track(work, "looking for wrong labels", unit="tile"))
    ]
    samples = [sample for sample in samples if len(sample.codes) >= _FEW]
    blocks = _read_blocks(root)
    shares, seen = judge_samples(samples, [blocks.get(sample.image.stem, sample.image.stem) for sample in samples])
    order = sorted(range(len(samples)), key=lambda number: -shares[number])
    found = []
    for number in order:
        if shares[number] <= _MOST:
            break
        sample = samples[number]
        differs = seen[number] != sample.codes
        label = _most_frequent(sample.codes[differs])
        looks_like = _most_frequent(seen[number][differs & (sample.codes == label)])
        suspect = Suspect(
            image=str(sample.image),
            split=sample.split,
            disagreement=round(shares[number], 3),
            label=names.get(label, f"code {label}"),
            looks_like=names.get(looks_like, f"code {looks_like}"),
        )
        found.append((suspect, sample.grid))
    return found


def draw_sample(split: str, image: Path, pair: Pair, seed: int) -> Sample:
    """Draw up to 200 labelled pixels of a tile.

    Args:
        split: the tile's split.
        image: its path.
        pair: its pixels.
        seed: the seed of the draw.
    """
    places = np.flatnonzero(pair.labelled)
    if len(places) > _PIXELS:
        places = np.random.default_rng(seed).choice(places, _PIXELS, replace=False)
    features = []
    for band in pair.image.astype(np.float64) if len(places) else ():
        filled = np.where(pair.valid, band, band[pair.valid].mean())
        mean = local_mean(filled, _REACH)
        spread = np.sqrt(np.maximum(local_mean(filled**2, _REACH) - mean**2, 0))
        features += [values.ravel()[places] for values in (filled, mean, spread)]
    shape = (len(places), 3 * len(pair.image))
    drawn = np.stack(features, axis=1) if features else np.zeros(shape)
    return Sample(split, image, pair.grid, drawn.astype(np.float32), pair.codes.ravel()[places].astype(np.int64))


def judge_samples(samples: Sequence[Sample], blocks: Sequence[str]) -> tuple[list[float], list[NDArray[np.int64]]]:
    """Return the share of each tile's pixels that disagree, and the classes that the classifier gives them.

    Args:
        samples: the pixels of each tile.
        blocks: the block of each tile. Tiles of a block are judged by a classifier that learnt from other blocks.
    """
    names = sorted(set(blocks))
    order = np.random.default_rng(0).permutation(len(names)) % _FOLDS
    fold_of = dict(zip(names, order.tolist(), strict=True))
    folds = np.array([fold_of[block] for block in blocks], np.int64)
    shares, seen = [0.0] * len(samples), [sample.codes for sample in samples]
    for fold in np.unique(folds).tolist():
        others = [samples[number] for number in np.flatnonzero(folds != fold).tolist()]
        if not others:
            break
        classifier = Classifier.learn(
            np.concatenate([sample.features for sample in others]), np.concatenate([sample.codes for sample in others])
        )
        for number in np.flatnonzero(folds == fold).tolist():
            seen[number] = classifier.classify(samples[number].features)
            shares[number] = float((seen[number] != samples[number].codes).mean())
    return shares, seen


@dataclass(frozen=True, slots=True)
class Classifier:
    """A Gaussian of the standardised features for each class, and how frequent each class is."""

    codes: NDArray[np.int64]
    """(K,)."""
    center: _Floats
    scale: _Floats
    """Mean and standard deviation of the features (F,)."""
    means: _Floats
    """(K, F)."""
    roots: _Floats
    """Matrices W with W Wᵀ = inverse covariance (K, F, F)."""
    shares: _Floats
    """Share of each class (K,)."""

    @classmethod
    def learn(cls, features: NDArray[np.float32], codes: NDArray[np.int64]) -> "Classifier":
        """Estimate means and covariances.

        Args:
            features: (N, F).
            codes: (N,).
        """
        if len(codes) > _TRAINING:
            chosen = np.random.default_rng(0).choice(len(codes), _TRAINING, replace=False)
            features, codes = features[chosen], codes[chosen]
        center, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale = np.where(scale > 0, scale, 1)
        values = (features - center) / scale
        classes, index = np.unique(codes, return_inverse=True)
        means = np.stack([values[index == number].mean(axis=0) for number in range(len(classes))])
        apart = values - means[index]
        scatters = [apart[index == number].T @ apart[index == number] for number in range(len(classes))]
        pooled = np.sum(scatters, axis=0) / len(values)
        counts = np.bincount(index)
        ridge = _RIDGE * np.eye(len(center))
        covariances = [
            (scatter + _POOLED * pooled) / (count + _POOLED) + ridge
            for scatter, count in zip(scatters, counts.tolist(), strict=True)
        ]
        roots = np.linalg.cholesky(np.linalg.inv(np.stack(covariances)))
        return cls(classes, center, scale, means, roots, counts / len(values))

    def classify(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the likeliest class of each pixel (P,)."""
        values = (features - self.center) / self.scale
        scores = [
            np.log(share) + np.log(np.diag(root)).sum() - (((values - mean) @ root) ** 2).sum(axis=1) / 2
            for mean, root, share in zip(self.means, self.roots, self.shares, strict=True)
        ]
        return np.asarray(self.codes[np.argmax(scores, axis=0)])


def write_suspects(found: Sequence[tuple[Suspect, Grid]], path: Path, *, overwrite: bool) -> None:
    """Write suspects with their outlines as a layer, or as a table, the worst first.

    Args:
        found: suspects with their grids.
        path: a GeoPackage, or a CSV file without outlines.
        overwrite: whether an existing file may be replaced.

    Raises:
        DataError: a tile has no position, so it has no outline.
        MachineError: the file could not be written whole.
    """
    columns = {
        "rank": list(range(1, len(found) + 1)),
        "tile": [Path(own.image).stem for own, _ in found],
        **{
            name: [getattr(own, name) for own, _ in found]
            for name in ("split", "disagreement", "label", "looks_like", "image")
        },
    }
    with staged(path, overwrite=overwrite) as target:
        if path.suffix.lower() == ".csv":
            rows = zip(*columns.values(), strict=True)
            target.write_text(csv_text([columns, *rows]), encoding="utf-8")
            return
        outlines = _outlines(found, path)
        frame = geopandas.GeoDataFrame(columns, geometry=outlines.to_numpy(), crs=outlines.crs)
        write_frame(frame, target, layer="suspects", geometry_type="Polygon")


def _outlines(found: Sequence[tuple[Suspect, Grid]], path: Path) -> geopandas.GeoSeries:
    """Return the outlines of tiles in their CRS, or in EPSG:4326 if they have several."""
    unplaced = next((own.image for own, grid in found if grid.crs is None or not has_position(grid)), None)
    if unplaced is not None:
        raise DataError(
            f"`{unplaced}` has no position, so it has no outline in `{path}`",
            hint=f"write a table: --suspects {path.with_suffix('.csv')}",
        )
    systems = [grid.crs.to_wkt() for _, grid in found if grid.crs is not None]
    common = systems[0] if len(set(systems)) == 1 else "EPSG:4326"
    shapes = [
        geopandas.GeoSeries([shapely.Polygon(grid.corners(Window(0, 0, grid.width, grid.height)))], crs=system)
        for (_, grid), system in zip(found, systems, strict=True)
    ]
    moved = [shape if shape.crs == common else shape.to_crs(common) for shape in shapes]
    return geopandas.GeoSeries([shape[0] for shape in moved], crs=common)


def _read_blocks(root: Path) -> dict[str, str]:
    """Return the block of each tile, from `tiles.gpkg`; empty without it."""
    path = root / "tiles.gpkg"
    if not path.is_file():
        return {}
    refuse_unusable_layer(path)
    try:
        frame = pyogrio.read_dataframe(path, columns=["tile", "block"], read_geometry=False)
        return dict(zip(frame["tile"].astype(str), frame["block"].astype(str), strict=True))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, KeyError) as error:
        raise DataError(f"`{path}` does not describe the tiles: {error}", hint="tile the scenes again") from None


def _most_frequent(codes: NDArray[np.int64]) -> int:
    return int(Counter(codes.tolist()).most_common(1)[0][0])
