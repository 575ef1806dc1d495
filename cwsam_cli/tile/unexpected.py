"""Tell which values of the labels no class has, and the lines of a class table that admit them."""

from collections import Counter
from typing import NoReturn

from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import IGNORE, LabelTable, default_color
from cwsam_cli.tile.labels import Value
from cwsam_cli.tile.request import TileRequest

_SHOWN = 8


def refuse_unexpected(found: Counter[Value], table: LabelTable | None, request: TileRequest) -> NoReturn:
    """Raise an error that lists values with their pixels, the most frequent first.

    Args:
        found: pixels by value; at least one.
        table: the class table, None if there is none.
        request: what the user asks.
    """
    values = [value for value, _ in found.most_common(_SHOWN)]
    more = f", and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    shown = ", ".join(f"{value} ({found[value]:,} pixels)" for value in values)
    lines = ", ".join(map(_yaml, values)) + (", ..." if more else "")
    place = f"`{request.label_files}`" + (f": field `{request.class_field}`" if request.class_field else "")
    used = set(table.taxonomy.codes) if table else set()
    code = next((code for code in range(1, IGNORE) if code not in used), 0)
    entry = (
        f'  - {{code: {code}, name: class {values[0]}, color: "{_color(values[0], code)}", from: [{_yaml(values[0])}]}}'
    )
    if table is None:
        raise DataError(
            f"{place} holds values that cannot be class codes (0-254): {shown}{more}",
            hint=f"give a class table, --classes classes.yaml, with a line for each class:\n{entry}\n"
            f"and a line for values that mean no label:\nunlabelled: [{lines}]",
        )
    raise DataError(
        f"{place} holds values that are not in the class table: {shown}{more}",
        hint=f"if they mean no label, add them to the class table{_file(request)}:\nunlabelled: [{lines}]\n"
        f"if they are classes, add a line for each under `classes`:\n{entry}",
    )


def _file(request: TileRequest) -> str:
    return f" `{request.classes}`" if request.classes else ""


def _yaml(value: Value) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("'", "''") + "'"


def _color(value: Value, code: int) -> str:
    return value if isinstance(value, str) and value[:1] == "#" else default_color(code)
