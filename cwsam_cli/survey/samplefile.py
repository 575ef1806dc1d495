"""Write and read samples: a GeoPackage with the design inside, and the same points as CSV.

The reference is empty at first. Interpreters fill it in, in QGIS or in the CSV, with codes or names of classes. More
interpreters add fields `reference_2`, `reference_3`.

A block may show several classes. Then `reference_shares` names the others with their per cent of the block, as in
`Forest 40, Water 10`, and the rest is of the class in `reference`.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from cwsam_cli.errors import DataError
from cwsam_cli.files import FORMULA, plain_cell, staged
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.survey.design import Design, MapClass
from cwsam_cli.survey.form import form_style
from cwsam_cli.taxonomy import name_key
from cwsam_cli.vector.layers import write_default_style, write_frame

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

REFERENCE = "reference"
SHARES = "_shares"
"""Ending of the field with the classes that have a part of a block."""
LAYER = "sample"
_DESIGN = "CWSAM_DESIGN"
_SECRET = ("map", "pixel_m2")
"""Fields that the CSV leaves out: one tells interpreters what the map says."""
_TELLING = ("stratum", "weight")
"""Fields that tell it, too, if strata are the map's classes."""
_PLACE = ("x", "y", "lon", "lat")
"""Fields of the CSV that stand for the geometry."""
NO_REFERENCE = -(2**31)
"""The value of a reference that is still empty."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Points of a sample, interpreted or not."""

    path: Path
    frame: "GeoDataFrame"
    """Fields `id`, `stratum`, `weight` (pixels or blocks per point), `map` (code), `pixel_m2` (ground of the pixel or
    block; pixels of a block without a CRS), `reference`, and others."""
    design: Design | None
    """None where the file has no design."""

    @property
    def interpreters(self) -> list[str]:
        """Names of the fields with references."""
        return [name for name in self.frame.columns if re.fullmatch(rf"{REFERENCE}(_\d+)?", name)]

    @property
    def answers(self) -> list[str]:
        """Names of all fields that interpreters fill in: those with references and those with shares."""
        return [name for name in self.frame.columns if re.fullmatch(rf"{REFERENCE}(_\d+)?({SHARES})?", name)]

    def texts(self, field: str) -> list[str]:
        """Return the values of a field as texts, (N,); all are empty without the field."""
        if field not in self.frame.columns:
            return [""] * len(self.frame)
        return [_text(value) for value in self.frame[field].tolist()]

    def references(self, field: str, classes: tuple[MapClass, ...]) -> NDArray[np.int64]:
        """Return the reference code of each point, (N,), `NO_REFERENCE` where it is empty.

        Raises:
            DataError: a value is neither a code nor a name of a class.
        """
        known: dict[object, int] = {name_key(entry.name): entry.code for entry in classes}
        known = {str(entry.code): entry.code for entry in classes} | known
        codes = np.full(len(self.frame), NO_REFERENCE, np.int64)
        wrong: list[str] = []
        for place, text in enumerate(self.texts(field)):
            if text and text not in known:
                wrong.append(text)
            elif text:
                codes[place] = known[text]
        if wrong:
            raise DataError(
                f"`{self.path}`: field `{field}` holds `{wrong[0]}`, which is not a class of the map",
                hint="write a code or a name; the classes are "
                + ", ".join(f"{entry.code} {entry.name}" for entry in classes),
            )
        return codes

    def shares(self, field: str, classes: tuple[MapClass, ...]) -> NDArray[np.float64]:
        """Return the share of each class in each unit, (N, classes), 0 in all where the reference is empty.

        Raises:
            DataError: a value is not a class, or shares are no per cent of classes that fit into a block.
        """
        places = {entry.code: place for place, entry in enumerate(classes)}
        codes = self.references(field, classes)
        found = np.zeros((len(codes), len(classes)))
        for row, text in enumerate(self.texts(field + SHARES)):
            for code, share in self._parts(field + SHARES, text, classes) if text else ():
                found[row, places[code]] += share
            total = found[row].sum()
            if total > 1 + 1e-6 or (0 < total < 1 - 1e-6 and codes[row] == NO_REFERENCE):
                raise DataError(
                    f"`{self.path}`: field `{field + SHARES}` holds `{text}`, which is {100 * total:g} % of a block",
                    hint=f"write at most 100 %, and the class of the rest into `{field}`",
                )
        for row, code in enumerate(codes.tolist()):
            if code != NO_REFERENCE:
                found[row, places[code]] += max(0.0, 1 - found[row].sum())
        return found

    def _parts(self, field: str, text: str, classes: tuple[MapClass, ...]) -> list[tuple[int, float]]:
        """Read classes and their shares from a text such as `Forest 40, Water 10`."""
        known = {name_key(entry.name): entry.code for entry in classes} | {str(e.code): e.code for e in classes}
        # Names may contain commas and numbers, so known names are looked for, the longest first.
        names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
        pattern = re.compile(rf"\s*({names})\s*[:=]?\s+(\d+(?:\.\d+)?)\s*%?\s*(?:[,;]|$)")
        parts, at = [], 0
        while at < len(text):
            found = pattern.match(text, at)
            if found is None:
                raise DataError(
                    f"`{self.path}`: field `{field}` holds `{text}`, which is not a list of classes and per cent",
                    hint=f"for example: {classes[0].name} 40",
                )
            parts.append((known[found[1]], float(found[2]) / 100))
            at = found.end()
        return parts


def centers(frame: "GeoDataFrame") -> tuple[Any, Any]:
    """Return x and y of points, or of the middle of blocks, (N,) each."""
    middle = shapely.centroid(frame.geometry.to_numpy())
    return shapely.get_x(middle), shapely.get_y(middle)


def _text(value: object) -> str:
    """Return a value as it would be typed: empty for none, `3` for 3.0."""
    if value is None or str(value) in ("<NA>", "nan"):  # pandas' missing values
        return ""
    text = str(value).strip()
    if text.startswith("'") and text[1:].lstrip().startswith(FORMULA):  # as `plain_cell` writes it
        text = text[1:]
    return name_key(re.sub(r"^(-?\d+)\.0+$", r"\1", text))


def write_sample(path: Path, frame: "GeoDataFrame", design: Design, *, overwrite: bool) -> None:
    """Write a sample: the GeoPackage, and a CSV beside it that does not tell the map's classes.

    Args:
        path: the GeoPackage.
        frame: see `Sample`.
        design: how the points were drawn.
        overwrite: whether existing files are replaced.
    """
    import geopandas

    fields = [name for name in frame.columns if name != frame.geometry.name]
    references = [name for name in fields if name.startswith(REFERENCE)]
    with staged(path, overwrite=overwrite) as file:
        write_frame(frame, file, layer=LAYER, layer_metadata={_DESIGN: design.as_json()})
        style = form_style(design.classes, reference=references, fields=fields, are_blocks=design.block_pixels > 1)
        write_default_style(file, LAYER, style)
        secret = [*_SECRET, *(_TELLING if design.has_class_strata else ())]
        table = frame.drop(columns=[frame.geometry.name, *secret], errors="ignore")
        x, y = centers(frame)
        table.insert(1, "x", x)
        table.insert(2, "y", y)
        if frame.crs is not None and not frame.crs.is_geographic:
            with suppress(ProjError):  # a local CRS, or one of another planet
                degrees = geopandas.GeoSeries.from_xy(x, y, crs=frame.crs).to_crs(4326)
                table.insert(3, "lon", degrees.x.round(7).to_numpy())
                table.insert(4, "lat", degrees.y.round(7).to_numpy())
        table.map(plain_cell).to_csv(file.with_suffix(".csv"), index=False)


def read_sample(path: Path) -> Sample:
    """Read a sample from a GeoPackage, another vector file or a CSV.

    A CSV takes the design and the CRS from the GeoPackage of the same name.

    Raises:
        DataError: the file is missing or unreadable, or has no field `reference`.
    """
    import geopandas
    import pyogrio

    if not path.exists():
        raise DataError(f"there is no file `{path}`", hint="check the path")
    package = path.with_suffix(".gpkg") if path.suffix.lower() == ".csv" else path
    if package.exists():
        refuse_unusable_layer(package)
    try:
        if path.suffix.lower() == ".csv":
            frame = _read_csv(path, package if package.exists() else None)
        else:
            layers = pyogrio.list_layers(path)[:, 0]
            frame = geopandas.read_file(path, layer=LAYER if LAYER in layers else layers[0])
        text = _design_text(package) if package.exists() else None
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError, IndexError) as error:
        raise DataError(f"`{path}` is not a readable sample: {error}", hint="a sample is a .gpkg or .csv") from None
    if not isinstance(frame, geopandas.GeoDataFrame) or REFERENCE not in frame.columns:
        raise DataError(
            f"`{path}` has no points with a field `{REFERENCE}`",
            hint=f"name the field with the reference classes `{REFERENCE}`",
        )
    try:
        design = Design.from_json(text) if text else None
    except ValueError as error:
        raise DataError(
            f"the design in `{package}` cannot be read: {error}", hint="draw the sample again with `cwsam sample`"
        ) from None
    if design is not None:
        _check(path, frame, design)
    return Sample(path, frame, design)


def _read_csv(path: Path, package: Path | None) -> "GeoDataFrame":
    import geopandas
    import pandas

    table = pandas.read_csv(path, dtype={REFERENCE: object})
    if not {"x", "y"} <= set(table.columns):
        raise ValueError("it has no columns `x` and `y`")
    if package is None:
        points = geopandas.points_from_xy(table["x"], table["y"])
        return geopandas.GeoDataFrame(table.drop(columns=list(_PLACE), errors="ignore"), geometry=points)
    if "id" not in table.columns:
        raise ValueError(f"it has no column `id`, by which its points are found in `{package}`")
    whole = geopandas.read_file(package, layer=LAYER)
    kept = [name for name in ("id", *_SECRET, *_TELLING) if name in whole.columns] + [whole.geometry.name]
    table = table.drop(columns=[name for name in (*_PLACE, *_SECRET, *_TELLING) if name in table.columns])
    merged = table.merge(whole[kept], on="id", how="left", validate="one_to_one")
    return geopandas.GeoDataFrame(merged, geometry=whole.geometry.name, crs=whole.crs)


def _design_text(path: Path) -> str | None:
    import pyogrio

    for layer in pyogrio.list_layers(path)[:, 0]:
        found = (pyogrio.read_info(path, layer=layer).get("layer_metadata") or {}).get(_DESIGN)
        if found:
            return str(found)
    return None


def _check(path: Path, frame: "GeoDataFrame", design: Design) -> None:
    """Refuse points that are not those of the design."""
    lacking = {"id", "stratum", "map"} - set(frame.columns)
    if lacking:
        raise DataError(
            f"`{path}` has no field `{min(lacking)}`, which the design needs",
            hint="keep the fields that `cwsam sample` wrote",
        )
    strata = frame.dropna(subset=["id", "stratum", "map"])["stratum"].to_numpy().astype(np.int64)
    found = np.bincount(strata.clip(0), minlength=len(design.strata) + 1)[1:]
    if frame["id"].duplicated().any() or found.tolist() != design.points.tolist():
        raise DataError(
            f"`{path}` holds {len(frame):,} points that are not the {int(design.points.sum()):,} points of its design",
            hint="keep all points, and their `id` and `stratum`; `cwsam sample --more` adds points",
        )
