"""What a map hangs on, and which files a run may take for its own.

Maps, their layers and previews bear the key of the run that made them. So a repeat knows
what is there already, and nothing that bears no key, or another, is replaced unasked.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import rasterio

from cwsam_cli import __version__
from cwsam_cli.files import refuse_existing
from cwsam_cli.predict.mapfile import beside
from cwsam_cli.predict.plan import Model
from cwsam_cli.predict.request import MapOptions
from cwsam_cli.raster.quicklook import read_text
from cwsam_cli.raster.scene import FAILED
from cwsam_cli.raster.sources import Fingerprint, fingerprint, hash_of
from cwsam_cli.raster.style import write_sidecar, write_style

KEY = "CWSAM_KEY"
_SIGHT, _CONTENTS = "CWSAM_SCENE_SIGHT", "CWSAM_SCENE_HASH"
_NO_CONTENT = {"max_memory", "batch_size", "device", "gpus", "preview", "aoi", "format", "creation"}
"""Options that say how and where to work, how to write, or that count by another name."""


@dataclass(frozen=True, slots=True)
class MapKey:
    """What a map hangs on."""

    content: dict[str, Any]
    """What its pixels do, by names that a person understands; memory and batches they do not."""
    digest: str
    """Of that and of how the file is written."""
    scene: Fingerprint

    @classmethod
    def of(cls, scene: str, model: Model, options: MapOptions, output: Path) -> "MapKey":
        """The key of a map that is to stand at `output`; one that stands there knows its scene's hash."""
        tags = read_tags(output)
        found = fingerprint(scene, Fingerprint(tags.get(_SIGHT, ""), tags.get(_CONTENTS, "")))
        plain = [each.name for each in fields(options) if each.name not in _NO_CONTENT]
        content = {name.replace("_", "-"): getattr(options, name) for name in plain} | {
            "scene": found.contents,
            "checkpoint": model.digest,
            "version of cwsam": __version__,
            "precision": model.precision,
            "device": model.device.type,
            "area of interest": hash_of(options.aoi) if options.aoi else None,
        }
        written = content | {"format": options.format, "creation option": dict(options.creation)}
        return cls(content, hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest(), found)

    @property
    def tags(self) -> dict[str, str]:
        """By which its files are known."""
        return {KEY: self.digest, _SIGHT: self.scene.sight, _CONTENTS: self.scene.contents}

    def refuse_others(self, output: Path, model: Model, options: MapOptions, *, overwrite: bool) -> None:
        """Stop before files are replaced that another run wrote, or nobody knows who.

        Raises:
            UsageError: there is one, and nobody said it may go.
        """
        for path in [output, *(beside(output, kind) for kind in options.kinds)]:
            if read_tags(path).get(KEY) != self.digest:
                refuse_existing(path, overwrite=overwrite)
        if options.preview and read_text(options.preview, KEY) != self.digest:
            refuse_existing(options.preview, overwrite=overwrite)
        with tempfile.TemporaryDirectory() as folder:  # names and style bear no key, but are the same to the byte
            write_sidecar(Path(folder) / output.name, model.trained.taxonomy)
            write_style(Path(folder) / output.name, model.trained.taxonomy)
            for own in Path(folder).iterdir():
                there = output.with_name(own.name)
                if not (there.is_file() and there.read_bytes() == own.read_bytes()):
                    refuse_existing(there, overwrite=overwrite)


def read_tags(path: Path) -> Mapping[str, str]:
    """A raster's tags; none where there is no raster."""
    if not path.is_file():
        return {}
    try:
        with rasterio.open(path) as dataset:
            tags: dict[str, str] = dataset.tags()
            return tags
    except FAILED:
        return {}
