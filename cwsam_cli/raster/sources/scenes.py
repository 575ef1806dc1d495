"""Which scenes the arguments of a command line mean."""

import glob
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.sources.network import ARCHIVES, VIEW, is_plain_file, stored_name

if TYPE_CHECKING:
    from cwsam_cli.raster.sources.stac import StacChoice

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Suffixes of the files in a folder that are read as scenes."""


def expand(arguments: Sequence[str], stac: "StacChoice | None" = None) -> tuple[list[str], bool]:
    """List the scenes that arguments mean.

    A folder means the rasters in it, a pattern the files that match it, and a `.txt` file the paths in it, one per
    line. In such a list `#` begins a remark, and paths are relative to the list. A file or URL of STAC items means
    the scenes of the items. Any other argument is one scene.

    Args:
        arguments: of the command line.
        stac: which items and assets are scenes; None reads no items.

    Returns:
        The scenes, and whether the arguments can mean several: a folder with one raster can.

    Raises:
        DataError: a folder, pattern or list holds no scene.
        UsageError: a scene is given twice, or assets or a query without items.
        MachineError: a server of items does not answer.
    """
    scenes: list[str] = []
    many = len(arguments) > 1
    if stac and (stac.assets or stac.query) and not any(map(stac.means_items, arguments)):
        raise UsageError(
            "--assets and --stac-query are for STAC items, and no argument means items",
            hint="give a file such as items.json, or the URL of an API with --stac-query",
        )
    for argument in arguments:
        if stac and stac.means_items(argument):
            from cwsam_cli.raster.sources.stac import find_scenes

            items, are_several = find_scenes(argument, stac)
            scenes += items
            many |= are_several
            continue
        found = _listed(argument)
        if found is None:
            scenes.append(stored_name(argument))
            continue
        if not found:
            raise DataError(f"`{argument}` means no scene", hint=f"rasters end in {', '.join(SUFFIXES)}")
        scenes += found
        many = True
    refuse_repeated(scenes)
    return scenes, many


def refuse_repeated(scenes: Sequence[str]) -> None:
    """Stop if one scene is listed twice.

    Raises:
        UsageError: it is.
    """
    twice = [scene for scene, times in Counter(map(_absolute, scenes)).items() if times > 1]
    if twice:
        raise UsageError(f"`{twice[0]}` is given twice", hint="name each scene once")


def scene_names(scenes: Sequence[str], earlier: Collection[str] = ()) -> list[str]:
    """Return a name for the files that are made of each scene: its stem, numbered where stems repeat.

    Stems that differ in capitals only count as equal, because many disks do not tell them apart.

    Args:
        scenes: the scenes.
        earlier: names that other scenes have.
    """
    stems = [Path(file_name(scene)).stem for scene in scenes]
    names_before = {name.casefold() for name in earlier}
    times = Counter([*(stem.casefold() for stem in stems), *names_before])
    taken = {stem for stem, number in times.items() if number == 1} | names_before
    names = []
    for stem in stems:
        if times[stem.casefold()] > 1:
            stem = next(name for number in count(1) if (name := f"{stem}-{number}").casefold() not in taken)
            taken.add(stem.casefold())
        names.append(stem)
    return names


def file_name(scene: str) -> str:
    """Return the last part of a scene's path or URL, without the query of a URL."""
    name = Path(scene.rstrip("/").split("?")[0]).name
    return unquote(name) if scene.startswith(VIEW) else name


def from_any_folder(scene: str) -> str:
    """Return a path that means the same scene from every working folder, also of a file in an archive."""
    archive = next((prefix for prefix in ARCHIVES if scene.startswith(prefix)), "")
    path = scene.removeprefix(archive)
    if not is_plain_file(path) or (archive and path.startswith(("{", "vsi"))):  # braces, nested virtual paths
        return scene
    return archive + str(Path(path).absolute())


def _listed(argument: str) -> list[str] | None:
    """The scenes of a folder, a list or a pattern; None for any other argument."""
    if not is_plain_file(argument):
        return None
    path = Path(argument)
    if path.is_dir():
        return sorted(str(entry) for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
        named = [line for line in lines if line and not line.startswith("#")]
        paths = [str(path.parent / line) if is_plain_file(line) else line for line in named]
        if paths and not any(Path(scene).exists() or not is_plain_file(scene) for scene in paths):
            raise DataError(
                f"`{argument}` is not a list of scenes: there is no `{paths[0]}`", hint="write one path per line"
            )
        return paths
    if not path.exists() and glob.has_magic(argument):
        return sorted(glob.glob(argument, recursive=True))
    return None


def _absolute(scene: str) -> str:
    return str(Path(scene).resolve()) if is_plain_file(scene) else scene
