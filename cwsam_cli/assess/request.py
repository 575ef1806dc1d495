"""What a user wants of `eval`, checked as far as that is possible before torch is loaded."""

from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.distributed.cluster import Cluster

METRICS = "metrics.json"
"""The file that only folders of a report contain."""
_AGAIN = "start the command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """A checkpoint to measure on one split of a dataset; options have the names that they have on the command line."""

    checkpoint: Path
    """A `model_epoch_*.pth`."""
    data: Path
    """Folder that `cwsam tile` wrote."""
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
