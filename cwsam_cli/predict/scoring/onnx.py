"""An exported model in place of a checkpoint's network.

# B windows, C bands, K classes, S pixels per side of a window
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import DIVISOR, INPUT, OUTPUT, open_session
from cwsam_cli.dataset.transforms import band_statistics
from cwsam_cli.distributed.scheduler import LOCAL
from cwsam_cli.errors import UsageError
from cwsam_cli.predict.request import MapRequest

_SMALLEST = 1e-38  # probability; below it float32 has few digits, and 0 has no logarithm


class OnnxNetwork(nn.Module):
    """Network that onnxruntime runs on the CPU, window by window.

    The file's probabilities become scores again: their logarithm times the temperature. These differ from the
    checkpoint's scores by a constant per pixel and window, so blended scores give the same classes and probabilities.
    """

    def __init__(self, path: Path, about: Checkpoint) -> None:
        super().__init__()
        self.session = open_session(path)
        self.mean, self.std = band_statistics(about.bands)
        self.temperature = 1.0 if about.calibration is None else about.calibration.temperature

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, S, S) to scores (B, K, S, S)."""
        pixels = ((images * self.std + self.mean) / DIVISOR).split(1)  # the file normalises pixels itself
        found = [self.session.run([OUTPUT], {INPUT: image.numpy()})[0] for image in pixels]
        return torch.cat([torch.from_numpy(each) for each in found]).clamp_(min=_SMALLEST).log_().mul_(self.temperature)


def refuse_torch_options(request: MapRequest) -> None:
    """Stop at options that an exported model cannot serve.

    Raises:
        UsageError: there is one.
    """
    needs_torch = {
        "--experts": request.experts,
        "--compile": request.compile,
        "--gpus": request.gpus > 1,
        "--scheduler local": request.scheduler == LOCAL,
        "--device": request.device not in ("auto", "cpu"),
        "--precision": request.precision not in ("auto", "fp32"),
    }
    for option, is_given in needs_torch.items():
        if is_given:
            raise UsageError(
                f"{option}: onnxruntime runs `{request.checkpoint}` on the CPU, in fp32 and in one process",
                hint=f"leave {option} out, or use the checkpoint that the file was exported from",
            )
