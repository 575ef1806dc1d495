"""Scenes from STAC: items in a file or at a URL, and the items that an API finds.

An item becomes a view of its assets, see `raster.sources.views`. This module loads no rasterio.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urljoin
from urllib.request import Request, url2pathname

from cwsam_cli.console import log, without_secrets
from cwsam_cli.errors import DataError, MachineError, UsageError
from cwsam_cli.raster.sources.http import REFUSED, ask, refusal
from cwsam_cli.raster.sources.network import NO_EXTERNAL, is_plain_file, stored_name
from cwsam_cli.raster.sources.views import View

_ENDINGS = (".json", ".geojson")
_RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")
"""Media types of rasters; parameters such as `profile=cloud-optimized` follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StacChoice:
    """Which items and which of their assets are scenes."""

    assets: tuple[str, ...] = ()
    """Names of assets, or common names of their bands, in the order of the scene's bands; empty takes the only one."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters of a search. With them, URLs are APIs to search."""

    def means_items(self, argument: str) -> bool:
        """Return whether an argument of a command means items, and not a raster."""
        is_document = argument.partition("?")[0].lower().endswith(_ENDINGS)
        if is_plain_file(argument):
            return is_document
        return argument.startswith(("https://", "http://")) and (is_document or bool(self.query))


def find_scenes(argument: str, choice: StacChoice) -> tuple[list[str], bool]:
    """Return the scenes of a file or URL of items, or of an API.

    Returns:
        The scenes, and whether the argument can mean several: a collection with one item can.

    Raises:
        DataError: there is no item, or an item lacks an asset.
        UsageError: an item has several assets, and none is chosen.
        MachineError: a server does not answer.
    """
    is_document = argument.partition("?")[0].lower().endswith(_ENDINGS)
    address = argument if is_document or not choice.query else _search_address(argument, choice.query)
    document = _read(address)
    try:
        if document.get("type") == "Feature":
            return [_scene_of(document, address, choice)], False
        scenes = [_scene_of(item, page, choice) for item, page in _pages(document, address)]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            f"`{argument}` holds an item that does not follow STAC", hint="check it: stac-validator"
        ) from None
    if not scenes:
        raise DataError(f"`{argument}` has no item", hint="a wider search: --stac-query 'bbox=… datetime=…'")
    log.info("`%s`: %d item(s)", argument, len(scenes))
    return scenes, True


def parse_query(texts: list[str]) -> dict[str, str]:
    """Read `bbox=8,47,9,48 datetime=2024-06-01/2024-06-30`, in one text or several.

    Raises:
        UsageError: a part is not of the form KEY=VALUE.
    """
    pairs = [pair.partition("=") for text in texts for pair in text.split()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UsageError(
                f"--stac-query `{name}` is not of the form KEY=VALUE",
                hint="for example: --stac-query 'collections=sentinel-2-l2a bbox=8,47,9,48 datetime=2024-06-01/..'",
            )
    return {name: value for name, _, value in pairs}


def _search_address(api: str, query: Mapping[str, str]) -> str:
    base = api.rstrip("/")
    return f"{base if base.endswith('/search') else base + '/search'}?{urlencode(query)}"


def _read(address: str) -> dict[str, Any]:
    if is_plain_file(address):
        try:
            text = Path(address).read_bytes()
        except FileNotFoundError:
            raise DataError(f"there is no file `{address}`", hint="check the path") from None
    elif os.environ.get(NO_EXTERNAL):
        raise DataError(f"`{address}` is not on this disk, and --no-external is given", hint="download the items first")
    else:
        try:
            text = ask(Request(address, headers={"Accept": "application/geo+json, application/json"}), read=True)[1]
        except HTTPError as error:
            if error.code in REFUSED:
                raise refusal(address, error.code) from None
            if error.code in (400, 404):
                raise DataError(
                    f"`{address}` is not an API that can be searched so: it answers {error.code}",
                    hint="give the address of the API's first page, and check --stac-query",
                ) from None
            raise MachineError(f"`{address}` answers {error.code}", hint="call again later") from None
        except (HTTPException, OSError, ValueError) as error:
            raise MachineError(
                f"`{address}` does not answer: {error}", hint="check the address and the network"
            ) from None
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("type") not in ("Feature", "FeatureCollection"):
        raise DataError(
            f"`{address}` is neither a STAC item nor a collection of items",
            hint="save the result of a search as items.json, or search an API: --stac-query 'bbox=… datetime=…'",
        )
    return document


def _pages(document: dict[str, Any], address: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the items of a collection and of the pages that follow, each with the address of its page."""
    seen = {address}
    while True:
        yield from ((item, address) for item in document.get("features", ()))
        following = _link(document, "next")
        if is_plain_file(address) or following is None:
            return
        address = urljoin(address, following)
        if address in seen:
            return
        seen.add(address)
        document = _read(address)


def _link(document: Mapping[str, Any], relation: str) -> str | None:
    links = document.get("links") or ()
    return next((link.get("href") for link in links if link.get("rel") == relation), None)


def _scene_of(item: Mapping[str, Any], address: str, choice: StacChoice) -> str:
    """Return an item's assets as a view."""
    name, assets = (item.get("id"), item.get("assets")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(assets, dict):
        raise DataError(f"`{address}` has a feature without id or assets", hint="STAC items have both")
    chosen = [(wanted, _asset(wanted, item)) for wanted in choice.assets] or [("", _only_asset(item))]
    lacking = next((key for key, asset in chosen if not isinstance(asset.get("href"), str)), None)
    if lacking is not None:
        raise DataError(f"the item `{name}` has an asset `{lacking}` without href", hint="choose other items")
    itself = _link(item, "self")
    origin = itself or (str(Path(address).absolute()) if is_plain_file(address) else address)
    members = tuple((wanted, _locate(asset["href"], itself, address)) for wanted, asset in chosen)
    if os.environ.get(NO_EXTERNAL):
        _refuse_outside(Path(address), [path for _, path in members])
    scales = tuple(_scales(asset) for _, asset in chosen)
    return View(
        name=re.sub(r"[^\w.-]+", "_", name) + ".stac",
        members=members,
        scales=scales if any(scales) else (),
        origin=without_secrets(origin),
        date=_date(item.get("properties") or {}),
    ).to_text()


def _refuse_outside(document: Path, paths: Sequence[str]) -> None:
    folder = document.resolve().parent
    for path in paths:
        if not is_plain_file(path) or not Path(path).resolve().is_relative_to(folder):
            raise DataError(
                f"`{document}` names `{path}`, which lies outside its folder, and --no-external is given",
                hint="put the items and their assets into one folder, or leave out --no-external if you trust them",
            )


def _asset(wanted: str, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the asset of a name, or the asset whose only band has that common name."""
    assets: Mapping[str, Any] = item["assets"]
    if wanted in assets:
        return dict(assets[wanted])
    named = [asset for asset in assets.values() if _common_names(asset) == [wanted] and _is_raster(asset)]
    if len(named) == 1:
        return dict(named[0])
    known = ", ".join(key for key, asset in assets.items() if _is_raster(asset)) or "none that is a raster"
    raise DataError(
        f"the item `{item['id']}` has {'several assets' if named else 'no asset'} `{wanted}`",
        hint=f"its assets are: {known}",
    )


def _only_asset(item: Mapping[str, Any]) -> Mapping[str, Any]:
    rasters = {key: asset for key, asset in item["assets"].items() if _is_raster(asset)}
    data = {key: asset for key, asset in rasters.items() if "data" in (asset.get("roles") or ())} or rasters
    if len(data) == 1:
        return dict(next(iter(data.values())))
    if not data:
        raise DataError(f"the item `{item['id']}` has no asset that is a raster", hint="choose other items")
    raise UsageError(
        f"the item `{item['id']}` has {len(data)} rasters: {', '.join(data)}",
        hint="name those of the model's bands, in its order: --assets red,green,blue",
    )


def _is_raster(asset: Mapping[str, Any]) -> bool:
    kind, path = str(asset.get("type") or ""), str(asset.get("href")).partition("?")[0].lower()
    return kind.startswith(_RASTERS) or (not kind and path.endswith((".tif", ".tiff", ".jp2", ".vrt")))


def _bands(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what an asset says of its bands: `bands` of STAC 1.1, or `eo:bands` and `raster:bands` before."""
    if asset.get("bands"):
        return list(asset["bands"])
    optics, values = asset.get("eo:bands") or [], asset.get("raster:bands") or []
    count = max(len(optics), len(values))
    return [{**(optics[n] if n < len(optics) else {}), **(values[n] if n < len(values) else {})} for n in range(count)]


def _common_names(asset: Mapping[str, Any]) -> list[Any]:
    own = asset.get("eo:common_name")  # an asset of one band may have no list of bands
    return [band.get("eo:common_name", band.get("common_name", own)) for band in _bands(asset) or [{}]]


def _scales(asset: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Return factor and offset of each band; nothing if the asset has none."""

    def value(band: Mapping[str, Any], name: str) -> float | None:
        found = band.get(f"raster:{name}", band.get(name, asset.get(f"raster:{name}")))
        return None if found is None else float(found)

    found = [(value(band, "scale"), value(band, "offset")) for band in _bands(asset) or [{}]]
    if not any(number is not None for pair in found for number in pair):
        return ()
    return tuple((1.0 if factor is None else factor, offset or 0.0) for factor, offset in found)


def _locate(href: str, itself: str | None, address: str) -> str:
    """Return the path or URL of an asset. Relative ones count from the item's file, else from the item's own link."""
    href = stored_name(href)
    if href.startswith("file://"):
        return url2pathname(href.removeprefix("file://"))
    if not is_plain_file(href) or Path(href).is_absolute():
        return href
    if is_plain_file(address):
        beside = Path(address).absolute().parent / href
        if beside.exists() or itself is None or is_plain_file(itself):
            return str(beside.resolve())
    base = itself if itself and not is_plain_file(itself) else address
    return _locate(urljoin(base, quote(href, safe="/%?&=+,:;@~")), None, base)


def _date(properties: Mapping[str, Any]) -> str:
    return str(properties.get("datetime") or properties.get("start_datetime") or "")
