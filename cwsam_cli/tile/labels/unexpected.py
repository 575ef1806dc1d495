"""Tell which values of the labels no class has, and the lines of a class table that admit them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NoReturn

from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import IGNORE, LabelTable, default_color
from cwsam_cli.tile.labels.codes import Value
from cwsam_cli.tile.request import TileRequest

_SHOWN = 8


def refuse_unexpected(found: Counter[Value], table: LabelTable | None, request: TileRequest) -> NoReturn:
    """Raise an error that lists values with their pixels, the most frequent first.

    Args:
        found: pixels by value; at least one.
        table: the class table, None if there is none.
        request: what the user asks.
    """
    place = f"`{request.label_files}`" + (f": field `{request.class_field}`" if request.class_field else "")
    values = [value for value, _ in found.most_common(_SHOWN)]
    more = f", and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    shown = ", ".join(f"{value} ({found[value]:,} pixel{'s' * (found[value] > 1)})" for value in values)
    if len(found) > IGNORE:
        raise DataError(
            f"{place} holds {len(found):,} values that no class has: {shown}{more}",
            hint="are these the labels, and not an image?",
        )
    unlabelled = f"unlabelled: [{', '.join(map(_yaml, found))}]"
    entries = "\n".join(_entries(values, set(table.taxonomy.codes) if table else set()))
    if table is None:
        raise DataError(
            f"{place} holds values that cannot be class codes (0-254): {shown}{more}",
            hint="give a class table, --classes classes.yaml. Lines for values that are classes:\n"
            f"classes:\n{entries}\nA line for values that mean no label:\n{unlabelled}",
        )
    if request.append:
        raise DataError(
            f"{place} holds values that are not in the class table of `{request.output}`: {shown}{more}",
            hint="if they stand for its classes or for no label, give a class table with the same classes and with "
            "`from` or `unlabelled`: --classes; for more classes, tile all scenes again into another folder",
        )
    file = f" `{request.classes}`" if request.classes else ""
    raise DataError(
        f"{place} holds values that are not in the class table: {shown}{more}",
        hint=f"if they mean no label, add a line to the class table{file}:\n{unlabelled}\n"
        f"if they are classes, add lines below `classes:`\n{entries}",
    )


def _entries(values: Iterable[Value], used: set[int]) -> Iterator[str]:
    """Yield a line of a class table for each value."""
    free = iter(sorted(set(range(1, IGNORE)) - used - {value for value in values if isinstance(value, int)}))
    for number, value in enumerate(values):
        is_code = isinstance(value, int) and 0 <= value < IGNORE and value not in used
        code = value if is_code else next(free, 0)
        name = f"class {value}" if isinstance(value, int) else _yaml(value)
        color = value if isinstance(value, str) and value[:1] == "#" else default_color(number)
        source = "" if is_code else f", from: [{_yaml(value)}]"
        yield f'  - {{code: {code}, name: {name}, color: "{color}"{source}}}'


def _yaml(value: Value) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
