"""Find the files of image tiles and label tiles that belong together. This module loads neither torch nor rasterio."""

from collections import defaultdict
from pathlib import Path

from cwsam_cli.errors import DataError

SUFFIXES = (".tif", ".tiff", ".vrt", ".png", ".jpg", ".jpeg")
"""Suffixes of tiles, in lower case."""


def find_pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Return the image and the label of each tile, sorted by name.

    Files with equal names belong together, apart from their suffixes: `a.jpg` and `a.png`.

    Args:
        images: folder of images.
        labels: folder of labels.

    Raises:
        DataError: a folder is missing or empty, or a file has none or several of its name in the other folder.
    """
    folders = images, labels
    for key, folder in zip(("root_path_1", "root_path_2"), folders, strict=True):
        if not folder.is_dir() or not folder.name:
            raise DataError(
                f"`dataset.args.{key}` is not a folder: `{folder}`",
                hint="give the folder that `cwsam tile` wrote: --data DIR",
            )
    found: list[dict[str, Path]] = []
    for folder in folders:
        named: dict[str, list[Path]] = defaultdict(list)
        for path in folder.iterdir():
            if path.suffix.lower() in SUFFIXES:
                named[path.stem].append(path)
        twice = next((sorted(paths) for _, paths in sorted(named.items()) if len(paths) > 1), None)
        if twice:
            raise DataError(
                f"`{twice[0]}` and `{twice[1].name}` have the same name", hint="keep one of them in that folder"
            )
        found.append({stem: path for stem, (path,) in named.items()})
    if not found[0]:
        raise DataError(f"`{images}` holds no tiles", hint="tile more scenes, or make smaller tiles: cwsam tile --size")
    unpaired = sorted(found[0].keys() ^ found[1].keys())
    if unpaired:
        path = found[0].get(unpaired[0]) or found[1][unpaired[0]]
        raise DataError(f"`{path.name}` is in only one of `{images}` and `{labels}`", hint="tile the scenes again")
    return [(found[0][stem], found[1][stem]) for stem in sorted(found[0])]
