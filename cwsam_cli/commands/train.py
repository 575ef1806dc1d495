"""`cwsam train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cwsam_cli.commands.options import Config, Device, Gpus, Json, Settings, print_result

if TYPE_CHECKING:
    from cwsam_cli.config.schema import RunConfig


def train(
    config: Config,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            help="A folder that `cwsam tile` wrote; repeatable, with the same classes and bands. Default: the "
            "configuration's own paths.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run's folder. Default: save/CONFIG-DATE-TIME.")
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    skip_bad_tiles: Annotated[
        bool, typer.Option("--skip-bad-tiles", help="Name tiles that cannot be read, and leave them out.")
    ] = False,
    device: Device = "auto",
    gpus: Gpus = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of machines; run the command on each.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Number of this machine, from 0.")] = 0,
    endpoint: Annotated[
        str,
        typer.Option(
            "--rdzv-endpoint", metavar="HOST:PORT", help="Where the machines connect: a free port of machine 0."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Train a model on a dataset.

    \b
    $ cwsam train --config tiny --data dataset/ -o save/first
    $ cwsam train --config tiny --data dataset/ -o save/first --resume
    $ cwsam train --config vit_b --data dataset/ -o save/vit_b --set sam_checkpoint=sam_vit_b
    $ cwsam train --config XinTong/10b_fsdp --data dataset/ -o save/10b --gpus 8

    The run's folder receives:

    \b
    model_epoch_best.pth  the model with the best mIoU on the validation split
    model_epoch_last.pth  the newest model
    last/                 the complete state, for --resume
    history.jsonl         one line of figures per epoch, as in TensorBoard
    config.yaml           the configuration used

    --resume continues bit for bit; with another number of processes, up to rounding. Ctrl-C,
    SIGTERM and SIGUSR1 finish the running step, save the state and end with exit code 130.
    SLURM sends a signal before a job's end with `sbatch --signal=USR1@300`. Each process needs
    host memory for a copy of its part of the state, which is written while training continues.

    Keys for --set that are often useful:

    \b
    sam_checkpoint=sam_vit_b        begin with these weights: path, URL or name;
                                    `cwsam -v train` lists how each tensor was used
    resume=best                     return to that checkpoint's weights (or to an
                                    epoch's number), with a new optimizer
    epoch_max=300                   number of epochs
    epoch_save=5                    also keep the model of every fifth epoch
    train_dataset.batch_size=4      images at a time in each process
    train_dataset.sampler=balanced  draw tiles with rare classes more often
    train_dataset.fold=2            cross-validation: validate on this fold of
                                    a dataset of `cwsam tile --folds`
    optimizer.args.lr=5e-4          learning rate
    optimizer.args.lr_factors.encoder=0.1  multiply it for a part of the model
    optimizer.name=adamw8bit        a quarter of the optimizer's memory
    fsdp_settings.cpu_offload=true  weights and optimizer in the host's memory
    fsdp_settings.expert_parallel=auto  tokens travel to experts, not weights to tokens
    fsdp_settings.reshard_after_forward=false  more memory, less communication

    \b
    training_settings.activation_checkpointing=true  less memory, more time
    training_settings.grad_accum_steps=4   add up four batches per step
    training_settings.precision=bf16       or fp16: compute in half precision
    training_settings.ema=0.999            validate and keep averaged weights
    training_settings.keep=3               keep only 3 of epoch_save's models
    training_settings.save_every=30min     save last/ this often, or "500 steps"
    training_settings.time_limit=11h30min  save and end before this time is over
    training_settings.patience=10          end after 10 validations without gain
    training_settings.timeout_s=600        end if a process stands still so long

    Several processes share the model by torch's FSDP2. The loss is that of the whole batch.
    `cwsam plan` computes the memory. Several machines need a folder that all of them share
    for -o and the data. torchrun and srun can start the processes instead:

    \b
    $ cwsam train ... --gpus 8 --nodes 2 --node-rank 0 --rdzv-endpoint node0:29500
    $ torchrun --nproc_per_node=8 -m cwsam_cli train --config XinTong/10b_fsdp --data dataset/
    $ srun --ntasks=16 --kill-on-bad-exit=1 cwsam train --config XinTong/10b_fsdp --data dataset/

    torchrun ends its processes 30 seconds after Ctrl-C. A state that is not written by then is
    lost, and --resume continues from the one before.
    """
    from datetime import datetime

    from cwsam_cli.config.load import load_config
    from cwsam_cli.console import loading
    from cwsam_cli.dataset.manifest import read_manifest
    from cwsam_cli.distributed.cluster import Cluster
    from cwsam_cli.errors import MachineError, OutOfMemory, UsageError

    if resume and output is None:
        raise UsageError("--resume needs the run's folder", hint="name the folder: -o save/RUN --resume")
    overrides = [*(settings or []), *(["resume=last"] if resume else [])]
    overrides += ["training_settings.skip_bad_tiles=true"] if skip_bad_tiles else []
    loaded = load_config(config, overrides, data=data or ())
    folder = output or Path(loaded.work_dir) / f"{Path(config).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    if not resume and loaded.resume is None and (folder / "config.yaml").exists():
        raise UsageError(f"`{folder}` holds a run already", hint="continue it with --resume, or choose another -o")
    for given in data or ():
        read_manifest(given)
    with loading("torch"):  # takes seconds: errors that need no torch are reported before
        from cwsam_cli.train.pipeline import train as run

    cluster = Cluster(processes=gpus, nodes=nodes, node_rank=node_rank, endpoint=endpoint, device=device)
    try:
        result = run(loaded, folder, cluster=cluster)
    except OutOfMemory as error:
        raise MachineError(str(error), hint=_what_needs_less(config, loaded, gpus * nodes, device)) from None
    if result is None:  # another process prints the result
        return
    scored = (
        f"{result.best}: epoch {result.best_epoch} of {result.epochs}, "
        f"mIoU {result.mean_iou:.3f}, accuracy {result.accuracy:.3f} on the validation split"
    )
    unfinished = f"the time limit ended the run after {result.epochs} of {loaded.epochs} epochs; continue with --resume"
    text = "\n".join(([scored] if result.best else []) + ([unfinished] if result.end == "time_limit" else []))
    print_result(result, text, as_json=as_json)


def _what_needs_less(name: str, config: "RunConfig", gpus: int, device: str) -> str:
    """Return a hint: the settings that need less memory, or under torchrun and SLURM the command that computes them."""
    from cwsam_cli.distributed.cluster import launcher_environment

    if joined := launcher_environment():  # other processes still run, and wait for this one
        return f"to see which settings need less memory: cwsam plan --config {name} --gpus {joined['WORLD_SIZE']}"
    from cwsam_cli.distributed.world import choose_device
    from cwsam_cli.plan.pipeline import explain_overflow

    return explain_overflow(config, gpus=gpus, device=choose_device(device).type)
