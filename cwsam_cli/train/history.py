"""Record a run's figures per epoch: TensorBoard events, JSON lines, and a table at the end."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cwsam_cli.files import write_text
from cwsam_cli.metrics.history import HISTORY, read_history
from cwsam_cli.model.routing import RoutingCounts
from cwsam_cli.taxonomy import Taxonomy

_SHOWN = 4  # tiles per picture


class HistoryWriter:
    """Writer of a run's figures.

    Args:
        folder: folder of the run.
        epoch: last finished epoch. Figures of later epochs, written before an interruption, are dropped.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / HISTORY
        kept = [row for row in read_history(self.path) if row["epoch"] <= epoch]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._events = SummaryWriter(str(folder), purge_step=epoch + 1 if epoch else None)

    def write(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Write the figures of an epoch. Figures that are None or not finite are left out."""
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        for name, value in known.items():
            self._events.add_scalar(name, value, epoch)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **known}) + "\n")
        self._events.flush()

    def write_images(self, epoch: int, image: Tensor, label: Tensor, best: Tensor, taxonomy: Taxonomy) -> None:
        """Draw the first tiles of a batch, one per row: image, labels, prediction.

        Args:
            epoch: number of the epoch.
            image: normalised images (B, C, S, S). The first three bands are shown as red, green and blue.
            label: labelled class indices (B, S, S).
            best: predicted class indices (B, S, S).
            taxonomy: class table with the colours.
        """
        colors = torch.full((256, 3), 236, dtype=torch.uint8)
        colors[: len(taxonomy)] = torch.tensor([entry.rgb for entry in taxonomy.classes], dtype=torch.uint8)
        rows = []
        for tile, truth, guess in zip(image[:_SHOWN], label[:_SHOWN], best[:_SHOWN], strict=True):
            bands = tile[:3] if len(tile) >= 3 else tile[:1].expand(3, -1, -1)
            picture = ((bands + 2) * 64).clamp(0, 255).to(torch.uint8)  # two standard deviations either way
            maps = [colors[index.long()].movedim(-1, 0) for index in (truth, guess)]
            rows.append(torch.cat([picture, *maps], dim=2))
        if rows:
            self._events.add_image("val/image_labels_prediction", torch.cat(rows, dim=1), epoch)

    def close(self) -> None:
        """Close the TensorBoard file."""
        self._events.close()


def summarize_routing(routing: Mapping[str, RoutingCounts]) -> dict[str, float]:
    """Return each expert layer's load per group and per expert, and the entropy of its routers."""
    figures = {}
    for name, counts in routing.items():
        figures[f"routing_entropy/{name}"] = float(counts.entropy)
        for group, (own, experts) in enumerate(
            zip(counts.group_load.tolist(), counts.expert_load.tolist(), strict=True)
        ):
            figures[f"load/{name}/group_{group}"] = own
            figures |= {f"load/{name}/group_{group}/expert_{expert}": share for expert, share in enumerate(experts)}
    return figures


def read_memory(device: torch.device) -> dict[str, float]:
    """Return the memory use of this process in bytes: on the GPU, or the peak resident memory."""
    memory = torch.get_device_module(device)
    if hasattr(memory, "memory_reserved"):  # not on CPUs and Apple's GPUs
        return {
            "memory/allocated": memory.memory_allocated(device),
            "memory/reserved": memory.memory_reserved(device),
            "memory/peak": memory.max_memory_allocated(device),
        }
    try:
        import resource
    except ImportError:  # not on Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory/peak_resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def format_history(rows: list[dict[str, float]]) -> str:
    """Format a table of at most 12 validated epochs, evenly spaced."""
    rows = [row for row in rows if "val/mIoU" in row]
    every = -(-len(rows) // 12) or 1
    shown = rows[::-every][::-1]
    lines = [f"{'epoch':>6} {'loss':>8} {'mIoU':>7} {'accuracy':>9} {'lr':>9} {'images/s':>9}"]
    names = ("train/loss", "val/mIoU", "val/accuracy", "train/lr", "train/images_per_s")
    for row in shown:
        loss, iou, accuracy, rate, speed = (row.get(name, math.nan) for name in names)
        lines.append(f"{row['epoch']:>6} {loss:>8.3f} {iou:>7.3f} {accuracy:>9.3f} {rate:>9.2e} {speed:>9.1f}")
    return "\n".join(lines)
