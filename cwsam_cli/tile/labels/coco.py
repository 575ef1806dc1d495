"""Read object annotations in the COCO format: polygons and run lengths in the pixels of images.

A pixel belongs to the object that contains its centre. Boxes without a segmentation label nothing.
Panoptic files, whose labels are PNG images, are not read.
Source: https://cocodataset.org/#format-data.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes

from cwsam_cli.config.class_files import Entry, class_keys
from cwsam_cli.config.load import make_label_table
from cwsam_cli.console import ONCE_A_KIND, log
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.scenes import file_name
from cwsam_cli.taxonomy import LabelTable
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED, Labels
from cwsam_cli.tile.labels.vector import burnable, field_codes

_GEOJSON = b'"Feature'
_BEGINNING = 4096
"""Bytes in which GeoJSON says what it is."""
_SHOWN = 5
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of a COCO file."""

    file_name: str
    width: int
    height: int
    annotations: list[dict[str, Any]]

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders and name of the file."""
        return PurePosixPath(self.file_name).parts


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The content of a COCO file."""

    categories: dict[int, str]
    """Names by id."""
    images: dict[str, list[CocoImage]]
    """Images by the stem of their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoSource:
    """Annotations of images, and how they become labels of pixels."""

    path: Path
    priority: tuple[int, ...] = ()
    """See `VectorSource`."""
    all_touched: bool = False
    """See `VectorSource`."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the labels."""
        return (self.path,)

    @contextmanager
    def opened(self, grid: Grid, scene: Path | str, table: LabelTable | None) -> Iterator[Labels]:
        """Read the annotations of a scene.

        Args:
            grid: the scene's grid; only its size counts.
            scene: the scene's path. The file lists an image of its name.
            table: the class table. It has the categories by name or by id.

        Raises:
            DataError: the file does not list the scene, or lists it with another size.
        """
        assert table is not None
        content = self._read()
        image = self._image(content, str(scene))
        if (image.width, image.height) != (grid.width, grid.height):
            raise DataError(
                f"`{self.path}` lists `{image.file_name}` with {image.width:,} × {image.height:,} pixels, but the "
                f"scene has {grid.width:,} × {grid.height:,}",
                hint="annotations are in pixels, so give the images that were annotated, without --res and --crs",
            )
        yield burnable(
            self._frame(content, image, table),
            Grid(None, Affine.identity(), grid.width, grid.height),
            all_touched=self.all_touched,
        )

    def table(self) -> LabelTable:
        """Make a class table of the categories. Their ids are the codes if all are within 0-254.

        Raises:
            DataError: there are none.
            ConfigError: their names make no class table.
        """
        categories = self._read().categories
        if not categories:
            raise DataError(f"`{self.path}` has no categories", hint="give a class table: --classes classes.yaml")
        entries = [Entry(number, name, "") for number, name in sorted(categories.items())]
        return make_label_table(class_keys(entries, self.path.stem), str(self.path))

    def warn_of_ids(self, table: LabelTable) -> None:
        """Warn of categories whose name is no class, but whose id stands for a class of another name."""
        names = {entry.code: entry.name for entry in table.taxonomy.classes}
        categories = self._read().categories
        codes = _category_codes(categories, table)
        other = [
            f"`{name}` ({number}) becomes `{names[codes[number]]}`"
            for number, name in categories.items()
            if codes[number] in names and name not in field_codes(table)
        ]
        if other:
            more = f", and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
            log.warning(
                "`%s`: no class has the name of %d categories, so their ids decide: %s%s",
                self.path,
                len(other),
                ", ".join(other[:_SHOWN]),
                more,
            )

    def _read(self) -> CocoFile:
        try:
            return _load(self.path, self.path.stat().st_mtime_ns)
        except (OSError, *_MALFORMED) as error:
            why = f"an entry has no {error}" if isinstance(error, KeyError) else error
            raise DataError(
                f"`{self.path}` is no COCO file of objects: {why}",
                hint="it needs images (id, file_name, width, height), categories (id, name) and annotations "
                "(image_id, category_id, segmentation)",
            ) from None

    def _image(self, content: CocoFile, scene: str) -> CocoImage:
        found = content.images.get(PurePosixPath(file_name(scene)).stem, [])
        exact = [image for image in found if PurePosixPath(image.file_name).name == file_name(scene)] or found
        parts = PurePosixPath(scene.replace("\\", "/")).parts
        longest = [image for image in exact if parts[-len(image.parts) :] == image.parts] or exact
        if len(longest) != 1:
            many = "several images with the name" if longest else "no image with the name"
            raise DataError(
                f"`{self.path}` lists {many} of `{scene}`", hint="give images as they are listed, or leave this one out"
            )
        return longest[0]

    def _frame(self, content: CocoFile, image: CocoImage, table: LabelTable) -> geopandas.GeoDataFrame:
        """Return the objects of an image in its pixels; the index is the annotation's id."""
        drawn = [(annotation, self._shape(annotation, image)) for annotation in image.annotations]
        objects = [(annotation, shape) for annotation, shape in drawn if shape is not None]
        if len(objects) < len(drawn):
            log.warning(
                "`%s`: %d annotation(s) of `%s` have no segmentation and label nothing",
                self.path,
                len(drawn) - len(objects),
                image.file_name,
                extra=ONCE_A_KIND,
            )
        numbers = [annotation["category_id"] for annotation, _ in objects]
        categories = {number: str(number) for number in numbers} | content.categories
        names = [categories[number] for number in numbers]
        known = _category_codes(categories, table)
        codes = [known[number] for number in numbers]
        ranks = {code: len(self.priority) - i for i, code in enumerate(self.priority)}
        ids = [annotation["id"] for annotation, _ in objects]
        frame = geopandas.GeoDataFrame(
            {
                "code": np.array(codes, np.int32),
                "value": pandas.Series(names, ids, object),
                "rank": [ranks.get(code, 0) for code in codes],
            },
            geometry=[shape for _, shape in objects],
            index=ids,
        )
        return frame[frame["code"] != NO_LABEL].sort_values(["rank", "code"], kind="stable")

    def _shape(self, annotation: dict[str, Any], image: CocoImage) -> shapely.Geometry | None:
        """Return an object in pixels; None without a segmentation.

        Raises:
            DataError: the segmentation is damaged.
        """
        try:
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, dict):
                return _outline(read_run_lengths(segmentation["counts"], *segmentation["size"]), image)
            rings = [np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation if len(ring) >= 6]
            if not all(np.isfinite(ring).all() for ring in rings):
                raise ValueError("a coordinate is not finite")
            return shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings]) if rings else None
        except _MALFORMED as error:
            raise DataError(
                f"`{self.path}`: the segmentation of annotation {annotation.get('id')} is damaged: {error}",
                hint="it is a list of polygons (x, y, x, y, ...), or run lengths with counts and size",
            ) from None


def _category_codes(categories: Mapping[int, str], table: LabelTable) -> dict[int, int]:
    """Return the class code of each category: that of its name, or else of its id; `UNEXPECTED` if it has neither.

    The id does not count as a code if another category has the name of that class.
    """
    known = field_codes(table)
    named = {known[name] for name in categories.values() if name in known}
    codes = {}
    for number, name in categories.items():
        code = known.get(name, known.get(number, UNEXPECTED))
        is_taken = name not in known and code == number and code in named
        codes[number] = UNEXPECTED if is_taken else code
    return codes


def is_coco(path: Path) -> bool:
    """Return whether a file is JSON with images and annotations, and no GeoJSON."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        if _GEOJSON in file.read(_BEGINNING):
            return False
    try:
        _load(path, path.stat().st_mtime_ns)
    except KeyError as error:
        return bool(error.args[0] != "annotations")  # a damaged file; the message comes when it is read
    except _MALFORMED:
        return False
    return True


@lru_cache(maxsize=4)
def _load(path: Path, _modified: int) -> CocoFile:
    """Read a file once for all its images, as long as it is not changed."""
    raw = json.loads(path.read_bytes())
    own: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in raw["annotations"]:
        own[annotation["image_id"]].append(
            {name: annotation[name] for name in ("id", "category_id")}
            | {"segmentation": annotation.get("segmentation") or []}
        )
    images: dict[str, list[CocoImage]] = defaultdict(list)
    for image in raw["images"]:
        name = str(image["file_name"]).replace("\\", "/")
        size = int(image["width"]), int(image["height"])
        images[PurePosixPath(name).stem].append(CocoImage(name, *size, own[image["id"]]))
    return CocoFile({int(entry["id"]): str(entry["name"]) for entry in raw["categories"]}, dict(images))


def read_run_lengths(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of run lengths.

    Runs go down the columns and begin with pixels outside the object. A text holds the runs in groups of 5 bits, the
    lowest first: 32 says that another group follows, and the last group has a sign. From the fourth run on, each number
    is the difference to the run two places before.

    Args:
        counts: lengths of the runs, or their text.
        height: rows of the image.
        width: columns of the image.

    Raises:
        ValueError: the runs do not fill the image.
    """
    runs = list(counts) if not isinstance(counts, str) else _runs_of(counts)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"the run lengths do not fill {width:,} × {height:,} pixels")
    mask: NDArray[np.bool_] = (np.arange(len(runs)) % 2 == 1).repeat(runs).reshape(width, height).T
    return mask


def _runs_of(text: str) -> list[int]:
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    return runs


def _outline(mask: NDArray[np.bool_], image: CocoImage) -> shapely.Geometry | None:
    """Return the pixels of a mask as polygons."""
    if mask.shape != (image.height, image.width):
        raise ValueError(f"its size is {mask.shape[1]:,} × {mask.shape[0]:,} pixels")
    values = mask.astype(np.uint8)
    parts = [shapely.geometry.shape(part) for part, _ in shapes(values, mask=mask, connectivity=4)]
    return shapely.union_all(parts) if parts else None  # parts of a mask share no edge
