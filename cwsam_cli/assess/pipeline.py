"""Measure a checkpoint's accuracy on a dataset, and write the report."""

from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.assess.report import METRICS, write_report
from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.dataset.manifest import read_manifest
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.world import World, choose_device
from cwsam_cli.errors import CheckpointError, DataError
from cwsam_cli.files import refuse_existing, refuse_foreign, staged
from cwsam_cli.metrics.confusion import Matrix, Metrics, compute_metrics
from cwsam_cli.metrics.validation import validate
from cwsam_cli.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy of a model on a split."""

    taxonomy: Taxonomy
    matrix: Matrix
    metrics: Metrics


def evaluate(
    checkpoint: Path,
    data: Path,
    *,
    split: str = "test",
    output: Path | None = None,
    overwrite: bool = False,
    batch_size: int = 8,
    device: str = "auto",
) -> Evaluation:
    """Measure a checkpoint on one split of a dataset.

    Args:
        checkpoint: path of a `model_epoch_*.pth`.
        data: folder that `cwsam tile` wrote.
        split: `train`, `val` or `test`.
        output: folder for `metrics.json` and `confusion_matrix.csv`; None writes no report.
        overwrite: whether to replace an existing report.
        batch_size: images per batch.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        CheckpointError: the checkpoint is missing, or its classes or bands differ from the dataset's.
        DataError: the dataset or the split is missing, or the split has no labels.
    """
    if output is not None:
        refuse_existing(output, overwrite=overwrite, marker=METRICS)
        refuse_foreign(output, ("metrics", "confusion_matrix"))
    trained = load_checkpoint(checkpoint)
    manifest = read_manifest(data)
    if manifest.tiles and not manifest.tiles.get(split):
        others = [f"--split {name}" for name, count in manifest.tiles.items() if count]
        raise DataError(f"`{data / 'images' / split}` holds no tiles", hint=f"use {' or '.join(others)}")
    if not trained.taxonomy.same_classes(manifest.taxonomy):
        raise CheckpointError(
            f"`{checkpoint}` has the classes {', '.join(trained.taxonomy.names)}, "
            f"but `{data}` is labelled with {', '.join(manifest.taxonomy.names)}",
            hint="tile the scenes with the class table that the model was trained with",
        )
    if [band.name for band in trained.bands] != [band.name for band in manifest.bands]:
        raise CheckpointError(
            f"`{checkpoint}` was trained on the bands {', '.join(band.name for band in trained.bands)}, "
            f"but `{data}` has {', '.join(band.name for band in manifest.bands)}",
            hint="tile scenes with the same bands",
        )
    args = FolderArgs(
        root_path_1=str(data / "images" / split),
        root_path_2=str(data / "labels" / split),
        ignore_bg=trained.ignore_background,
    )
    dataset = TileDataset(args, trained.taxonomy, trained.bands, trained.architecture.inp_size)
    where = choose_device(device)
    matrix = validate(
        trained.model().to(where),
        dataset,
        World(where),
        batch_size=batch_size,
        classes=len(trained.taxonomy),
        precision="fp32",
        hidden_class=trained.hidden_class,
    )
    metrics = compute_metrics(matrix)
    if not metrics.pixels:
        raise DataError(f"the {split} split of `{data}` has no labelled pixels", hint="choose another --split")
    if output is not None:
        about = {"checkpoint": str(checkpoint), "data": str(data), "split": split}
        with staged(output, overwrite=overwrite, marker=METRICS) as folder:
            write_report(matrix, metrics, trained.taxonomy, folder, about)
    return Evaluation(trained.taxonomy, matrix, metrics)
