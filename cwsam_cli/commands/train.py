"""`cwsam train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cwsam_cli.commands.options import Device, Gpus, Json, Settings, print_result

if TYPE_CHECKING:
    from cwsam_cli.config.schema import RunConfig


def train(
    config: Annotated[str, typer.Option("--config", help="A YAML file, or a shipped name such as tiny.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder that `cwsam tile` wrote. Default: the paths in the config.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run's folder. Default: save/CONFIG-DATE-TIME.")
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    skip_bad_tiles: Annotated[
        bool, typer.Option("--skip-bad-tiles", help="Leave out tiles that cannot be read, after naming them.")
    ] = False,
    device: Device = "auto",
    gpus: Gpus = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines; run this on each of them.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Which machine this is, from 0.")] = 0,
    endpoint: Annotated[
        str, typer.Option("--rdzv-endpoint", metavar="HOST:PORT", help="Where the machines meet: a port of the first.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Train a model.

    \b
    $ cwsam train --config tiny --data dataset/ -o save/first
    $ cwsam train --config tiny --data dataset/ -o save/long --set epoch_max=300 --set optimizer.args.lr=5e-4
    $ cwsam train --config XinTong/10b_fsdp --data dataset/ --gpus 8

    The run's folder receives model_epoch_best.pth (best mIoU on the validation
    split), model_epoch_last.pth, the configuration used, events for TensorBoard,
    the same figures in history.jsonl, and last/, from which --resume goes on, also
    with another number of processes. Ctrl-C, SIGTERM and SIGUSR1 finish the running
    step, save and end; --set training_settings.time_limit=11h30min does so by the clock.

    torchrun and SLURM's srun may start the processes instead:

    \b
    $ torchrun --nproc_per_node=8 -m cwsam_cli train --config XinTong/10b_fsdp --data dataset/
    """
    from datetime import datetime

    from cwsam_cli.config.load import load_config
    from cwsam_cli.console import loading
    from cwsam_cli.distributed.cluster import Cluster
    from cwsam_cli.errors import MachineError, OutOfMemory, UsageError

    if resume and output is None:
        raise UsageError("--resume needs the run's folder", hint="name it: -o save/RUN --resume")
    overrides = [*(settings or []), *(["resume=last"] if resume else [])]
    overrides += ["training_settings.skip_bad_tiles=true"] if skip_bad_tiles else []
    loaded = load_config(config, overrides, data=data)
    folder = output or Path(loaded.work_dir) / f"{Path(config).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    if not resume and loaded.resume is None and (folder / "config.yaml").exists():
        raise UsageError(f"`{folder}` holds a run already", hint="go on with it: --resume; or choose another -o")
    with loading("torch"):  # slow: what can be seen to be wrong is told before
        from cwsam_cli.train.pipeline import train as run

    cluster = Cluster(processes=gpus, nodes=nodes, node_rank=node_rank, endpoint=endpoint, device=device)
    try:
        result = run(loaded, folder, cluster=cluster)
    except OutOfMemory as error:
        raise MachineError(str(error), hint=_what_needs_less(config, loaded, gpus * nodes, device)) from None
    if result is None:  # another process tells
        return
    scored = (
        f"{result.best}: epoch {result.best_epoch} of {result.epochs}, "
        f"mIoU {result.mean_iou:.3f}, accuracy {result.accuracy:.3f} on the validation split"
    )
    unfinished = f"the time limit ended the run after {result.epochs} of {loaded.epochs} epochs; go on with --resume"
    text = "\n".join(([scored] if result.best else []) + ([unfinished] if result.end == "time_limit" else []))
    print_result(result, text, as_json=as_json)


def _what_needs_less(name: str, config: "RunConfig", gpus: int, device: str) -> str:
    """Plan the run whose memory ran out; under torchrun or SLURM, name the command that does it."""
    from cwsam_cli.distributed.cluster import launcher_environment

    if launcher_environment():  # other processes still run, and wait for this one
        return f"what needs less memory: cwsam plan --config {name} --gpus {launcher_environment()['WORLD_SIZE']}"
    from cwsam_cli.distributed.world import choose_device
    from cwsam_cli.plan.pipeline import explain_overflow

    return explain_overflow(config, gpus=gpus, device=choose_device(device).type)
