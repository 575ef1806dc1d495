"""A model card in the form of Hugging Face: a README with metadata in YAML."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.export.ground import TrainingGround
from cwsam_cli.export.scores import Interval, Scores

_TAGS = ["land-cover", "remote-sensing", "semantic-segmentation", "segment-anything"]
_RARE = 0.01  # share of the training pixels


def write_card(
    name: str, file: str, weights_sha256: str, checkpoint: Checkpoint, ground: TrainingGround, scores: Scores | None
) -> str:
    """Return the text of a card.

    Args:
        name: of the model.
        file: name of the exported file.
        weights_sha256: hash of the checkpoint's weights.
        checkpoint: the model.
        ground: what it was trained on.
        scores: its accuracy; None if it is unknown.
    """
    count = sum(tensor.numel() for tensor in checkpoint.weights.values())
    size, classes, bands = checkpoint.architecture.inp_size, checkpoint.taxonomy, checkpoint.bands
    origin = checkpoint.provenance
    lines = [
        f"# {name}",
        "",
        f"This model maps {len(classes)} classes of land cover from scenes with {len(bands)} bands. It is a "
        f"ClassWise-SAM with {count:,} parameters. It sees windows of {size} × {size} pixels.",
        "",
        *([f"Trained on {origin.date} for {checkpoint.epoch} epochs."] if origin else []),
        f"SHA-256 of the weights: `{weights_sha256}`",
        "",
        "## Use",
        "",
        *_use(file),
        "",
        "## Classes",
        "",
        *_table(("code", "class", "colour", "share of training pixels"), _class_rows(checkpoint, ground)),
        "",
        "## Bands",
        "",
        *_table(
            ("band", "mean", "standard deviation"), ((_cell(b.name), f"{b.mean:.4g}", f"{b.std:.4g}") for b in bands)
        ),
        "",
        f"Data type: {checkpoint.dtype}. Pixel size: {_pixel_size(checkpoint)}.",
        "",
        "## Training ground",
        "",
        *_ground(ground),
        "",
        "## Accuracy",
        "",
        *_accuracy(checkpoint, scores),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in _limits(checkpoint, ground, scores)),
    ]
    head = yaml.safe_dump(_metadata(name, scores), allow_unicode=True, sort_keys=False)
    return f"---\n{head}---\n\n" + "\n".join(lines) + "\n"


def _metadata(name: str, scores: Scores | None) -> dict[str, Any]:
    raw: dict[str, Any] = {"library_name": "cwsam", "pipeline_tag": "image-segmentation", "tags": _TAGS}
    if scores is None:
        return raw
    metrics = [{"type": kind, "value": value} for kind, (value, _) in scores.overall.items()]
    result = {
        "task": {"type": "image-segmentation"},
        "dataset": {"name": f"{scores.split} split", "type": "local"},
        "metrics": metrics,
    }
    return raw | {"model-index": [{"name": name, "results": [result]}]}


def _use(file: str) -> list[str]:
    if file.endswith(".onnx"):
        return [
            "```sh",
            f"cwsam predict scene.tif -c {file} -o map.tif",
            "```",
            "",
            "Or open the file with Deepness in QGIS.",
        ]
    if file.endswith(".pt2"):
        return [
            "```python",
            f'probabilities = torch.export.load("{file}").module()(window)',
            "```",
            "",
            "`window` has the scene's own values, (1, bands, size, size) float32.",
        ]
    return [f"`{file}` has the weights alone, with their names in the checkpoint."]


def _class_rows(checkpoint: Checkpoint, ground: TrainingGround) -> Iterator[tuple[str, ...]]:
    for index, entry in enumerate(checkpoint.taxonomy.classes):
        share = f"{100 * ground.shares[index]:.1f} %" if ground.shares else "unknown"
        yield str(entry.code), _cell(entry.name), f"`{entry.color}`", share


def _ground(ground: TrainingGround) -> list[str]:
    lines = [f"Tiles: {', '.join(f'{count:,} {split}' for split, count in ground.tiles.items()) or 'unknown'}."]
    if ground.bounds is None:
        return [*lines, "The bounding box is unknown."]
    west, south, east, north = ground.bounds
    return [*lines, f"Bounding box (WGS 84): west {west:.4f}, south {south:.4f}, east {east:.4f}, north {north:.4f}."]


def _accuracy(checkpoint: Checkpoint, scores: Scores | None) -> list[str]:
    if scores is None:
        known = ", ".join(f"{name} {value:.3f}" for name, value in checkpoint.metrics.items())
        best = f" On the validation split, by which the epoch was chosen: {known}." if known else ""
        return [f"The accuracy on test ground is unknown.{best}"]
    overall = [(name, f"{value:.3f}", _ends(ends)) for name, (value, ends) in scores.overall.items()]
    rows = (
        (
            _cell(row.name),
            _figure(row.iou),
            _ends(row.interval),
            _figure(row.precision),
            _figure(row.recall),
            f"{row.support:,}",
        )
        for row in scores.classes
    )
    return [
        f"Measured on the {scores.split} split. {scores.summary}",
        "",
        *_table(("figure", "value", "95 % interval"), overall),
        "",
        *_table(("class", "IoU", "95 % interval", "precision", "recall", "labelled pixels"), rows),
    ]


def _limits(checkpoint: Checkpoint, ground: TrainingGround, scores: Scores | None) -> Iterator[str]:
    yield "The figures hold for ground like that of the dataset. Maps of other ground, seasons or sensors may be worse."
    yield f"Scenes need these bands, in {checkpoint.dtype} values of the same scale, and pixels of about the same size."
    names = checkpoint.taxonomy.names
    if checkpoint.hidden_class is not None:
        yield f"The class {names[checkpoint.hidden_class]} counted as unlabelled. The model never predicts it."
    rare = [name for name, share in zip(names, ground.shares, strict=False) if share < _RARE]
    if rare:
        yield f"These classes have less than 1 % of the training pixels each: {', '.join(rare)}."
    if checkpoint.calibration is None:
        yield "The probabilities are not calibrated."
    if scores is None:
        yield "No accuracy on test ground is recorded."
        return
    if scores.split != "test":
        yield f"The accuracy is too high, because the {scores.split} split took part in the training."
    absent = [row.name for row in scores.classes if not row.support]
    if absent:
        yield f"Nothing is known about classes without labelled pixels: {', '.join(absent)}."
    if not scores.is_reliable:
        yield "The intervals are not reliable, because they come from few blocks of ground."


def _pixel_size(checkpoint: Checkpoint) -> str:
    return "unknown" if checkpoint.gsd_m is None else f"{checkpoint.gsd_m:g} m"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _ends(ends: Interval) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
