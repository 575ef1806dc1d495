"""Examine the machine and the files that a user names, and compare each file with the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from cwsam_cli.doctor.describe import Description, describe
from cwsam_cli.doctor.fit import CHECKS
from cwsam_cli.doctor.machine import Machine, examine_machine
from cwsam_cli.errors import user_error_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A file or folder that the user names."""

    path: str
    description: Description | None
    """None if it cannot be used."""
    problem: str = ""
    """Why it cannot be used."""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two things side by side."""

    first: str
    second: str
    verdict: Literal["fit", "unclear", "mismatch"]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the doctor found."""

    machine: Machine
    things: tuple[Thing, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def is_well(self) -> bool:
        """Whether all things can be used, and fit each other."""
        return not any(thing.problem for thing in self.things) and all(
            comparison.verdict != "mismatch" for comparison in self.comparisons
        )


def diagnose(paths: Sequence[str]) -> Diagnosis:
    """Examine the machine, and files or folders.

    Args:
        paths: scenes, datasets, checkpoints, configurations and maps, in any order.
    """
    things = tuple(_look(path) for path in paths)
    known = [thing.description for thing in things if thing.description is not None]
    found = [_compare(*pair) for pair in combinations(known, 2)]
    return Diagnosis(
        machine=examine_machine(Path()),
        things=things,
        comparisons=tuple(comparison for comparison in found if comparison is not None),
    )


def _look(path: str) -> Thing:
    try:
        return Thing(path=path, description=describe(path))
    except Exception as error:
        told = user_error_of(error)
        return Thing(path=path, description=None, problem=str(told), hint=told.hint)


def _compare(first: Description, second: Description) -> Comparison | None:
    """Compare two things of kinds that can be compared."""
    check: Callable[[str, str], tuple[list[str], list[str]]] | None = CHECKS.get((first.kind, second.kind))
    if check is None:
        first, second = second, first
        check = CHECKS.get((first.kind, second.kind))
    if check is None:
        return None
    try:
        doubts, misfits = check(first.path, second.path)
    except Exception as error:
        told = user_error_of(error)
        doubts, misfits = [], [f"{told} ({told.hint})" if told.hint else str(told)]
    return Comparison(
        first=first.path,
        second=second.path,
        verdict="mismatch" if misfits else "unclear" if doubts else "fit",
        reasons=(*misfits, *doubts),
    )
