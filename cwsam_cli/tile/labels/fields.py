"""Make a class table of the values in the class field of label layers."""

from collections.abc import Sequence

from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import IGNORE, LabelTable, LandCoverClass, Taxonomy, default_color
from cwsam_cli.tile.labels.codes import Value
from cwsam_cli.tile.labels.vector import VectorSource


def field_table(sources: Sequence[VectorSource]) -> LabelTable:
    """Make a class table of the values in the class field of one or more layers.

    Raises:
        DataError: the field holds no class codes and no names.
    """
    path, field = sources[0].path, sources[0].class_field
    found = set[Value]().union(*(source.values() for source in sources))
    if found and all(isinstance(value, str) and value.isdecimal() for value in found):
        found = {int(value) for value in found}
    values = sorted(found, key=str)
    codes = [value for value in values if isinstance(value, int)]
    if codes and len(codes) < len(values):
        raise DataError(f"`{path}`: field `{field}` mixes codes and names", hint="give a class table: --classes")
    if len(values) > IGNORE - 1 or (codes and not 0 <= min(codes) <= max(codes) < IGNORE):
        raise DataError(
            f"`{path}`: field `{field}` holds no class codes (0-254)",
            hint="name another field, or give a class table that says which values are which class: --classes",
        )
    if not values:
        raise DataError(f"`{path}`: field `{field}` is empty", hint="name another field")
    named = [(code, f"class {code}") for code in sorted(codes)] or [(i, str(v)) for i, v in enumerate(values, start=1)]
    classes = tuple(
        LandCoverClass(code=code, name=name, color=default_color(i)) for i, (code, name) in enumerate(named)
    )
    try:
        return LabelTable.of(Taxonomy(name=path.stem, classes=classes))
    except ValueError as error:
        raise DataError(
            f"`{path}`: field `{field}`: {error}", hint="correct the field, or give a class table: --classes"
        ) from None
