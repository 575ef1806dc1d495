"""How far measured tiles lie from training tiles, from `tiles.gpkg`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyogrio
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from cwsam_cli.assess.places import INDEX, list_tiles
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.vector.distances import nearest_distances

_LARGEST = (360, 91, 360, 91)
"""Bounds in degrees. Scenes without CRS beside scenes with one have pixels as coordinates, which are larger."""


def distances_from_training(data: Sequence[Path], split: str) -> NDArray[np.float64] | None:
    """Return the distance in metres of each tile of a split from the nearest training tile of any folder, (N,).

    Args:
        data: folders of datasets whose `tiles.gpkg` is known to list all tiles; see `find_places`.
        split: the measured split.

    Returns:
        The distances, one folder after the other. None if it is the training split, if a tile has no known position on
        the Earth, or if there is no training tile.
    """
    if split == "train":
        return None
    ours, theirs = [], []
    for folder in data:
        path = folder / INDEX
        if not path.is_file():
            return None
        refuse_unusable_layer(path)
        frame = pyogrio.read_dataframe(path, layer="tiles", columns=["tile", "split"])
        if frame.crs is None or "split" not in frame.columns:
            return None
        try:
            # Datasets may have different CRSs. Degrees are made true to scale at each pair.
            frame = frame.to_crs("EPSG:4326").set_index("tile")
        except ProjError:  # a local CRS
            return None
        if not (abs(frame.total_bounds) <= _LARGEST).all():
            return None
        ours.append(frame.geometry.loc[list_tiles(folder, split)].to_numpy())
        theirs.append(frame.geometry[frame["split"] == "train"].to_numpy())
    training = np.concatenate(theirs)
    return nearest_distances(np.concatenate(ours), training, in_degrees=True) if len(training) else None
