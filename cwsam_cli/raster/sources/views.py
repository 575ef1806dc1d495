"""Scenes made of other rasters: stacks of several files of one place, and rasters on another grid or scale.

A view is written as text, `view://NAME?band=B02=PATH&band=…`, so that it goes wherever the path of a scene goes: into
plans, datasets and other processes. `raster.compose` turns it into a raster. This module loads no rasterio.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from cwsam_cli.console import without_secrets
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.sources.network import VIEW
from cwsam_cli.raster.sources.scenes import file_name, from_any_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A scene made of other rasters."""

    name: str
    """A file name, for the files that are made of it."""
    members: tuple[tuple[str, str], ...]
    """Name and path of each raster. The name begins the names of its bands; it is empty if there is one raster."""
    crs: str = ""
    """CRS of the view; empty takes that of the raster with the smallest pixels."""
    pixel_m: float = 0.0
    """Size of pixels in metres; 0 takes the smallest."""
    unscale: bool = False
    """Whether to apply scales and offsets of bands."""
    scales: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Factor and offset of each band of each raster. A raster without any has its own; nothing is that of all."""
    origin: str = ""
    """Address of the STAC item that the view comes from, without secrets."""
    date: str = ""
    """Date of the item, in RFC 3339."""

    def to_text(self) -> str:
        """Return the view as a scene's path."""
        pairs = [("band", f"{name}={path}") for name, path in self.members]
        pairs += [("crs", self.crs)] if self.crs else []
        pairs += [("pixel_m", repr(self.pixel_m))] if self.pixel_m else []
        pairs += [("unscale", "yes")] if self.unscale else []
        pairs += [("scales", json.dumps(self.scales))] if any(self.scales) else []
        pairs += [(key, value) for key, value in (("origin", self.origin), ("date", self.date)) if value]
        return f"{VIEW}{quote(self.name)}?{urlencode(pairs)}"

    @classmethod
    def from_text(cls, text: str) -> "View":
        """Return the view that `to_text` described."""
        name, _, query = text.removeprefix(VIEW).partition("?")
        pairs = parse_qsl(query)
        bands = [value.partition("=") for key, value in pairs if key == "band"]
        options = dict(pairs)
        return cls(
            name=unquote(name),
            members=tuple((prefix, path) for prefix, _, path in bands),
            crs=options.get("crs", ""),
            pixel_m=float(options.get("pixel_m", 0)),
            unscale="unscale" in options,
            scales=tuple(
                tuple((factor, offset) for factor, offset in bands) for bands in json.loads(options.get("scales", "[]"))
            ),
            origin=options.get("origin", ""),
            date=options.get("date", ""),
        )


def public_name(scene: str) -> str:
    """Return a scene's path as outputs may keep it: without the queries and logins of URLs."""
    if not scene.startswith(VIEW):
        return without_secrets(scene)
    view = View.from_text(scene)
    return replace(view, members=tuple((name, without_secrets(path)) for name, path in view.members)).to_text()


def make_views(
    scenes: Sequence[str], *, stack: str | None = None, crs: str = "", pixel_m: float = 0.0, unscale: bool = False
) -> list[str]:
    """Return scenes as views of themselves or of stacks, or unchanged if no option asks for a view.

    Args:
        scenes: the scenes' paths.
        stack: a pattern of file names with `{scene}` and `{band}`. Files of one `{scene}` are one stack, and `{band}`
            names each of them. `*` is any text. Files in several folders are one stack, unless a band occurs twice.
        crs: see `View`.
        pixel_m: see `View`.
        unscale: see `View`.

    Raises:
        UsageError: the pattern lacks a part, or two files of a stack have the same band.
        DataError: a file does not match the pattern, or stacks have different bands.
    """
    if stack is None and not (crs or pixel_m or unscale):
        return list(scenes)
    if stack is None:
        views = [_view_of(path) for path in scenes]
    else:
        views = [View(name=name, members=tuple(members)) for (name, _), members in _group(scenes, stack).items()]
    return [replace(view, crs=crs, pixel_m=pixel_m, unscale=unscale).to_text() for view in views]


def _view_of(scene: str) -> View:
    if scene.startswith(VIEW):
        return View.from_text(scene)
    return View(name=file_name(scene), members=(("", from_any_folder(scene)),))


def _group(scenes: Sequence[str], stack: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    if stack.count("{scene}") != 1 or stack.count("{band}") != 1:
        raise UsageError(
            f"--stack `{stack}` needs {{scene}} and {{band}} once each",
            hint="for example: --stack '{scene}_{band}.tif'",
        )
    parts = re.split(r"(\{scene\}|\{band\}|\*)", stack)
    known = {"{scene}": "(?P<scene>.+)", "{band}": "(?P<band>.+?)", "*": ".*"}
    pattern = re.compile("".join(known.get(part, re.escape(part)) for part in parts))
    found: dict[str, list[tuple[str, str]]] = {}
    for path in scenes:
        match = pattern.fullmatch(file_name(path))
        if match is None:
            raise DataError(
                f"`{path}` does not match --stack `{stack}`",
                hint="choose files by a pattern: cwsam tile 'scenes/*_B*.jp2' --stack '{scene}_{band}.jp2'",
            )
        name = match["scene"].replace(".", "_") + Path(file_name(path)).suffix
        found.setdefault(name, []).append((match["band"], path))
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name, files in found.items():
        is_one = len({band for band, _ in files}) == len(files)  # else each folder has a stack of this name
        for band, path in files:
            group = groups.setdefault((name, "" if is_one else str(Path(path).parent)), {})
            if band in group:
                raise UsageError(
                    f"`{group[band]}` and `{path}` are the same band of one stack",
                    hint="let {band} in --stack tell them apart",
                )
            group[band] = from_any_folder(path)
    first, *others = [(name, sorted(group, key=_natural)) for (name, _), group in groups.items()]
    for name, bands in others:
        if bands != first[1]:
            raise DataError(
                f"the stack `{name}` has the files {', '.join(bands)}, but `{first[0]}` has {', '.join(first[1])}",
                hint="give every stack the same bands",
            )
    return {key: [(band, group[band]) for band in sorted(group, key=_natural)] for key, group in groups.items()}


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which B2 comes before B10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
