"""The README's commands run as written on synthetic scenes; its links, names and length hold."""

import re

import geopandas
import pytest
from typer.testing import CliRunner

from cwsam_cli.main import app
from tests.documents import ROOT, blocks, draw_scenes, run

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_scenes()


def test_the_five_commands_run_as_the_readme_has_them(own_data):
    assert run(blocks(ROOT / "README.md")) == 1
    frame = geopandas.read_file("polygons.gpkg")
    assert set(frame.columns) >= {"code", "name", "area_m2", "geometry"}
    assert set(frame["name"]) <= {"forest", "水"}
    assert frame["area_m2"].sum() == pytest.approx(390 * 400 * 900)


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_anchor_that_the_readme_links_to_exists():
    for path, anchor in re.findall(r"\]\(([^):#]+)#([^)]+)\)", README):
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_command_and_option_in_the_readme_exists():
    foreign = {"--install-completion"}  # of the program itself
    program = CliRunner().invoke(app, ["--help"]).stdout
    commands = re.findall(r"^  ([a-z]+)  ", program.split("Commands:")[1], flags=re.MULTILINE)
    help = {command: CliRunner().invoke(app, [command, "--help"]).stdout for command in commands}
    named = [line.split() for line in re.findall(r"^ *(?:\$ )?cwsam (.*)$", README, flags=re.MULTILINE)]
    for command, *words in named:
        assert [word for word in words if word.startswith("-") and word not in help[command]] == [], command
    options = set(re.findall(r"--[a-z][a-z-]+", README)) - foreign
    assert [option for option in options if not any(option in text for text in help.values())] == []


def test_the_readme_is_one_page():
    assert len(README.split()) <= 600
