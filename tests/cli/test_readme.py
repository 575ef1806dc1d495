"""The README's commands run as written on synthetic scenes; its links, names and length hold."""

import re
import shlex
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import yaml
from shapely import box
from typer.testing import CliRunner

from cwsam_cli.main import app
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def own_data(tmp_path, make_raster, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(1, 255, (3, 390, 400), dtype=np.uint8)
    image[:, :, 150:] //= 3
    for name, north in (("north", 4_000_000), ("south", 3_985_000)):
        transform = rasterio.transform.from_origin(600_000, north, 30, 30)
        make_raster(f"scenes/{name}.tif", image, transform=transform)
    west, east = box(600_000, 3_970_000, 604_500, 4_000_000), box(604_500, 3_970_000, 612_000, 4_000_000)
    frame = geopandas.GeoDataFrame({"class": ["forest", "水"]}, geometry=[west, east], crs="EPSG:32617")
    frame.to_file("landcover.gpkg")


def test_the_five_commands_run_as_the_readme_has_them(own_data):
    script, *_ = blocks("sh")  # the other one starts several processes
    for line in script.strip().splitlines():
        words = shlex.split(line)
        assert words.pop(0) == "cwsam"
        words = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
        if words[0] == "train":  # two epochs show as much as a hundred
            words += ["--set", "epoch_max=2", "--set", "epoch_val=1"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output)
    frame = geopandas.read_file("polygons.gpkg")
    assert set(frame.columns) >= {"code", "name", "area_m2", "geometry"}
    assert set(frame["name"]) <= {"forest", "水"}
    assert frame["area_m2"].sum() == pytest.approx(390 * 400 * 900)


def test_the_class_table_in_the_readme_is_one():
    (text,) = blocks("yaml")
    raw = yaml.safe_load(text)
    table = Taxonomy(
        name=raw["name"],
        unlabelled=tuple(raw["unlabelled"]),
        classes=tuple(LandCoverClass(**entry) for entry in raw["classes"]),
    )
    assert table.codes == [1, 2]


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_anchor_that_the_readme_links_to_exists():
    for path, anchor in re.findall(r"\]\(([^):#]+)#([^)]+)\)", README):
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_command_and_option_in_the_readme_exists():
    foreign = {"--index-url"}
    program = CliRunner().invoke(app, ["--help"]).stdout
    commands = re.findall(r"^  ([a-z]+)  ", program.split("Commands:")[1], flags=re.MULTILINE)
    help = {command: CliRunner().invoke(app, [command, "--help"]).stdout for command in commands}
    named = [line.split() for line in re.findall(r"^ *(?:\$ )?cwsam (.*)$", README, flags=re.MULTILINE)]
    for command, *words in named:
        assert [word for word in words if word.startswith("-") and word not in help[command]] == [], command
    options = set(re.findall(r"--[a-z][a-z-]+", README)) - foreign
    assert [option for option in options if not any(option in text for text in help.values())] == []


def test_the_readme_lists_every_shipped_configuration_and_class_table():
    configs = ROOT / "configs"
    shipped = [path.relative_to(configs).with_suffix("").as_posix() for path in configs.rglob("*.yaml")]
    assert len(shipped) >= 10
    assert [name for name in shipped if f"`{name.removeprefix('classes/')}`" not in README] == []


def test_the_readme_is_one_page():
    assert len(README.split()) <= 1200
