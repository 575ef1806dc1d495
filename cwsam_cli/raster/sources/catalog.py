"""STAC items of maps and polygons, and the collection of a folder of maps.

Source: https://github.com/radiantearth/stac-spec, version 1.1.0, and the extensions projection, classification and file
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely
from pyproj import Transformer
from shapely import affinity

from cwsam_cli.console import without_secrets
from cwsam_cli.files import sha256, write_text
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.dates import find_date
from cwsam_cli.raster.sources.network import VIEW, is_plain_file
from cwsam_cli.raster.sources.views import View

COLLECTION = "collection.json"
KEY = "cwsam:key"
"""Property of our items: the digest of everything that the output depends on."""

CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_DESCRIPTION = "Land-cover maps made by cwsam"
_JSON = "application/json"
_SHA256 = "1220"  # multihash: SHA-256, 32 bytes
_PER_SIDE = 17  # points of an outline, because sides of a grid are curved in degrees


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSource:
    """What an item says of an output."""

    name: str
    key: str
    description: str
    grid: Grid
    date: str
    """See `find_date`."""
    assets: Mapping[str, Mapping[str, Any]]
    sources: Sequence[str]
    """Addresses of the scenes or maps that it was made from."""
    collection: str = ""
    """Id of the collection in the same folder; empty if there is none."""


def item_path(target: Path) -> Path:
    """Return where the item of an output lies: `map.tif` → `map.json`."""
    return target.with_suffix(".json")


def make_item(source: ItemSource) -> dict[str, Any]:
    """Return a STAC item 1.1. Without a CRS it has no geometry."""
    grid = source.grid
    links = [{"rel": "derived_from", "href": href} for href in source.sources]
    if source.collection:
        links += [{"rel": rel, "href": f"./{COLLECTION}", "type": _JSON} for rel in ("root", "parent", "collection")]
    place = {"proj:shape": [grid.height, grid.width], "proj:transform": list(grid.transform)[:6]}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_PROJECTION, CLASSIFICATION, FILE],
        "id": identifier(source.name),
        **_outline(grid),
        "properties": {
            **_time(source.date),
            "description": source.description,
            **({"gsd": grid.gsd_m} if grid.gsd_m else {}),
            **_crs(grid),
            **place,
            KEY: source.key,
        },
        "links": links,
        "assets": {key: dict(asset) for key, asset in source.assets.items()},
        **({"collection": source.collection} if source.collection else {}),
    }


def make_collection(name: str, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a STAC collection of items, by the names of their files."""
    boxes = [item["bbox"] for item in items.values() if "bbox" in item] or [[-180.0, -90.0, 180.0, 90.0]]
    crosses = any(box[0] > box[2] for box in boxes)
    west, east = (-180.0, 180.0) if crosses else (min(box[0] for box in boxes), max(box[2] for box in boxes))
    box = [west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)]
    times = [
        time
        for item in items.values()
        for field in ("datetime", "start_datetime", "end_datetime")
        if (time := item["properties"].get(field))
    ]
    links = [{"rel": "root", "href": f"./{COLLECTION}", "type": _JSON}]
    links += [{"rel": "item", "href": f"./{file}", "type": "application/geo+json"} for file in sorted(items)]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": _DESCRIPTION,
        "license": "other",
        "extent": {"spatial": {"bbox": [box]}, "temporal": {"interval": [[min(times), max(times)]]}},
        "links": links,
    }


def read_own(path: Path) -> dict[str, Any]:
    """Return an item or a collection that this program wrote; nothing if the file is another one, or missing."""
    try:
        raw = json.loads(path.read_text("utf-8"))
        is_own = raw.get("description") == _DESCRIPTION or KEY in (raw.get("properties") or {})
    except (OSError, ValueError, AttributeError):
        return {}
    return dict(raw) if is_own else {}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write an item or a collection."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def describe_file(path: Path, media_type: str, title: str, roles: Sequence[str]) -> dict[str, Any]:
    """Return the asset of a file in the item's folder, with its size and hash."""
    return {"href": f"./{path.name}", "type": media_type, "title": title, "roles": list(roles), **file_fields(path)}


def file_fields(path: Path) -> dict[str, Any]:
    """Return size and hash of a file in the form of the extension `file`."""
    return {"file:size": path.stat().st_size, "file:checksum": _SHA256 + sha256(path)}


def class_entry(value: int, name: str, color: str, *, description: str, fallback: str) -> dict[str, Any]:
    """Return a class in the form of the extension `classification`.

    Args:
        value: in the raster.
        name: of the class, in any script.
        color: `#rrggbb`.
        description: for people.
        fallback: name where the extension does not allow the class's own.
    """
    return {
        "value": value,
        "name": name if re.fullmatch(r"[0-9A-Za-z_-]+", name) else fallback,
        "description": description,
        "color_hint": color[1:].upper(),
    }


def identifier(name: str) -> str:
    """Return an id of an item or a collection without characters that URLs cannot have."""
    return re.sub(r"[^\w.-]+", "-", name)


def addresses(scene: str, folder: Path) -> list[str]:
    """Return where a scene comes from: the address of its STAC item, or of each of its files, without secrets."""
    if not scene.startswith(VIEW):
        return [_address(scene, folder)]
    view = View.from_text(scene)
    return [_address(path, folder) for path in ([view.origin] if view.origin else [path for _, path in view.members])]


def _address(path: str, folder: Path) -> str:
    if not is_plain_file(path):
        return without_secrets(path)
    return Path(os.path.relpath(Path(path).resolve(), folder.resolve())).as_posix()


def date_of(scene: str) -> str:
    """Return the date of a scene, or the time at which its file changed, or else the present time."""
    found = find_date(scene)
    if found:
        return found
    path = Path(scene)
    changed = path.stat().st_mtime if is_plain_file(scene) and path.exists() else datetime.now(UTC).timestamp()
    return datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(date: str) -> dict[str, str | None]:
    if len(date) == len("2024"):
        span = {"start_datetime": f"{date}-01-01T00:00:00Z", "end_datetime": f"{date}-12-31T23:59:59Z"}
        return {"datetime": None} | span
    return {"datetime": date if "T" in date else f"{date}T00:00:00Z"}


def _crs(grid: Grid) -> dict[str, str]:
    if grid.crs is None:
        return {}
    code = grid.crs.to_epsg()
    return {"proj:code": f"EPSG:{code}"} if code else {"proj:wkt2": grid.crs.to_wkt()}


def _outline(grid: Grid) -> dict[str, Any]:
    """Return the ground of a grid in degrees; two polygons if the antimeridian cuts it."""
    if grid.crs is None:
        return {"geometry": None}
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    sides = shapely.segmentize(shapely.box(0, 0, 1, 1), 1 / _PER_SIDE).exterior.coords
    corners = [grid.transform @ (x * grid.width, y * grid.height) for x, y in sides]
    ring = [to_degrees.transform(*corner) for corner in corners]
    if max(lon for lon, _ in ring) - min(lon for lon, _ in ring) <= 180:
        whole = shapely.orient_polygons(shapely.Polygon(ring))
        return {"geometry": shapely.geometry.mapping(whole), "bbox": list(whole.bounds)}
    whole = shapely.orient_polygons(shapely.Polygon([(lon % 360, lat) for lon, lat in ring]))
    west, east = (whole.intersection(shapely.box(left, -90, left + 180, 90)) for left in (0, 180))
    both = west.union(affinity.translate(east, -360))
    box = [whole.bounds[0], whole.bounds[1], whole.bounds[2] - 360, whole.bounds[3]]
    return {"geometry": shapely.geometry.mapping(both), "bbox": box}
