"""What a user wants of `eval`, checked as far as that is possible before torch is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input

METRICS = "metrics.json"
"""The file that only folders of a report contain."""
COMPARISON = "comparison.json"
"""The file that only folders of a comparison contain."""
_AGAIN = "start the command again"


def list_folders(data: Sequence[Path]) -> str:
    """Return the names of datasets as text."""
    return ", ".join(map(str, data))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """A checkpoint to measure on one split of a dataset; options have the names that they have on the command line."""

    checkpoint: Path
    """A `model_epoch_*.pth`."""
    data: tuple[Path, ...]
    """Folders that `cwsam tile` wrote, with the same classes and bands."""
    split: str = "test"
    output: Path | None = None
    """Folder of the report; None writes no report."""
    overwrite: bool = False
    """Replace an older report."""
    tolerance: int = 2
    """Largest distance in pixels at which boundaries match."""
    batch_size: int = 8
    """Images per batch."""
    device: str = "auto"
    gpus: int = 1
    """Processes, each with a device and a model of its own."""
    command: str = ""
    """The command line, for the record in the report."""

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        return Cluster(processes=self.gpus, device=self.device, hint_after_signal=_AGAIN, hint_after_stall=_AGAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """A checkpoint to calibrate on the validation split of a dataset.

    Raises:
        UsageError: an option has a value that it cannot have.
    """

    checkpoint: Path
    data: tuple[Path, ...]
    output: Path
    """The calibrated copy, a `.pth`."""
    temperature: bool = True
    """Fit a temperature. Otherwise the checkpoint's own is kept."""
    coverage: float | None = None
    """Fit sets of classes that hold the true class of this share of pixels; None fits no sets."""
    split: str = "test"
    """The split on which the result is measured."""
    overwrite: bool = False
    batch_size: int = 8
    device: str = "auto"
    gpus: int = 1

    def __post_init__(self) -> None:
        if self.output.suffix != ".pth":
            raise UsageError(
                f"`{self.output}` is not the name of a checkpoint, which --calibrate and --conformal write",
                hint="say: -o calibrated.pth",
            )
        if self.coverage is not None and not 0.5 <= self.coverage < 1:
            raise UsageError(f"--conformal is {self.coverage:g}, but it must be from 0.5 to below 1", hint="say: 0.9")
        if self.split == "val":
            raise UsageError(
                "--split val is the ground on which --calibrate and --conformal fit, so it proves nothing",
                hint="leave --split out",
            )

    def refuse_early(self) -> None:
        """Stop before any work at an output that exists or is the checkpoint.

        Raises:
            UsageError: it is.
        """
        refuse_input(self.output, self.checkpoint)
        refuse_existing(self.output, overwrite=self.overwrite)

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        return Cluster(processes=self.gpus, device=self.device, hint_after_signal=_AGAIN, hint_after_stall=_AGAIN)
