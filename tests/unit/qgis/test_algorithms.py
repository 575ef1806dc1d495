"""The algorithms of QGIS are described by the commands themselves."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cwsam_cli.main import app
from cwsam_cli.qgis.algorithms import ALGORITHMS, describe_algorithms
from cwsam_cli.qgis.archive import PLUGIN

COMMANDS: Any = typer.main.get_command(app)
DESCRIBED = {each["id"]: each for each in describe_algorithms(COMMANDS.commands)}


def parameter(algorithm: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in DESCRIBED[algorithm]["parameters"] if each["name"] == name]
    return found


def test_defaults_choices_and_limits_are_those_of_the_command() -> None:
    overlap = parameter("predict", "OVERLAP")
    assert (overlap["kind"], overlap["default"], overlap["minimum"], overlap["maximum"]) == ("number", 0.25, 0, 0.9)
    tta = parameter("predict", "TTA")
    assert (tta["kind"], tta["choices"], tta["option"]) == ("choice", ["none", "flips", "d4"], "--tta")
    assert parameter("sample", "POINTS")["option"] == "--points"
    assert parameter("predict", "SCENES")["option"] == ""


def test_labels_say_the_unit_of_a_size() -> None:
    assert parameter("vectorize", "MIN_AREA")["label"] == "Min area: Smallest mapping unit: 1ha, 900m2 or 10px"


@pytest.mark.parametrize("algorithm", [each.id for each in ALGORITHMS])
def test_outputs_come_last_and_help_names_no_command_line(algorithm: str) -> None:
    described = DESCRIBED[algorithm]
    outputs = [each["kind"].endswith("_output") for each in described["parameters"]]
    assert outputs == sorted(outputs) and sum(outputs) == 1
    assert described["help"] and not any("$ cwsam" in part or "\b" in part for part in described["help"])
    assert all(each["help"] and each["label"] for each in described["parameters"])


@pytest.mark.parametrize("algorithm", [each.id for each in ALGORITHMS])
def test_texts_stand_for_themselves(algorithm: str) -> None:
    described = DESCRIBED[algorithm]
    assert not any(part.endswith(":") for part in described["help"])
    texts = [text for each in described["parameters"] for text in (each["label"], each["help"])]
    assert not [text for text in texts if "below" in text or "repeatable" in text]


def test_each_use_of_eval_has_its_own_help() -> None:
    helps = [str(each["help"]) for each in DESCRIBED.values() if each["command"] == "eval"]
    assert len(set(helps)) == len(helps) == 3


def test_only_files_are_replaced() -> None:
    replaced = {name for name, each in DESCRIBED.items() if each["overwrites"]}
    assert replaced == {"predict", "vectorize", "mosaic", "sample"}


@pytest.mark.parametrize("module", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.stem)
def test_the_plugin_needs_only_python_3_9_and_qgis(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = [each for each in ast.walk(tree) if isinstance(each, ast.Import | ast.ImportFrom)]
    names = {alias.name for each in imported if isinstance(each, ast.Import) for alias in each.names}
    names |= {each.module or "" for each in imported if isinstance(each, ast.ImportFrom) and not each.level}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "qgis", "processing"}
