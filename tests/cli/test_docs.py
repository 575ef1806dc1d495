"""What README and docs show works: every block of code is run, or says why not. Messages and versions are real."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cwsam_cli.survey.samplefile import read_sample, write_sample
from tests.documents import PAGES, ROOT, RUN, blocks, draw_scenes, needs, run, run_command
from tests.locks import pins

SITE = ROOT / "docs" / "site" / "mkdocs.yml"
OWN_TESTS = ("README.md", "contributing.md")
GUIDES = [page for page in PAGES if page.name not in OWN_TESTS and any(not block.reason for block in blocks(page))]
GIVEN = {
    "scenes": ["scenes", "landcover.gpkg"],
    "classes": ["classes.yaml", "joined.yaml"],
    "dataset": ["scenes", "landcover.gpkg", "dataset"],
    "model": ["save"],
    "map": ["map.tif", "map.tif.aux.xml", "map.qml", "landcover.gpkg"],
    "sample": ["sample.gpkg"],
}
"""Files of the prepared folder by the word with which a page asks for them."""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, monkeypatch_session):
    """A folder with two scenes and everything that the commands make of them."""
    folder = tmp_path_factory.mktemp("documents")
    monkeypatch_session.chdir(folder)
    draw_scenes()
    run_command("cwsam tile scenes/*.tif --labels landcover.gpkg --class-field class --size 128 -o dataset/")
    run_command("cwsam train --config tiny --data dataset/ -o save/first")
    run_command("cwsam predict scenes/north.tif -c save/first/model_epoch_best.pth -o map.tif")
    run_command("cwsam sample map.tif -n 60 --min-per-class 20 -o sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    sample.frame["reference"] = sample.frame["map"]
    write_sample(sample.path, sample.frame, sample.design, overwrite=True)
    for block in blocks(ROOT / "docs" / "labels.md"):
        if block.language == "yaml":
            Path(block.title).write_text(block.text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def monkeypatch_session():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def given(prepared, tmp_path, monkeypatch):
    """Enter a folder with the files that a page begins with."""

    def enter(words: list[str]) -> None:
        monkeypatch.chdir(tmp_path)
        for name in {name for word in words for name in GIVEN[word]}:
            source = prepared / name
            shutil.copytree(source, name) if source.is_dir() else shutil.copy(source, name)

    return enter


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_blocks_of_a_guide_run_in_their_order(page, given):
    given(needs(page))
    assert run(blocks(page))


@pytest.mark.slow
def test_the_example_runs(given, capsys):
    given(["scenes", "model"])
    exec(compile((ROOT / "docs" / "notebook.py").read_text(encoding="utf-8"), "notebook.py", "exec"), {})
    assert "agreement: " in capsys.readouterr().out


def test_every_block_is_run_or_says_why_not():
    found = [block for page in PAGES for block in blocks(page)]
    unknown = [block for block in found if not (block.reason or block.language in RUN or block.is_change)]
    assert unknown == [], "say `<!-- not run: reason -->` before it"
    assert [block for block in found if block.language == "yaml" and not (block.reason or block.title)] == []
    ran = sum(not block.reason for block in found)
    assert ran >= 25
    assert all(len(block.reason) >= 10 for block in found if block.reason)


def test_the_quick_start_has_the_five_commands_of_the_readme():
    first, second = (blocks(ROOT / name) for name in ("README.md", "docs/index.md"))
    assert second[0].text in [block.text for block in first]


def test_no_page_has_indented_code():
    for page in PAGES:
        outside = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"\n\n(?: {4}|\t)(?![-*\d]).*", outside) == [], page.name


def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", SITE, "-d", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'(?:src="|<link[^>]* href=")(?:https?:)?//', text), page.name
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "--min-confidence" in commands and "--target-area-se" in commands
    configuration = (tmp_path / "site" / "reference" / "configuration.html").read_text(encoding="utf-8")
    assert "training_settings.ema" in configuration and "model.args.encoder_mode.moe_k_experts" in configuration
    contributing = (tmp_path / "site" / "contributing.html").read_text(encoding="utf-8")
    assert "<!-- code" not in contributing and "commands\ndemo : interface" in contributing


def test_every_message_of_the_troubleshooting_page_is_one_of_the_program():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "cwsam_cli").rglob("*.py"))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", page, flags=re.MULTILINE)
    assert len(headings) >= 20
    parts = [part.strip() for heading in headings for part in heading.split("…") if len(part.strip()) > 3]
    assert [part for part in parts if part not in source] == []


def test_every_option_and_key_that_the_docs_name_exists():
    from typer.testing import CliRunner

    from cwsam_cli.main import app

    def text(*words: str) -> str:
        return CliRunner().invoke(app, [*words, "--help"]).stdout

    names = re.findall(r"^  ([a-z]+)  ", text().split("Commands:")[1], flags=re.MULTILINE)
    known = {"--help", "--install-completion", *re.findall(r"--[a-z][a-z-]+", " ".join(map(text, names)))}
    for page in PAGES:
        own = "".join(
            line + "\n"
            for line in page.read_text(encoding="utf-8").splitlines()
            if not re.search(r"sbatch|torchrun|srun|dask|docker|pip|kubectl|openssl|#SBATCH|_args|ogr|gdal|rio ", line)
        )
        own = re.sub(r"```(?:bash|python|yaml).*?```", "", own, flags=re.DOTALL)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own)) - FOREIGN
        assert [option for option in sorted(named) if option not in known] == [], page.name


FOREIGN = {"--index-url", "--memory-limit", "--resources", "--nworkers", "--shm-size"}


def test_the_docs_list_every_shipped_configuration():
    page = (ROOT / "docs" / "train-large.md").read_text(encoding="utf-8")
    shipped = [path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")]
    named = [name for name in shipped if not name.startswith("classes/")]
    assert len(named) >= 6
    assert [name for name in named if f"| `{name}` |" not in page] == []


def test_container_and_recipe_agree_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = (ROOT / "docs/deploy/conda/meta.yaml").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.*)"', (ROOT / "cwsam_cli/__init__.py").read_text(encoding="utf-8"))[1]
    assert f'{{% set version = "{version}" %}}' in recipe
    raw = yaml.safe_load(re.sub(r"{%.*?%}\n", "", recipe).replace("{{ version }}", version))
    run_time = {entry.split()[0]: entry.partition(" ")[2] for entry in raw["requirements"]["run"]}
    assert run_time.pop("python") == project["requires-python"]
    wanted = {}
    for entry in project["dependencies"]:
        name, limit = re.match(r"([\w-]+)(>=[\d.]+)", entry).groups()
        wanted[{"torch": "pytorch"}.get(name, name)] = limit
    assert run_time == wanted
    assert raw["build"]["entry_points"] == [f"{name} = {place}" for name, place in project["scripts"].items()]

    lines = (ROOT / "docs/deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert {step for step, _ in steps} <= {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT"}
    (base,) = [rest for step, rest in steps if step == "FROM"]
    assert base == "python:3.11-slim"
    text = " ".join(rest for _, rest in steps)
    assert {*re.findall(r"torch==([\d.]+)", text)} == {pins()["torch"]}
    copied = [word for step, rest in steps if step == "COPY" for word in rest.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert steps[-1] == ["ENTRYPOINT", '["cwsam"]']
