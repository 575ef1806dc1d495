"""Errors that a user can correct: one class per exit code.

A message is one sentence that names the file or key. The hint is the next thing to type or check.
"""

import errno
import os
from typing import Any

from cwsam_cli.console import log, without_secrets

_DISK = {
    errno.ENOTDIR: "a part of that path is a file",
    errno.EEXIST: "a part of that path is a file",
    errno.EISDIR: "that path is a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link there leads to itself",
    errno.EACCES: "check the permissions of that path",
    errno.EPERM: "check the permissions of that path",
    errno.EROFS: "choose a path that you can write to",
    errno.ENOSPC: "free some space there, or choose another disk",
    errno.EFBIG: "the file is too large for that file system; choose another disk",
    errno.EDQUOT: "free some space there, or choose another disk",
}


_LONGEST = 300  # characters of another error in a message


class CwsamError(Exception):
    """An error that the user can correct.

    Args:
        message: one sentence that says what is wrong and where. Both texts lose the queries and logins of URLs.
        hint: the next thing to type or check.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(without_secrets(message))
        self.hint = without_secrets(hint)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let worker processes pass on errors of subclasses with other arguments."""
        return restore_error, (type(self), str(self), self.hint)


def restore_error(kind: type[CwsamError], message: str, hint: str) -> CwsamError:
    """Return an error of a kind, whatever arguments the kind itself takes."""
    error = kind.__new__(kind)
    CwsamError.__init__(error, message, hint=hint)
    return error


class UsageError(CwsamError):
    """The command line is wrong, or the output exists."""

    exit_code = 2


class OutputExists(UsageError):
    """The output exists, and --overwrite is not given."""

    def __init__(self, path: object) -> None:
        super().__init__(f"`{path}` exists already", hint="choose another output, or add --overwrite")


class ConfigError(CwsamError):
    """A configuration or class table is missing, has a wrong key or value, or contradicts itself."""

    exit_code = 3


class DataError(CwsamError):
    """A raster, vector file or dataset cannot be used as it is."""

    exit_code = 4


class MissingCRS(DataError):
    """A raster has no coordinate reference system where one is needed.

    Args:
        path: the file.
        why: a phrase that says why it needs one, e.g. "so areas have no unit".
        hint: the next step; by default the command that sets a CRS.
    """

    def __init__(self, path: object, why: str, *, hint: str = "") -> None:
        super().__init__(
            f"`{path}` has no coordinate reference system, {why}",
            hint=hint or f"if you know it: rio edit-info --crs EPSG:<code> {path}",
        )


class CheckpointError(CwsamError):
    """A checkpoint is missing, damaged or belongs to another model."""

    exit_code = 5


class MachineError(CwsamError):
    """The machine prevents the work: disk, memory, permissions, network, a lock or a process that died."""

    exit_code = 6


class OutOfMemory(MachineError):
    """A device's or the host's memory is too small for a step of training."""


def as_user_error(error: Exception) -> CwsamError | None:
    """Translate an exception of any library into a `CwsamError`; return None if it is a bug."""
    if isinstance(error, CwsamError):
        return error
    if isinstance(error, OSError):
        hint = _DISK.get(error.errno or 0)
        return MachineError(f"`{error.filename or 'output'}`: {error.strerror}", hint=hint) if hint else None
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):  # pathlib before Python 3.13
        return MachineError(f"`{str(error)[18:].strip(chr(39))}`: {os.strerror(errno.ELOOP)}", hint=_DISK[errno.ELOOP])
    if isinstance(error, ValueError) and str(error) == "embedded null byte":
        return UsageError("a path contains the character NUL", hint="remove it")
    if _has_no_transformation(error):
        return DataError(
            "there is no transformation between the coordinate reference systems of the inputs",
            hint="give all inputs a CRS that PROJ knows; `cwsam doctor FILE…` prints them",
        )
    if is_out_of_memory(error):
        return MachineError("the memory is not sufficient", hint="use smaller batches: batch_size, or --batch-size")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return MachineError(
            "a process that reads tiles died", hint="try without such processes: --set training_settings.workers=0"
        )
    return None


def _has_no_transformation(error: Exception) -> bool:
    """Return whether PROJ knows no way between two CRSs: one is local, or they are of two planets."""
    return str(error).startswith(("Error creating Transformer from CRS", "Cannot find coordinate operations from"))


def user_error_of(error: Exception) -> CwsamError:
    """Translate an exception as `as_user_error` does; raise it if it is a bug."""
    told = as_user_error(error)
    if told is None:
        raise error
    return told


def log_failure(error: Exception) -> CwsamError:
    """Log an error that the user can correct, and return it; raise any other one."""
    told = user_error_of(error)
    log.error("%s; hint: %s", told, told.hint)
    return told


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, shortened, for a message."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Python or torch had no memory left."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
