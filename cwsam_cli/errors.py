"""What can go wrong through no fault of the program, one class an exit code.

A message is one sentence that names the file or key; the hint is the next step.
"""

import errno

_DISK = {
    errno.ENOTDIR: "a part of that path is a file",
    errno.EEXIST: "a part of that path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "look at the permissions of that place",
    errno.EPERM: "look at the permissions of that place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "free some space there, or choose another disk",
    errno.EFBIG: "that place holds no file as large as this one; choose another",
    errno.EDQUOT: "free some space there, or choose another disk",
}


class CwsamError(Exception):
    """A failure that the user can mend.

    Args:
        message: what was wrong and where, in one sentence.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CwsamError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class OutputExists(UsageError):
    """The output is there already and nobody said it may go."""

    def __init__(self, path: object) -> None:
        super().__init__(f"`{path}` exists already", hint="choose another output, or add --overwrite")


class ConfigError(CwsamError):
    """A configuration or class table that is missing, mistyped or contradicts itself."""

    exit_code = 3


class DataError(CwsamError):
    """A raster, vector or dataset that cannot be used as it is."""

    exit_code = 4


class MissingCRS(DataError):
    """A grid without a coordinate reference system where one is needed."""

    def __init__(self, path: object, why: str, *, hint: str = "") -> None:
        super().__init__(
            f"`{path}` has no coordinate reference system, {why}",
            hint=hint or f"if you know it: rio edit-info --crs EPSG:<code> {path}",
        )


class CheckpointError(CwsamError):
    """A checkpoint that is missing, broken or of another model."""

    exit_code = 5


class MachineError(CwsamError):
    """Disk, memory, permission or another process stands in the way."""

    exit_code = 6


class OutOfMemory(MachineError):
    """A device's or the host's memory is too small for a step of training."""


def as_user_error(error: Exception) -> CwsamError | None:
    """What an exception of any library means to a user, or None if it is a bug."""
    if isinstance(error, CwsamError):
        return error
    if isinstance(error, OSError):
        hint = _DISK.get(error.errno or 0)
        return MachineError(f"`{error.filename or 'output'}`: {error.strerror}", hint=hint) if hint else None
    if is_out_of_memory(error):
        return MachineError("the memory is not enough", hint="smaller batches need less: batch_size, or --batch-size")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return MachineError("a process that reads tiles died", hint="--set training_settings.workers=0 does without")
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python's or torch's memory ran out."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
