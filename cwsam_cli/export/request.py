"""What a user wants of `export`, checked before torch is loaded."""

from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input

ENDINGS = (".onnx", ".pt2", ".safetensors")
"""Endings of the formats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """A model to write as a file for other programs.

    Raises:
        UsageError: an output's name has another ending, or an option lacks the one that it belongs to.
    """

    checkpoint: Path
    """A `model_epoch_*.pth`."""
    output: Path
    """The file. Its ending chooses the format."""
    card: Path | None = None
    """A model card to write beside the file, a `.md`."""
    stac: Path | None = None
    """A STAC item to write beside the file, a `.json`."""
    report: Path | None = None
    """A folder that `cwsam eval -o` wrote, whose scores go into the card."""
    overwrite: bool = False
    """Replace older outputs."""

    def __post_init__(self) -> None:
        if self.output.suffix.lower() not in ENDINGS:
            raise UsageError(
                f"`{self.output}` does not end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", hint="say: -o model.onnx"
            )
        for option, path, ending in (("--card", self.card, ".md"), ("--stac", self.stac, ".json")):
            if path is not None and path.suffix.lower() != ending:
                raise UsageError(f"{option} `{path}` does not end in {ending}", hint=f"say: {option} model{ending}")
        if self.report is not None and self.card is None:
            raise UsageError("--report: only the card has its scores", hint="add --card README.md")

    @property
    def outputs(self) -> list[Path]:
        """All files to write."""
        return [path for path in (self.output, self.card, self.stac) if path is not None]

    @property
    def name(self) -> str:
        """Name of the model: of its run's folder, or of the file if that has a name of its own."""
        folder = self.checkpoint.resolve().parent.name
        return folder if self.checkpoint.stem.startswith("model_epoch_") and folder else self.checkpoint.stem

    def refuse_early(self) -> None:
        """Stop before any work at outputs that exist or are the checkpoint.

        Raises:
            UsageError: there is one.
        """
        for path in self.outputs:
            refuse_input(path, self.checkpoint)
            refuse_existing(path, overwrite=self.overwrite)
