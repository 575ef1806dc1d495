"""Say in plain sentences what an evaluation found, and what it cannot tell."""

import numpy as np

from cwsam_cli.assess.evaluation import Evaluation, Interval
from cwsam_cli.metrics.bootstrap import ENOUGH_BLOCKS


def summarize(result: Evaluation) -> list[str]:
    """Return sentences on the accuracy, the classes, the commonest confusion and the confidence."""
    metrics, names = result.metrics, result.taxonomy.names
    kind = "block" if result.has_blocks else "tile"
    ground = f"{result.blocks} {kind}{'' if result.blocks == 1 else 's'}"
    sentences = [
        f"Overall accuracy {_with_spread(metrics.accuracy, result.intervals['accuracy'])} from {ground} "
        f"with {metrics.pixels:,} labelled pixels."
    ]
    known = [(row.iou, name) for name, row in zip(names, metrics.classes, strict=True) if row.iou is not None]
    if len(known) > 1:
        (worst, last), (best, first) = min(known), max(known)
        sentences.append(
            f"Mean IoU {_with_spread(metrics.mean_iou, result.intervals['mean_iou'])} over {len(known)} classes: "
            f"{first} is mapped best (IoU {best:.2f}), {last} worst ({worst:.2f})."
        )
    sentences += _confusion(result)
    if result.calibration_error is not None:
        pixels, right, confidence = result.bins.sum(axis=0)
        gap = (confidence - right) / pixels
        manner = "too sure" if gap > 0.01 else "not sure enough" if gap < -0.01 else "about as sure as it is right"
        sentences.append(
            f"On average the model is {manner}: confidence {confidence / pixels:.2f}, accuracy {right / pixels:.2f}."
        )
    return sentences


def describe_blocks(result: Evaluation) -> str:
    """Say in a sentence or two from what the intervals were computed, and whether they can be relied on."""
    kind = "block" if result.has_blocks else "tile"
    count = f"{result.blocks} {kind}{'s' if result.blocks != 1 else ''}"
    if result.blocks < 2:
        return f"The measured ground is {count} only, so there are no intervals."
    told = f"95 % intervals: bootstrap of {count}."
    if not result.has_blocks:
        told += " The dataset names no blocks, and neighbouring tiles are alike, so intervals may be too narrow."
    if not result.is_reliable:
        told += f" With fewer than {ENOUGH_BLOCKS} {kind}s they are not reliable."
    return told


def list_limits(result: Evaluation) -> list[str]:
    """Return sentences on what the figures do not say."""
    names = result.taxonomy.names
    absent = [name for name, row in zip(names, result.metrics.classes, strict=True) if not row.support]
    few = [name for name, blocks in zip(names, result.class_blocks, strict=True) if 0 < blocks < ENOUGH_BLOCKS]
    limits = [
        "The figures hold for ground like the measured blocks. They are no estimate for a whole map, because the "
        "blocks are no probability sample of it. Areas need such a sample.",
        "Errors of the labels count as errors of the model, or hide them.",
        "Each tile is scored alone. `cwsam predict` blends overlapping windows, so its maps differ a little.",
        f"A boundary counts as found within {result.tolerance} pixels. Boundaries beyond a tile's edge are not seen.",
    ]
    if absent:
        limits.append(f"Nothing is known about classes without labelled pixels: {', '.join(absent)}.")
    if few:
        limits.append(f"Intervals are not reliable for classes in fewer than {ENOUGH_BLOCKS} blocks: {', '.join(few)}.")
    return limits


def _confusion(result: Evaluation) -> list[str]:
    """Return a sentence on the commonest confusion."""
    wrong = result.matrix.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return []
    real, mapped = np.unravel_index(int(wrong.argmax()), wrong.shape)
    names, share = result.taxonomy.names, wrong[real, mapped] / result.matrix[real].sum()
    return [f"The commonest error: {100 * share:.0f} % of {names[real]} is mapped as {names[mapped]}."]


def _with_spread(value: float | None, ends: Interval) -> str:
    if value is None:
        return "-"
    if ends is None:
        return f"{value:.2f}"
    spread = (ends[1] - ends[0]) / 2
    digits = 2 if spread >= 0.005 else 3
    return f"{value:.{digits}f} ± {spread:.{digits}f}"
