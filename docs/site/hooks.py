"""Generate the pages of the reference when the site is built, and show the layers in the page on contributing.

Commands come from `--help`, the configuration from the docstrings under its fields, class tables from their files, and
Python functions from their docstrings. A line `<!-- code: layers -->` in a page becomes the layers of import-linter.
"""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from cwsam_cli.config import datasets, schema
from cwsam_cli.config.load import load_taxonomy
from cwsam_cli.main import app

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/commands.md": commands(),
        "reference/configuration.md": configuration(),
        "reference/classes.md": class_tables(),
        "reference/python.md": functions(),
        "example.md": example(),
        "changelog.md": outside("CHANGELOG.md"),
        "benchmarks.md": outside("tests/benchmarks/README.md"),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    picture = ROOT / "tests/benchmarks/quicklook.png"
    files.append(File.generated(config, "pictures/quicklook.png", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show the layers of import-linter where a page asks for them."""
    return markdown.replace("<!-- code: layers -->", layers())


def commands() -> str:
    """Return the help texts of all commands."""
    program = _help()
    names = re.findall(r"^  ([a-z]+)  ", program.split("Commands:")[1], flags=re.MULTILINE)
    sections = [f"## cwsam {name}\n\n```text\n{_help(name)}```" for name in names]
    return "\n\n".join(["# Commands", f"```text\n{program}```", *sections]) + "\n"


def _help(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [*words, "--help"], prog_name="cwsam", terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.stdout


def configuration() -> str:
    """Return a table of keys for each part of a configuration."""
    notes = _field_notes()
    parts = [
        "# Configuration",
        "A configuration is a YAML file. `--set KEY=VALUE` changes one key, with dots between its parts: "
        "`--set optimizer.args.lr=5e-4`. An unknown key is an error. `val_dataset` and `test_dataset` have the keys of "
        "`train_dataset`.",
    ]
    for path, kind in _sections("", schema.RunConfig):
        rows = []
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if not _dataclass_in(hints[field.name]):
                note = " ".join(notes.get((kind.__name__, field.name), "").split())
                rows.append([f"`{path}{field.name}`", _type_text(hints[field.name]), _default(field), note])
        if rows:
            parts += [
                f"## {path.rstrip('.') or 'The run'}",
                (kind.__doc__ or "").strip(),
                _table("key type default meaning", rows),
            ]
    return "\n\n".join(parts) + "\n"


def _sections(path: str, kind: type) -> Iterator[tuple[str, type]]:
    yield path, kind
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = _dataclass_in(hints[field.name])
        if inner and not (path == "" and field.name in ("val_dataset", "test_dataset")):
            yield from _sections(f"{path}{field.name}.", inner)


def _dataclass_in(hint: Any) -> type | None:
    """Return the dataclass that a field holds, alone or in a list or a union."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    return next(filter(None, map(_dataclass_in, get_args(hint))), None)


def _type_text(hint: Any) -> str:
    """Return a type as people say it: `int or null`."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_type_text, parts))
    return "null" if hint is type(None) else hint.__name__ if not parts else str(hint)


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return {"None": "null", "True": "true", "False": "false"}.get(str(field.default), str(field.default))
    return "" if field.default_factory is dataclasses.MISSING else str(field.default_factory())


def _field_notes() -> dict[tuple[str, str], str]:
    """Return the docstring under each field, by class and field."""
    notes = {}
    for module in (schema, datasets):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for field, after in zip(kind.body, kind.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                ):
                    notes[kind.name, ast.unparse(field.target)] = str(after.value.value)
    return notes


def class_tables() -> str:
    """Return the shipped class tables."""
    parts = ["# Class tables", "`--classes NAME` takes one of these tables, or a file of your own."]
    for file in sorted((ROOT / "configs/classes").glob("*.yaml")):
        table = load_taxonomy(file.stem)
        rows = [
            [str(entry.code), entry.name, f'<span style="background:{entry.color}">&emsp;&emsp;</span> `{entry.color}`']
            for entry in table.classes
        ]
        parts += [
            f"## {file.stem}",
            " ".join(filter(None, (table.name, table.source))),
            _table("code name colour", rows),
        ]
    return "\n\n".join(parts) + "\n"


def functions() -> str:
    """Return signatures and docstrings of the names that the Python interface imports."""
    parts = ["# Python functions", "Import these names from `cwsam_cli`."]
    for line in ast.parse((ROOT / "cwsam_cli/interface/__init__.py").read_text(encoding="utf-8")).body:
        if not isinstance(line, ast.ImportFrom):
            continue
        module = ast.parse((ROOT / f"{line.module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        node = next(own for own in module.body if getattr(own, "name", "") == line.names[0].name)
        parts += _class(node) if isinstance(node, ast.ClassDef) else [_function(node, "")]
    return "\n\n".join(parts) + "\n"


def _class(node: ast.ClassDef) -> list[str]:
    """Return a class's heading, docstring, fields and functions."""
    rows = [
        [
            f"`{ast.unparse(field.target)}`",
            f"`{ast.unparse(field.annotation)}`".replace("|", "or"),
            str(note.value.value),
        ]
        for field, note in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant)
    ]
    table = [_table("field type meaning", rows)] if rows else []
    own = [_function(each, f"{node.name}.") for each in node.body if _is_public(each)]
    return [f"## {node.name}", ast.get_docstring(node) or "", *table, *own]


def _is_public(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


def _function(node: ast.stmt, owner: str) -> str:
    """Return a function's heading, signature and docstring."""
    assert isinstance(node, ast.FunctionDef)
    heading, text = f"{'###' if owner else '##'} {owner}{node.name}", ast.get_docstring(node) or ""
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return f"{heading}\n\n{text}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{heading}\n\n```text\n{node.name}({ast.unparse(node.args)}){returns}\n\n{text}\n```"


def example() -> str:
    """Return the notebook-like example as a page: its comments are text, and its cells are code."""
    parts = []
    for cell in (ROOT / "docs/notebook.py").read_text(encoding="utf-8").split("# %%")[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append("\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def outside(path: str) -> str:
    """Return a page that lies outside the folder of the documentation, with links that work inside it."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"\]\([^)]*?benchmarks/README\.md", "](benchmarks.md", text)


def layers() -> str:
    """Return the layers of import-linter as a block."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    lines = "\n".join(layer.replace("cwsam_cli.", "") for layer in contracts["contracts"][0]["layers"])
    return f"```text\n{lines}\n```"


def _table(head: str, rows: list[list[str]]) -> str:
    titles = head.split()
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
