"""The code blocks of README and docs: which run, which do not and why."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import yaml
from shapely import box
from typer.testing import CliRunner

from cwsam_cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTPUT = "text"
"""The language of blocks that show an output or a drawing, and no code."""
RUN = ("sh", "python", "yaml")
FAST = (
    *("--set", "epoch_max=2", "--set", "epoch_val=1", "--set"),
    "model.args.encoder_mode={embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], patch_size: 8, "
    "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 0}",
)
"""Options for `train`: two epochs of a tiny model show as much as a hundred of a larger one."""
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\s*)?^```(?P<head>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    title: str
    """The file that the block shows; empty if there is none."""
    text: str
    reason: str
    """Why it is not run; empty if it is."""

    @property
    def is_change(self) -> bool:
        """Whether it is a change that the page on contributing shows; tests/cli/test_contributing.py applies it."""
        return self.page.stem == "contributing" and bool(self.title)


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page, in their order."""
    found = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        language, _, rest = match["head"].partition(" ")
        title = re.search(r'title="(.*?)"', rest)
        if language != OUTPUT:
            found.append(Block(page, language, title[1] if title else "", match["text"], match["reason"] or ""))
    return found


def needs(page: Path) -> list[str]:
    """Return what a page begins with."""
    found = re.search(r"<!-- needs: (.*?) -->", page.read_text(encoding="utf-8"))
    return found[1].split() if found else []


def commands(text: str) -> Iterator[str]:
    """Yield the lines of a block of `sh`, with continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def run(found: list[Block]) -> int:
    """Run the blocks of a page in the working folder, and return how many ran."""
    names: dict[str, Any] = {}
    ran = 0
    for block in found:
        if block.reason:
            continue
        ran += 1
        if block.language == "python":
            exec(compile(block.text, f"{block.page.name}", "exec"), names)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text), block
            Path(block.title).write_text(block.text, encoding="utf-8")
        else:
            for line in commands(block.text):
                run_command(line)
    return ran


def run_command(line: str) -> None:
    """Run a command of cwsam as a shell does."""
    words = shlex.split(line, comments=True)
    assert words.pop(0) == "cwsam", line
    words = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
    if words[0] == "train":
        words[1:1] = FAST  # a page's own --set comes later and wins
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (line, result.output)


def draw_scenes():
    """Draw two scenes of two kinds of ground, and polygons of both."""
    rng = np.random.default_rng(0)
    Path("scenes").mkdir()
    for name, north in (("north", 4_000_000), ("south", 3_985_000)):
        image = rng.integers(1, 255, (3, 390, 400), dtype=np.uint8)
        image[:, :, 150:] //= 3
        transform = rasterio.transform.from_origin(600_000, north, 30, 30)
        profile = {"driver": "GTiff", "crs": "EPSG:32617", "transform": transform, "dtype": "uint8"}
        with rasterio.open(f"scenes/{name}.tif", "w", width=400, height=390, count=3, **profile) as target:
            target.write(image)
    west, east = box(600_000, 3_970_000, 604_500, 4_000_000), box(604_500, 3_970_000, 612_000, 4_000_000)
    frame = geopandas.GeoDataFrame({"class": ["forest", "水"]}, geometry=[west, east], crs="EPSG:32617")
    frame.to_file("landcover.gpkg")
