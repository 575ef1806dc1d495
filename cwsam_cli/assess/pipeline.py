"""Measure a checkpoint's accuracy on a dataset, and write the report."""

from cwsam_cli.assess.counting import count_hits
from cwsam_cli.assess.counts import Counts
from cwsam_cli.assess.evaluation import Evaluation, evaluate_counts
from cwsam_cli.assess.places import Places, read_places
from cwsam_cli.assess.report import NAMES, write_report
from cwsam_cli.assess.request import METRICS, ModelRequest
from cwsam_cli.assess.trained import Trained, check_fit, open_split
from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import DataError
from cwsam_cli.files import refuse_existing, refuse_foreign, sha256, staged


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
    tiles = [image.stem for image, _ in open_split(about, request.data, request.split).pairs]
    places = read_places(request.data, tiles)
    counts = launch(_count, request, places, cluster=request.cluster)
    if counts is None:
        return None
    if not counts.matrices.any():
        raise DataError(
            f"the {request.split} split of `{request.data}` has no labelled pixels", hint="choose another --split"
        )
    result = evaluate_counts(counts, places, tiles, about.taxonomy, request.tolerance)
    if output is not None:
        origin = {
            "checkpoint": str(request.checkpoint),
            "checkpoint_sha256": sha256(request.checkpoint),
            "data": str(request.data),
            "split": request.split,
            "command": request.command,
        }
        with staged(output, overwrite=request.overwrite, marker=METRICS) as folder:
            write_report(result, folder, origin)
    return result


def _count(world: World, request: ModelRequest, places: Places) -> Counts:
    """Count in one of the processes."""
    trained = Trained.open(request.checkpoint, request.data, request.split, world.device)
    cells, names = places.cells()
    return count_hits(
        trained, world, cells, cell_count=len(names), tolerance=request.tolerance, batch_size=request.batch_size
    )
