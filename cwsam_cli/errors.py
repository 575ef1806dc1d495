"""What can go wrong through no fault of the program, one class an exit code.

A message is one sentence that names the file or key; the hint is the next step.
"""


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

    def __init__(self, path: object, why: str) -> None:
        super().__init__(
            f"`{path}` has no coordinate reference system, {why}",
            hint=f"if you know it: rio edit-info --crs EPSG:<code> {path}",
        )


class CheckpointError(CwsamError):
    """A checkpoint that is missing, broken or of another model."""

    exit_code = 5


class MachineError(CwsamError):
    """Disk, memory, permission or another process stands in the way."""

    exit_code = 6
