"""Read YAML as dataclasses: find the file, apply `--set`, validate, and name the wrong key in errors."""

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from cwsam_cli.config import class_files
from cwsam_cli.config.schema import FolderArgs, RunConfig
from cwsam_cli.console import log
from cwsam_cli.errors import ConfigError
from cwsam_cli.taxonomy import LabelTable, Taxonomy, from_names

T = TypeVar("T")

_DATASETS = ("train_dataset", "val_dataset", "test_dataset")

# Keys of older research configurations that have no effect here.
_RETIRED = {
    "": ("data_norm", "eval_type", "multi_step_lr", "start_epoch"),
    **{f"{name}.wrapper": ("name",) for name in _DATASETS},
    **{f"{name}.dataset.args": ("cache", "split_key", "first_k", "repeat") for name in _DATASETS},
    "model.args.encoder_mode": ("name",),
}


def _built_in(raw: Mapping[str, Any]) -> dict[str, object]:
    """Return the keys of older configurations whose value cannot be changed here, with that value."""
    args = _at(raw, "model.args") or {}
    return {
        "img_size": args.get("inp_size", 512),
        "mlp_ratio": 4,
        "qkv_bias": True,
        "use_rel_pos": True,
        "scale_factor": 32,
        "prompt_type": "lowpass",
        "tuning_stage": 1234,
        "handcrafted_tune": True,
        "embedding_tune": True,
        "moe_type": "hierarchical",
    }


_TYPES = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "string_type": "text",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dataclass_type": "keys of its own",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Origin:
    """Where values come from, for messages: a file, and the `--set` options that change it."""

    file: str
    overrides: Sequence[str] = ()

    def of(self, key: str) -> str:
        """Return the last `--set` option that sets a key or a section around it, or else the file."""
        for override in reversed(self.overrides):
            changed = override.partition("=")[0]
            if f"{key}.".startswith(f"{changed}."):
                return _set_text([override])
        return self.file


def _set_text(overrides: Sequence[str]) -> str:
    return " ".join(f"--set {override[:80]}" for override in overrides)


def load_config(name: str, overrides: Sequence[str] = (), *, data: Sequence[Path] = ()) -> RunConfig:
    """Read a run's configuration.

    Args:
        name: a YAML file's path, or a shipped configuration's name such as `tiny`.
        overrides: `dotted.key=value`, each value read as YAML.
        data: folders that `cwsam tile` wrote; they replace the paths of all three datasets.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value has the wrong type.
    """
    path = _find(name, _shipped(), "configuration")
    source = _Origin(str(path), overrides)
    raw = _read_yaml(path, "a configuration; start from a shipped one, e.g. tiny.yaml")
    for override in overrides:
        _override(raw, override)
    if data:
        for dataset, split in zip(_DATASETS, ("train", "val", "test"), strict=True):
            args = _descend(raw, f"{dataset}.dataset.args", str(path))
            for key, kind in (("root_path_1", "images"), ("root_path_2", "labels")):
                paths = [str(folder / kind / split) for folder in data]
                args[key] = paths if len(paths) > 1 else paths[0]
            for key in ("classes", "palette"):
                args.pop(key, None)
    retired = _drop_retired(raw, source)
    if retired:
        log.warning("`%s`: %s have no effect here and are ignored", path, ", ".join(retired))
    args = _at(raw, "model.args") or {}
    if args.get("loss") == "iou":
        args["loss"] = "ce+iou"
    mode = _at(raw, "model.args.encoder_mode") or {}
    if "out_chans" in mode:  # the older name
        mode.setdefault("prompt_embed_dim", mode.pop("out_chans"))
    if "use_checkpoint" in mode:  # likewise
        _descend(raw, "training_settings", str(path)).setdefault("activation_checkpointing", mode.pop("use_checkpoint"))
    return _validate(RunConfig, raw, source)


def dump_config(config: RunConfig) -> str:
    """Return a configuration as YAML that `load_config` reads."""
    return yaml.safe_dump(_plain(config), allow_unicode=True, sort_keys=False)


def _plain(value: Any) -> Any:
    """Convert dataclasses to dicts and tuples to lists, for YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def load_taxonomy(name: str) -> Taxonomy:
    """Read the classes of a class table; see `load_label_table`."""
    return load_label_table(name).taxonomy


def load_label_table(name: str) -> LabelTable:
    """Read a class table, and the values that stand for its classes in label files.

    Args:
        name: the path of a YAML file or of a file that `class_files` reads, or a shipped table's name such as
            `land_cover_33`.

    Raises:
        ConfigError: the file is missing, or is not a valid class table.
    """
    path = _find(name, _shipped() / "classes", "class table")
    foreign = path.suffix.lower() in class_files.SUFFIXES
    raw = (
        class_files.read_class_file(path) if foreign else _read_yaml(path, "a class table; write one as in `zion_nlcd`")
    )
    return make_label_table(raw, str(path))


def make_label_table(raw: dict[str, Any], source: str) -> LabelTable:
    """Convert the keys of a class table.

    Args:
        raw: the keys, as YAML has them.
        source: the file's name, for messages.

    Raises:
        ConfigError: a key is unknown, missing or has a wrong value, or a value has two meanings.
    """
    keys, own, unlabelled = class_files.split_values(raw, source)
    taxonomy = validate(Taxonomy, keys, source)
    values = {code: found for code, found in zip(taxonomy.codes, own, strict=True) if found is not None}
    try:
        return LabelTable.of(taxonomy, values, unlabelled)
    except ValueError as error:
        raise ConfigError(f"`{source}`: {error}", hint="give each value one meaning") from None


def dataset_taxonomy(args: FolderArgs) -> Taxonomy | None:
    """Return the class table of a dataset's `classes` key, or None if the key is null.

    Raises:
        ConfigError: the table is missing or not valid.
    """
    if args.classes is None:
        return None
    if isinstance(args.classes, str):
        table = load_label_table(args.classes)
        if table.has_own_values:
            raise ConfigError(
                f"the class table `{args.classes}` says under `from` which values stand for its classes, "
                "but labels of a dataset hold class codes",
                hint="`cwsam tile` converts the values: cwsam tile SCENES --labels LABELS --classes TABLE -o DATASET",
            )
        return table.taxonomy
    try:
        return from_names(args.classes, args.palette)
    except ValueError as error:
        raise ConfigError(f"dataset.args.classes: {error}", hint="give one name and one colour per class") from None


def validate(kind: type[T], raw: object, source: str) -> T:
    """Convert plain YAML values to a dataclass.

    A number can be a string, because PyYAML reads `2e-4` as one. A boolean is never a number.

    Args:
        kind: the dataclass.
        raw: the values that YAML gave.
        source: the file's name, for messages.

    Raises:
        ConfigError: a key is unknown, missing or has a wrong value; the message names the first one.
    """
    return _validate(kind, raw, _Origin(source))


def _validate(kind: type[T], raw: object, source: _Origin) -> T:
    from pydantic import TypeAdapter, ValidationError  # 60 ms; a training step needs no validation, nor pydantic

    _refuse_booleans(kind, raw, "", source)
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise _first_problem(kind, error.errors(include_url=False), source) from None


_MEANT = {"epoch": "epoch_max", "epochs": "epoch_max"}
"""Keys that users try, and the keys that they mean."""


def _shipped() -> Path:
    package = Path(__file__).parents[1]
    inside = package / "configs"  # in a wheel
    return inside if inside.is_dir() else package.parent / "configs"


def _find(name: str, shipped: Path, what: str) -> Path:
    for candidate in (Path(name), shipped / name, shipped / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    skip = shipped / "classes"
    names = [
        path.relative_to(shipped).with_suffix("").as_posix()
        for path in sorted(shipped.rglob("*.yaml"))
        if skip not in path.parents
    ]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"shipped with cwsam: {', '.join(names)}"
    raise ConfigError(f"there is no {what} `{name}`", hint=hint)


def _read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Args:
        path: the file.
        what: the kind of file and, after a semicolon, the hint if it is not of this kind.

    Raises:
        ConfigError: the file is not valid YAML, or holds no keys.
    """
    kind, _, advice = what.partition("; ")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a number of 5,000 digits, lists in lists in lists
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"`{path}` is not valid YAML{where}", hint="check indentation and quotes there") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"`{path}` is not {kind} in YAML: it holds no keys", hint=advice)
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set `{override}` is not of the form key=value", hint="--set optimizer.args.lr=1e-4")
    parent, _, leaf = key.rpartition(".")
    try:
        _descend(raw, parent, "--set")[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set `{override[:80]}`: the value is not valid YAML", hint="quote it") from None


def _descend(raw: dict[str, Any], dotted: str, source: str) -> dict[str, Any]:
    """Return the mapping at a dotted key; create it if it is missing."""
    for part in filter(None, dotted.split(".")):
        if raw.get(part) is None:
            raw[part] = {}
        raw = raw[part]
        if not isinstance(raw, dict):
            raise ConfigError(f"`{dotted}` in `{source}`: `{part}` holds a value, not keys", hint="check the key")
    return raw


def _at(raw: object, dotted: str) -> Any:
    for part in filter(None, dotted.split(".")):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else None


def _drop_retired(raw: dict[str, Any], source: _Origin) -> list[str]:
    """Remove keys that have no effect; return their dotted names."""
    dropped = []
    for parent, keys in _RETIRED.items():
        mapping = _at(raw, parent) or {}
        dropped += [f"{parent}.{key}".lstrip(".") for key in keys if mapping.pop(key, mapping) is not mapping]
    mode = _at(raw, "model.args.encoder_mode") or {}
    for key, built in _built_in(raw).items():
        if key not in mode:
            continue
        value, whole = mode.pop(key), f"model.args.encoder_mode.{key}"
        if str(value).removesuffix(".0") != str(built):
            raise ConfigError(
                f"`{whole}` in `{source.of(whole)}` is {value}, but here it is always {built}",
                hint="remove the key",
            )
        dropped.append(whole)
    return dropped


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _refuse_booleans(annotation: Any, raw: object, key: str, source: _Origin) -> None:
    options = _options(annotation)
    if isinstance(raw, bool):
        if bool not in options and {int, float} & set(options):
            raise ConfigError(
                f"`{key}` in `{source.of(key)}` must be a number, not {str(raw).lower()}", hint="give a number"
            )
    elif isinstance(raw, dict):
        for kind in filter(dataclasses.is_dataclass, options):
            hints = get_type_hints(kind)
            for name, value in raw.items():
                _refuse_booleans(hints.get(name), value, f"{key}.{name}".lstrip("."), source)
    elif isinstance(raw, list):
        for option in options:
            for position, value in enumerate(raw if get_args(option) else ()):
                _refuse_booleans(get_args(option)[0], value, f"{key}.{position}", source)


def _below(kind: type, name: str) -> str | None:
    """Return the dotted name of a key that is deeper in a section, or None."""
    for key, annotation in get_type_hints(kind).items():
        for option in filter(dataclasses.is_dataclass, _options(annotation)):
            if name in (field.name for field in dataclasses.fields(option)):
                return f"{key}.{name}"
            deeper = _below(cast(type, option), name)
            if deeper:
                return f"{key}.{deeper}"
    return None


def _first_problem(kind: type, problems: list[Any], source: _Origin) -> ConfigError:
    """Return an error for the first wrong key, in terms of the configuration, not of pydantic."""
    problem = next((one for one in problems if one["type"] == "unexpected_keyword_argument"), problems[0])
    loc = [str(part) for part in problem["loc"]]
    parent, known = kind, kind
    for part in loc:
        fields = get_type_hints(known) if dataclasses.is_dataclass(known) else {}
        options = _options(fields.get(part))
        items = [item for option in options if get_origin(option) in (list, tuple) for item in get_args(option)]
        inner = [option for option in (*options, *items) if dataclasses.is_dataclass(option)]
        parent, known = known, cast(type, inner[0]) if inner else known
    key = ".".join(part for part in loc if "[" not in part and part not in ("str", "int"))  # union members are not keys
    where = f"`{key}` in `{source.of(key)}`"
    if key.endswith("dataset.args.classes"):
        return ConfigError(
            f"{where} must be a list of names, or a class table's path or shipped name",
            hint="for example: classes: land_cover_33",
        )
    if problem["type"] == "unexpected_keyword_argument":
        names = [field.name for field in dataclasses.fields(cast(Any, parent))]
        close = difflib.get_close_matches(loc[-1], names, n=1, cutoff=0.5)
        nearest = _MEANT.get(loc[-1]) or _below(parent, loc[-1]) or next(iter(close), None)
        section = "".join(f"{part}." for part in loc[:-1]) if nearest and "." in nearest else ""
        hint = f"did you mean `{section}{nearest}`?" if nearest else f"known keys: {', '.join(names)}"
        return ConfigError(f"{where} is not a known key", hint=hint)
    if problem["type"] == "invalid_key":
        return ConfigError(f"{where} is not a key", hint="keys are words")
    if problem["type"] == "missing":
        return ConfigError(f"`{key}` is missing in `{source.of(key)}`", hint="add the key")
    if problem["type"] == "value_error":
        inside = [override for override in source.overrides if not key or override.startswith(f"{key}.")]
        where = (where if key else f"`{source.file}`") + (f" with `{_set_text(inside)}`" if inside else "")
        return ConfigError(f"{where}: {problem['ctx']['error']}", hint="change one of them")
    told = _TYPES.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    given = problem["input"]
    shown = (
        "nothing" if given is None else repr(given) if isinstance(given, str | int | float) else type(given).__name__
    )
    return ConfigError(f"{where} should be {told}, not {shown}", hint="correct the value")
