"""Where label polygons of different classes overlap, as a layer for a GIS."""

from collections.abc import Iterable
from pathlib import Path

import geopandas
import numpy as np
import pandas
import shapely

from cwsam_cli.files import staged
from cwsam_cli.taxonomy import LabelTable, Taxonomy
from cwsam_cli.tile.labels.vector import VectorSource
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.vector.layers import write_frame


def find_overlaps(frame: geopandas.GeoDataFrame, taxonomy: Taxonomy) -> geopandas.GeoDataFrame:
    """Return the areas that two polygons of different classes share, the largest first.

    Args:
        frame: polygons from `VectorSource.near`. Points and lines are left out, and so are classes with a priority.
        taxonomy: the class table.

    Returns:
        MultiPolygons in the CRS of the labels, with the id and the class name of both features.
    """
    frame = frame[(frame["rank"] == 0) & (frame["code"] >= 0)]
    shapes = shapely.make_valid(frame.geometry.to_numpy())
    codes, ids = frame["code"].to_numpy(), frame.index.to_numpy()
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    both_areas = (shapely.get_dimensions(shapes[one]) == 2) & (shapely.get_dimensions(shapes[other]) == 2)
    pairs = (codes[one] < codes[other]) & both_areas
    one, other = one[pairs], other[pairs]
    shared = shapely.buffer(shapely.intersection(shapes[one], shapes[other]), 0)  # drops shared points and edges
    names = {entry.code: entry.name for entry in taxonomy.classes}
    found = geopandas.GeoDataFrame(
        {
            "id_1": ids[one],
            "class_1": [names[code] for code in codes[one].tolist()],
            "id_2": ids[other],
            "class_2": [names[code] for code in codes[other].tolist()],
        },
        geometry=[shapely.multipolygons(shapely.get_parts(area)) for area in shared],
        crs=frame.crs,
    )
    area = shapely.area(shared)
    order = np.argsort(-area, kind="stable")
    return found.iloc[order[area[order] > 0]]


def write_overlaps(scenes: Iterable[LabelledScene], table: LabelTable, path: Path, *, overwrite: bool) -> bool:
    """Write `find_overlaps` of the features near the scenes into a GeoPackage, and return whether there are any.

    Args:
        scenes: the scenes with their labels. Overlaps of the first layer that has some are written.
        table: the class table.
        path: the GeoPackage.
        overwrite: whether an existing file may be replaced.
    """
    near: dict[VectorSource, list[geopandas.GeoDataFrame]] = {}
    for scene in scenes:
        if isinstance(scene.labels, VectorSource):
            near.setdefault(scene.labels, []).append(scene.labels.near(scene.grid, table))
    for frames in near.values():
        frame = pandas.concat(frames)
        found = find_overlaps(frame[~frame.index.duplicated()], table.taxonomy)
        if not found.empty:
            with staged(path, overwrite=overwrite) as target:
                write_frame(found, target, layer="overlaps")
            return True
    return False
