"""Measure a checkpoint's accuracy on a dataset, and write the report."""

from cwsam_cli.assess.counting import count_hits
from cwsam_cli.assess.counts import Counts
from cwsam_cli.assess.distance import distances_from_training
from cwsam_cli.assess.drawing import draw_pictures
from cwsam_cli.assess.evaluation import Evaluation, evaluate_counts
from cwsam_cli.assess.places import Places, find_places
from cwsam_cli.assess.report import NAMES, Origin, write_report
from cwsam_cli.assess.request import METRICS, ModelRequest, list_folders
from cwsam_cli.assess.trained import Trained, check_fit
from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.dataset.manifest import read_manifest
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import DataError
from cwsam_cli.files import refuse_existing, refuse_foreign, sha256, staged
from cwsam_cli.metrics.history import HISTORY, read_history
from cwsam_cli.report.pictures import Pictures


def evaluate(request: ModelRequest) -> Evaluation | None:
    """Measure a checkpoint on one split of a dataset.

    Returns:
        The figures. None in processes that a launcher started, except the first.

    Raises:
        CheckpointError: the checkpoint is missing, or its classes or bands differ from the dataset's.
        DataError: the dataset or the split is missing, or the split has no labels.
        MachineError: a process died or made no progress.
    """
    output = request.output
    if output is not None:
        refuse_existing(output, overwrite=request.overwrite, marker=METRICS)
        refuse_foreign(output, NAMES)
    about = load_checkpoint(request.checkpoint)
    check_fit(request.checkpoint, about, request.data, request.split)
    tiles, places = find_places(request.data, request.split)
    counted = launch(_count, request, places, cluster=request.cluster)
    if counted is None:
        return None
    counts, pictures = counted
    if not counts.matrices.any():
        raise DataError(
            f"the {request.split} split of `{list_folders(request.data)}` has no labelled pixels",
            hint="choose another --split",
        )
    distances = distances_from_training(request.data, request.split)
    result = evaluate_counts(counts, places, tiles, about.taxonomy, request.tolerance, distances)
    if output is not None:
        with staged(output, overwrite=request.overwrite, marker=METRICS) as folder:
            write_report(result, folder, _origin(request, about), pictures)
    return result


def _count(world: World, request: ModelRequest, places: Places) -> tuple[Counts, Pictures | None]:
    """Count in one of the processes; the first one also draws."""
    trained = Trained.open(request.checkpoint, request.data, request.split, world.device)
    cells, names = places.cells()
    batch_size = request.batch_size
    counts = count_hits(
        trained, world, cells, cell_count=len(names), tolerance=request.tolerance, batch_size=batch_size
    )
    if not (world.is_main and request.output is not None and counts.matrices.any()):
        return counts, None
    return counts, draw_pictures(trained, world, places, counts.tiles, batch_size)


def _origin(request: ModelRequest, about: Checkpoint) -> Origin:
    """Describe where the figures come from."""
    origin, digest = about.provenance, sha256(request.checkpoint)
    facts = {
        "checkpoint": str(request.checkpoint),
        "SHA-256": digest,
        "trained for": f"{about.epoch} epochs",
        "calibration": about.calibration.as_text() if about.calibration else "",
        "measured on": f"{list_folders(request.data)}, {request.split} split",
        "dataset made by": "; ".join(read_manifest(folder).command for folder in request.data),
        "command": request.command,
    }
    if origin is not None:
        facts |= {
            "trained": origin.date,
            "with": ", ".join(" ".join(pair) for pair in origin.versions.items()),
            "training data": origin.data,
            "SHA-256 of its list of tiles": origin.data_sha256,
        }
    return Origin(
        checkpoint=request.checkpoint,
        checkpoint_sha256=digest,
        data=list_folders(request.data),
        split=request.split,
        command=request.command,
        facts=tuple((name, value) for name, value in facts.items() if value),
        configuration=origin.config if origin is not None else "",
        history=read_history(request.checkpoint.parent / HISTORY),
    )
