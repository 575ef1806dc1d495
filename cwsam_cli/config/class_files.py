"""Read the class tables of other programs: QGIS styles, CSV files and raster attribute tables.

Each reader returns entries, and `class_keys` converts entries to the keys that a class table has in YAML. If a value
cannot be a class code (0-254), all classes are numbered from 1, and their values are under `from`.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from cwsam_cli.errors import ConfigError
from cwsam_cli.taxonomy import IGNORE, default_color, name_key

SUFFIXES = {".qml", ".csv", ".tsv", ".xml"}
"""Suffixes of the files that `read_class_file` reads."""

_VALUE = (
    "value",
    "code",
    "id",
    "class_id",
    "class id",
    "classid",
    "gridcode",
    "grid_code",
    "pixel",
    "dn",
    "raster_value",
)
_NAME = ("name", "class_name", "class_names", "class name", "class", "label", "description", "category", "land_cover")
_COLOR = ("color", "colour", "hex", "html", "rgb")
_RGB = (("red", "r"), ("green", "g"), ("blue", "b"))
_INTEGER = re.compile(r"[+-]?\d+(\.0*)?")
_USAGES = {"1": "count", "2": "name", "5": "value", "6": "red", "7": "green", "8": "blue"}
"""GDAL's usages of an attribute table's columns, https://gdal.org/doxygen/gdal_8h.html (GDALRATFieldUsage)."""


class Entry(NamedTuple):
    """A class as another program's file tells it."""

    value: int | str
    name: str
    color: str
    """`#rrggbb`, or empty."""


def read_class_file(path: Path) -> dict[str, Any]:
    """Read a file with one of `SUFFIXES` as the keys of a class table.

    Raises:
        ConfigError: the file holds no class table.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            entries = _csv_entries(path)
        else:
            root = ElementTree.fromstring(path.read_bytes())
            entries = _style_entries(root) if path.suffix.lower() == ".qml" else _sidecar_entries(root)
    except (ElementTree.ParseError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ConfigError(f"`{path}` is not a class table: {error}", hint="write one as in `zion_nlcd`") from None
    if not entries:
        raise ConfigError(f"`{path}` holds no classes", hint="write a class table as in `zion_nlcd`")
    return class_keys(entries, path.name.partition(".")[0])


def table_keys(columns: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> dict[str, Any]:
    """Return a table as the keys of a class table; see `table_entries`.

    Raises:
        ConfigError: no column has a title that stands for the classes' values.
    """
    try:
        return class_keys(table_entries(columns, rows), path.name.partition(".")[0])
    except ValueError as error:
        raise ConfigError(f"`{path}` is not a class table: {error}", hint="write one as in `zion_nlcd`") from None


def class_keys(entries: Iterable[Entry], name: str) -> dict[str, Any]:
    """Return entries as the keys of a class table in YAML.

    Args:
        entries: the classes. Of entries with equal value, the first counts. Value 255 means "no label".
        name: the table's name.
    """
    own = list({entry.value: entry for entry in reversed(list(entries)) if entry.value != IGNORE}.values())[::-1]
    numbered = any(not isinstance(entry.value, int) or not 0 <= entry.value < IGNORE for entry in own)
    classes: list[dict[str, Any]] = []
    used: set[str] = set()
    for index, entry in enumerate(own):
        title = entry.name.strip() or f"class {entry.value}"
        if name_key(title) in used:
            title = f"{title} ({entry.value})"
        used.add(name_key(title))
        keys = {"code": index + 1 if numbered else entry.value, "name": title}
        keys["color"] = entry.color or default_color(index)
        classes.append(keys | ({"from": [entry.value]} if numbered else {}))
    return {"name": name, "classes": classes}


def table_entries(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Entry]:
    """Read classes from a table.

    Args:
        columns: titles of the columns.
        rows: the cells of each class.

    Raises:
        ValueError: no column has a title that stands for the classes' values.
    """
    titles = [str(column).strip().lower() for column in columns]
    value, name, color = _find(titles, _VALUE), _find(titles, _NAME), _find(titles, _COLOR)
    parts = [_find(titles, choices) for choices in _RGB]
    if value is None:
        raise ValueError(
            f"it has the columns {', '.join(map(str, columns))}, but none is called {', '.join(_VALUE[:3])}"
        )
    cells = [list(row) for row in rows if any(str(cell).strip() for cell in row)]
    values = [_value(str(row[value]).strip()) for row in cells]
    names = [str(row[name]).strip() if name is not None and row[name] is not None else "" for row in cells]
    if color is not None:
        colors = [_color(str(row[color])) for row in cells]
    else:
        given = [part for part in parts if part is not None]
        colors = (
            _mixed([[row[part] for part in given] for row in cells]) if len(given) == len(_RGB) else [""] * len(cells)
        )
    unnamed = not any(names)
    return [Entry(*entry) for entry in zip(values, names, colors, strict=True) if unnamed or entry[1]]


def attribute_entries(table: ElementTree.Element) -> list[Entry]:
    """Read classes from GDAL's XML of a raster attribute table. Without a column of values, rows count from 0."""
    columns = [(c.findtext("Name", ""), c.findtext("Type"), c.findtext("Usage", "")) for c in table.iter("FieldDefn")]
    rows = [[cell.text or "" for cell in row.iter("F")] for row in table.iter("Row")]
    titles = [_USAGES.get(usage, "") for _, _, usage in columns]
    plain = [name.lower() for name, _, _ in columns]
    if "value" not in titles:
        place = next((i for i, (_, kind, _) in enumerate(columns) if kind == "0" and plain[i] == "value"), None)
        if place is None:
            titles, rows = ["value", *titles], [[str(number), *row] for number, row in enumerate(rows)]
            columns = [("", "0", ""), *columns]
        else:
            titles[place] = "value"
    if "name" not in titles:
        texts = [i for i, (_, kind, _) in enumerate(columns) if kind == "2"]
        if not texts:
            return []
        titles[texts[0]] = "name"
    return table_entries(titles, rows)


def _find(titles: Sequence[str], choices: Sequence[str]) -> int | None:
    return next((titles.index(choice) for choice in choices if choice in titles), None)


def _csv_entries(path: Path) -> list[Entry]:
    text = path.read_text(encoding="utf-8-sig")
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    columns, *rows = list(csv.reader(text.splitlines(), delimiter=delimiter)) or [[]]
    return table_entries(columns, [row + [""] * (len(columns) - len(row)) for row in rows])


def _style_entries(root: ElementTree.Element) -> list[Entry]:
    """Read classes from a QGIS style of a raster with a palette or colour ramp, or of categorized features."""
    items = [*root.iter("paletteEntry"), *root.iterfind(".//colorrampshader/item")]
    if items:
        keys = [(item.get("value", ""), item.get("label", ""), item.get("color", "")) for item in items]
        return [Entry(_value(value), label, _color(color)) for value, label, color in keys if value]
    fills = {symbol.get("name", ""): _fill(symbol) for symbol in root.iter("symbol")}
    return [
        Entry(
            _value(entry.get("value", "")),
            entry.get("label", "") or entry.get("value", ""),
            fills.get(entry.get("symbol", ""), ""),
        )
        for entry in root.iter("category")
        if entry.get("value")
    ]


def _fill(symbol: ElementTree.Element) -> str:
    """Return the colour of a symbol, in the form of QGIS since 3.22 or before it."""
    for option in symbol.iter("Option"):
        if option.get("name") == "color":
            return _color(option.get("value", ""))
    return next((_color(prop.get("v", "")) for prop in symbol.iter("prop") if prop.get("k") == "color"), "")


def _sidecar_entries(root: ElementTree.Element) -> list[Entry]:
    """Read classes from a sidecar `.aux.xml`: an attribute table, or else category names."""
    for table in root.iter("GDALRasterAttributeTable"):
        entries = attribute_entries(table)
        if entries:
            return entries
    names = [category.text or "" for category in root.iterfind(".//CategoryNames/Category")]
    return [Entry(code, name, "") for code, name in enumerate(names) if name]


def _value(text: str) -> int | str:
    return (
        int(float(text))
        if "." in text and _INTEGER.fullmatch(text)
        else int(text)
        if _INTEGER.fullmatch(text)
        else text
    )


def _color(text: str) -> str:
    """Return a colour as `#rrggbb`: from `rrggbb` with or without `#` and alpha, or from `r,g,b`; or else empty."""
    text = text.strip().lower()
    if re.fullmatch(r"#?[0-9a-f]{6}([0-9a-f]{2})?", text):
        return f"#{text.lstrip('#')[:6]}"
    parts = re.findall(r"\d+(?:\.\d+)?", text)[:3]
    return _mixed([parts])[0] if len(parts) == len(_RGB) else ""


def _mixed(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return red, green and blue as `#rrggbb`. If no part of any row is above 1, parts are 0 to 1."""
    numbers = [[float(str(part).strip() or 0) for part in row] for row in rows]
    fractions = any(0 < part < 1 for row in numbers for part in row) and max(map(max, numbers)) <= 1
    scale = 255 if fractions else 1
    return ["#" + "".join(f"{min(255, max(0, round(scale * part))):02x}" for part in row) for row in numbers]


def split_values(
    raw: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], list[list[int | str] | None], list[int | str]]:
    """Separate the values of label files from the other keys of a class table.

    Args:
        raw: the keys of a class table.
        source: the file's name, for messages.

    Returns:
        The keys without values, the list under `from` for each class, and values under `unlabelled` that no code can
        have.

    Raises:
        ConfigError: a value is not a whole number of 64 bits or a text.
    """
    keys = dict(raw)
    own: list[list[int | str] | None] = []
    if isinstance(keys.get("classes"), list):
        keys["classes"] = [dict(entry) if isinstance(entry, dict) else entry for entry in keys["classes"]]
        for number, entry in enumerate(keys["classes"]):
            values = entry.pop("from", None) if isinstance(entry, dict) else None
            own.append(None if values is None else _checked(values, f"classes.{number}.from", source))
    unlabelled = keys.get("unlabelled")
    if not isinstance(unlabelled, list):
        return keys, own, []
    others = _checked(unlabelled, "unlabelled", source)
    if all(values is None for values in own):
        keys["unlabelled"] = [value for value in others if isinstance(value, int) and 0 <= value <= IGNORE]
        return keys, own, [value for value in others if value not in keys["unlabelled"]]
    del keys["unlabelled"]  # labels that `tile` writes hold class codes only
    return keys, own, others


def _checked(values: Any, key: str, source: str) -> list[int | str]:
    found = values if isinstance(values, list) else [values]
    for value in found:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | str)
            or (isinstance(value, int) and abs(value) >= 2**63)
        ):
            raise ConfigError(
                f"`{key}` in `{source}` holds {str(value)[:40]}, which no label can be",
                hint="give whole numbers, texts, or colours in quotes: [41, 42, '#00ff00']",
            )
    return [value.strip() if isinstance(value, str) else value for value in found]
