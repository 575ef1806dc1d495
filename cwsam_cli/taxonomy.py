"""The classes of a map: names, codes and colours.

A class's *code* is its value in rasters and polygons (0-254; 255 is "no label"). Its *index* is
its row in the class table and its plane of the logits. `code_to_index` and `index_to_code`
convert between the two. Label files of other people may hold other *values* for a class. A
`LabelTable` gives the code of each.
"""

import colorsys
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

LONGEST_NAME = 100
"""Largest number of characters in a class name."""
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, lone surrogates, line and paragraph separators."""
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that show text in another order than it is stored."""
IGNORE = 255
"""The value for "no label" and nodata, in label rasters, maps and index arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandCoverClass:
    """One class of a land-cover map."""

    code: int
    """Value in rasters, 0-254."""
    name: str
    """Name in any language and script, on one line, at most `LONGEST_NAME` characters."""
    color: str
    """Colour as `#rrggbb`."""

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as red, green, blue, 0-255 each."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taxonomy:
    """A class table: an ordered set of classes."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    classes: tuple[LandCoverClass, ...]
    name: str = ""
    """Name of the table."""
    source: str = ""
    """Origin of the classes, and their licence."""
    unlabelled: tuple[int, ...] = ()
    """Codes that mean "no label" in label rasters, besides 255 and nodata."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("a class table needs at least one class")
        codes = self.codes
        twice = sorted({str(code) for code in codes if codes.count(code) > 1})
        if twice:
            raise ValueError(f"code {', '.join(twice)} is given to more than one class")
        names: dict[str, str] = {}
        for entry in self.classes:
            check_name(entry.code, entry.name)
            if not 0 <= entry.code < IGNORE:
                raise ValueError(f"code {entry.code} of `{entry.name}` is outside 0-254")
            key = name_key(entry.name)
            if names.get(key) == entry.name:
                raise ValueError(f"name {entry.name} is given to more than one class")
            if key in names:
                raise ValueError(f"the names `{names[key]}` and `{entry.name}` differ in capitals or spaces only")
            names[key] = entry.name
            digits = entry.color[1:]
            if entry.color[:1] != "#" or len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
                raise ValueError(f"color `{entry.color}` of `{entry.name}` is not of the form #rrggbb")
        odd = [code for code in self.unlabelled if not 0 <= code <= IGNORE]
        if odd:
            raise ValueError(
                f"`unlabelled` may hold 0-255, not {odd[0]}; declare that value as the labels' nodata: "
                f"gdal_translate -a_nodata {odd[0]} labels.tif declared.tif"
            )
        both = sorted(set(codes) & set(self.unlabelled))
        if both:
            raise ValueError(f"code {both[0]} is both a class and unlabelled")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """Names of the classes, by index."""
        return [entry.name for entry in self.classes]

    @property
    def codes(self) -> list[int]:
        """Codes of the classes, by index."""
        return [entry.code for entry in self.classes]

    def code_to_index(self, *, ignore_background: bool = False) -> bytes:
        """Return a table of 256 bytes: the index of each code, or `IGNORE` if no class has it.

        Args:
            ignore_background: code 0 counts as unlabelled (`ignore_bg` of a configuration).
        """
        table = bytearray([IGNORE] * 256)
        for index, code in enumerate(self.codes):
            table[code] = index
        if ignore_background:
            table[0] = IGNORE
        return bytes(table)

    def index_to_code(self) -> bytes:
        """Return a table of 256 bytes: the code of each index, or `IGNORE` beyond the last class."""
        return bytes(self.codes).ljust(256, bytes([IGNORE]))

    def same_classes(self, other: "Taxonomy") -> bool:
        """Return whether both tables have the same codes and names in the same order."""
        return [(c.code, c.name) for c in self.classes] == [(c.code, c.name) for c in other.classes]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """A class table, and the values in label files that stand for its classes."""

    taxonomy: Taxonomy
    values: dict[int | str, int]
    """Class code by value, `IGNORE` for a value that means "no label". Texts are colours `#rrggbb` or field values."""

    @property
    def has_own_values(self) -> bool:
        """Whether a class has another value than its code."""
        return any(self.values.get(code) != code for code in self.taxonomy.codes)

    @classmethod
    def of(
        cls,
        taxonomy: Taxonomy,
        sources: Mapping[int, Sequence[int | str]] | None = None,
        unlabelled: Sequence[int | str] = (),
    ) -> "LabelTable":
        """Combine a class table with the values of its classes.

        Args:
            taxonomy: the class table.
            sources: values by class code. The value of a class that is not there is its code.
            unlabelled: more values that mean "no label".

        Raises:
            ValueError: a value has two meanings.
        """
        values: dict[int | str, int] = {}
        names = {entry.code: f"`{entry.name}`" for entry in taxonomy.classes} | {IGNORE: "unlabelled"}
        pairs = [(code, (sources or {}).get(code, (code,))) for code in taxonomy.codes]
        for code, own in [*pairs, (IGNORE, (*taxonomy.unlabelled, *unlabelled))]:
            for value in own:
                meaning = values.setdefault(value, code)
                if meaning != code:
                    raise ValueError(f"the value {value} is both {names[meaning]} and {names[code]}")
        return cls(taxonomy=taxonomy, values=values)


def name_key(name: str) -> str:
    """Return a name in lower case with single spaces; two names with the same key count as equal."""
    return " ".join(name.split()).casefold()


def check_name(code: int | None, name: str) -> None:
    """Check the name of a class.

    Args:
        code: the class's code, for the message.
        name: the name.

    Raises:
        ValueError: the name is empty, too long, or has characters that cannot be printed.
    """
    check_printable(code, name)
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name of the class with code {code} is longer than {LONGEST_NAME} characters")


def check_printable(code: int | None, name: str) -> None:
    """Check the name of a class of any raster, which may have any length.

    Args:
        code: the class's code, for the message.
        name: the name.

    Raises:
        ValueError: the name is empty, or has characters that cannot be printed.
    """
    if not name.strip():
        raise ValueError(f"the class with code {code} has no name")
    if any(map(_is_unprintable, name)):
        raise ValueError(f"the name {name!a} of the class with code {code} has characters that cannot be printed")


def make_printable(name: str) -> str:
    """Return a name with a space in place of each character that cannot be printed. It may be empty."""
    return "".join(" " if _is_unprintable(character) else character for character in name).strip()


def _is_unprintable(character: str) -> bool:
    is_noncharacter = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF  # XML forbids some
    return (
        is_noncharacter or unicodedata.category(character) in _UNPRINTABLE or _REORDERING.match(character) is not None
    )


def default_color(index: int) -> str:
    """Return a colour for a class that has none; neighbours in the table differ clearly."""
    hue = (index * 0.618034) % 1.0  # multiples of the golden ratio never give the same hue twice
    lightness = (0.45, 0.65, 0.3)[index % 3]
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.65))
    return f"#{red:02x}{green:02x}{blue:02x}"


def from_names(names: Sequence[str], palette: Sequence[Sequence[int]] = (), *, first: int = 0) -> Taxonomy:
    """Make a class table from names alone; codes count up from `first`.

    Args:
        names: one name per class.
        palette: (red, green, blue) per class, 0-255 each; empty takes default colours.
        first: code of the first class.

    Raises:
        ValueError: the palette has another length, or the table is not valid.
    """
    colors = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in palette] or [default_color(i) for i in range(len(names))]
    if len(colors) != len(names):
        raise ValueError(f"the palette has {len(colors)} colours for {len(names)} classes")
    return Taxonomy(
        classes=tuple(
            LandCoverClass(code=first + index, name=name, color=color)
            for index, (name, color) in enumerate(zip(names, colors, strict=True))
        )
    )
