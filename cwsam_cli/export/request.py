"""What a user wants of `export`, checked before torch is loaded."""

from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input

ENDINGS = (".onnx",)
"""Endings of the formats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """A model to write as a file for other programs.

    Raises:
        UsageError: the output's name has none of the known endings.
    """

    checkpoint: Path
    """A `model_epoch_*.pth`."""
    output: Path
    """The file. Its ending chooses the format."""
    overwrite: bool = False
    """Replace older outputs."""

    def __post_init__(self) -> None:
        if self.output.suffix.lower() not in ENDINGS:
            raise UsageError(
                f"`{self.output}` does not end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", hint="say: -o model.onnx"
            )

    def refuse_early(self) -> None:
        """Stop before any work at an output that exists or is the checkpoint.

        Raises:
            UsageError: it is.
        """
        refuse_input(self.output, self.checkpoint)
        refuse_existing(self.output, overwrite=self.overwrite)
