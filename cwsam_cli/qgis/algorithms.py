"""Say which commands and options QGIS shows. Help, defaults, choices and limits come from the commands themselves."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, get_args, get_origin

Kind = Literal[
    "raster",
    "rasters",
    "vector",
    "layer",
    "file",
    "folder",
    "crs",
    "boolean",
    "choice",
    "integer",
    "number",
    "text",
    "raster_output",
    "vector_output",
    "folder_output",
]
"""Kinds of parameters that the plugin knows; `layer` is a raster or a vector layer."""
_PLAIN: dict[type, Kind] = {bool: "boolean", int: "integer", float: "number", str: "text"}
"""Kinds that follow from the type of an option."""
_LABELS = {
    "scenes": "Scene",
    "maps": "Map",
    "map_path": "Map",
    "checkpoint": "Trained model",
    "data": "Folder of training tiles",
    "labels": "Labels",
    "reference": "Reference",
    "sample": "Interpreted sample",
    "config": "Configuration, such as tiny or vit_b",
    "aoi": "Map only inside these polygons",
    "by": "Class where maps overlap",
    "normalize": "Normalize bands with the mean and standard deviation of",
    "settings": "Change one key of the configuration (further keys in Other options: --set key=value)",
    "output": "Output",
}
"""Labels of parameters whose help is too long. The others have their name and the first sentence of their help."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A command, or one of its uses, as QGIS shows it. Options are named as in the command's function."""

    id: str
    command: str
    title: str
    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    """Options whose kind does not follow from their type."""
    plain: tuple[str, ...] = ()
    """Options whose kind follows from their type."""
    advanced: tuple[str, ...] = ()
    """Likewise; QGIS hides them at first."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that QGIS suggests for required options."""
    help: str = ""
    """Help on one use of the command; else the first paragraphs of the command's help."""
    report: str = ""
    """Page in the folder of the output that QGIS shows afterwards."""


ALGORITHMS = (
    Algorithm(
        id="predict",
        command="predict",
        title="Map a scene",
        required={"scenes": "raster", "checkpoint": "file", "output": "raster_output"},
        optional={"aoi": "vector"},
        plain=("confidence", "probabilities", "min_confidence", "format"),
        advanced=(
            "bands",
            "normalize",
            "resample_to_model",
            "overlap",
            "tta",
            "precision",
            "device",
            "batch_size",
            "max_memory",
        ),
    ),
    Algorithm(
        id="vectorize",
        command="vectorize",
        title="Turn a map into polygons",
        required={"maps": "raster", "output": "vector_output"},
        optional={"confidence": "raster", "dst_crs": "crs"},
        plain=("min_area", "simplify", "smooth", "dissolve", "check"),
        advanced=("fill_nodata_holes", "classes", "band"),
    ),
    Algorithm(
        id="mosaic",
        command="mosaic",
        title="Join maps",
        required={"maps": "rasters", "output": "raster_output"},
        plain=("by",),
    ),
    Algorithm(
        id="tile",
        command="tile",
        title="Cut scenes and labels into training tiles",
        required={"scenes": "rasters", "labels": "layer", "output": "folder_output"},
        optional={"corrections": "vector"},
        plain=("class_field", "classes", "size", "bands"),
        advanced=("where", "priority", "all_touched", "label_buffer", "split_by", "block_size", "buffer", "seed"),
    ),
    Algorithm(
        id="train",
        command="train",
        title="Train a model",
        required={"config": "text", "data": "folder", "output": "folder_output"},
        plain=("settings", "resume"),
        advanced=("device",),
        defaults={"config": "tiny"},
        help="Train a model on a dataset. The output folder receives the best and the newest model, the figures of "
        "each epoch, and the state from which the run continues.",
    ),
    Algorithm(
        id="assess_model",
        command="eval",
        title="Assess a model",
        required={"checkpoint": "file", "data": "folder", "output": "folder_output"},
        plain=("split",),
        advanced=("device", "batch_size", "tolerance"),
        help="Measure the accuracy of a model on one split of a dataset, in total and per class.",
        report="report.html",
    ),
    Algorithm(
        id="assess_map",
        command="eval",
        title="Assess a map with a reference",
        required={"map_path": "raster", "reference": "layer", "output": "folder_output"},
        optional={"crosswalk": "file"},
        plain=("class_field",),
        advanced=("band",),
        help="Compare a map with a reference (raster, polygons or points) at all pixels or points where both have a "
        "class.",
        report="report.html",
    ),
    Algorithm(
        id="sample",
        command="sample",
        title="Draw points to assess a map",
        required={"map_path": "raster", "points": "integer", "output": "vector_output"},
        plain=("allocation", "min_per_class", "unit"),
        advanced=("expected_ua", "seed", "band"),
        defaults={"points": 500},
    ),
    Algorithm(
        id="assess_sample",
        command="eval",
        title="Estimate accuracy and areas from a sample",
        required={"sample": "file", "map_path": "raster", "output": "folder_output"},
        advanced=("band",),
        help="Estimate accuracies and the area of each class from an interpreted sample, with 95 % intervals.",
        report="report.html",
    ),
)


def describe_algorithms(commands: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return plain values from which the plugin makes its algorithms.

    Args:
        commands: Typer's commands by name.
    """
    return [_describe(algorithm, commands[algorithm.command]) for algorithm in ALGORITHMS]


def _describe(algorithm: Algorithm, command: Any) -> dict[str, Any]:
    options = {option.name: option for option in command.params}
    types = {
        name: each.annotation for name, each in inspect.signature(command.callback, eval_str=True).parameters.items()
    }
    kinds: dict[str, Kind | None] = {**algorithm.required, **algorithm.optional}
    kinds |= dict.fromkeys((*algorithm.plain, *algorithm.advanced))
    parameters = [
        _parameter(options[name], types[name], kind)
        | {"optional": name not in algorithm.required, "advanced": name in algorithm.advanced}
        | ({"default": algorithm.defaults[name]} if name in algorithm.defaults else {})
        for name, kind in kinds.items()
    ]
    return {
        "id": algorithm.id,
        "command": algorithm.command,
        "title": algorithm.title,
        # Later paragraphs are about options and clusters.
        "help": [algorithm.help] if algorithm.help else _paragraphs(command.help)[:2],
        "overwrites": "overwrite" in options and "folder_output" not in kinds.values(),  # QGIS asks for files only
        "report": algorithm.report,
        "parameters": sorted(parameters, key=lambda parameter: parameter["kind"].endswith("_output")),
    }


def _parameter(option: Any, annotation: Any, kind: Kind | None) -> dict[str, Any]:
    plain = _plain_type(annotation)
    choices = list(get_args(plain)) if get_origin(plain) is Literal else []
    kind = kind or ("choice" if choices else _PLAIN[plain])
    sentence = option.help.partition(". ")[0].rstrip(".")
    title = "" if kind == "boolean" else f"{option.name.replace('_', ' ').capitalize()}: "
    return {
        "name": option.name.upper(),
        "option": next((word for word in option.opts if word.startswith("--")), ""),
        "kind": kind,
        "label": _LABELS.get(option.name) or title + sentence,
        "help": option.help.replace("; repeatable", ""),  # the dialog has one field
        "default": option.default,
        "choices": choices,
        "minimum": option.min,
        "maximum": option.max,
    }


def _plain_type(annotation: Any) -> Any:
    """Return the type of an option without `Annotated`, `None` and lists."""
    found = annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
    while get_origin(found) not in (None, Literal):
        found = next(part for part in get_args(found) if part is not NoneType)
    return found


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a help text without examples, tables and what introduces them."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(text))]
    return [part for part in parts if not part.startswith("\b") and not part.endswith(":")]
