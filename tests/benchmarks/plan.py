"""What the large models need of each GPU, and how near the plan of a step is to a real one.

    python tests/benchmarks/plan.py [--quick]

The tables of the large models are computed: nothing runs on a GPU. The first one is measured on
this CPU: peak bytes of live tensor storages in one step beside weights and complete gradients,
as torch's own memory tracker finds them, and what the process grew by.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from cwsam_cli.config.load import load_config
from cwsam_cli.config.schema import TrainingSettings
from cwsam_cli.distributed.parallelize import checkpoint_activations
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.loop import backward_passes
from cwsam_cli.learning.losses import BatchTotals
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.plan.cards import CARDS
from cwsam_cli.plan.check import MemoryCheck
from cwsam_cli.plan.memory import estimate_memory
from cwsam_cli.plan.pipeline import estimate_run, learning_by_stage
from cwsam_cli.plan.speed import estimate_time

CHECKPOINTED = "training_settings.activation_checkpointing=true"
OFFLOADED = "fsdp_settings.cpu_offload=true"
FULL = "optimizer.name=adamw"
EXCHANGED = "fsdp_settings.expert_parallel=auto"
KEPT = "fsdp_settings.reshard_after_forward=false"
HALF = "fsdp_settings.reduce_dtype=bf16"
FSDP_ALONE = ("fsdp_settings.expert_parallel=1", "fsdp_settings.reshard_after_forward=true")


def planned(name: str, gpus: int, memory_gb: int, *overrides: str) -> None:
    start = time.process_time()
    fit = estimate_run(load_config(name, overrides), gpus=gpus, gpu_memory=memory_gb * 10**9).memory
    assert isinstance(fit, MemoryCheck)
    needed = fit.plan
    shares = needed.parameters + needed.gradients + needed.optimizer
    options = ", ".join(
        word
        for word, given in (
            ("checkpointed", CHECKPOINTED),
            ("32-bit AdamW", FULL),
            ("offloaded", OFFLOADED),
            ("expert parallel", EXCHANGED),
            ("kept", KEPT),
        )
        if given in overrides
    )
    print(
        f"{name:18} {gpus:3} × {memory_gb} GB  {options:28} "
        f"shares {shares / 1e9:6.2f}  gathered {needed.step.gathered / 1e9:6.2f}  "
        f"summed {needed.step.reducing / 1e9:6.2f}  activations {needed.step.activations / 1e9:6.2f}  "
        f"GPU {needed.gpu / 1e9:6.2f}  host {needed.host / 1e9:6.2f}  largest share {needed.unevenness:.3f}  "
        f"{'fits' if fit.fits else 'does not fit'}  ({time.process_time() - start:.0f} CPU s)",
        flush=True,
    )
    for change in fit.changes:
        print(f"    fits with {' '.join(change.options)}: {change.gpu / 1e9:.2f} GB", flush=True)


def sent(gpus: int, *overrides: str) -> None:
    """Bytes that each GPU sends in a step of the 10B model, and its shortest time."""
    start = time.process_time()
    config = load_config("XinTong/10b_fsdp", overrides)
    arch, _, learning = learning_by_stage(config, bands=3)
    names = frozenset(learning["finetune"])
    took = estimate_time(config, arch, names, gpus=gpus, card=CARDS["h100"])
    print(
        f"10b_fsdp {gpus:3} × h100  {' '.join(overrides):90} "
        f"all-gather {took.sent.all_gather / 1e9:7.2f}  reduce-scatter {took.sent.reduce_scatter / 1e9:7.2f}  "
        f"all-to-all {took.sent.all_to_all / 1e9:5.2f}  sum {took.sent.total / 1e9:7.2f} GB  "
        f"communication {took.communication_s:.3f}  memory traffic {took.memory_s:.3f}  "
        f"launches {took.launching_s:.3f}  step {took.step_s:.3f} s  {took.limit}  "
        f"({time.process_time() - start:.0f} CPU s)",
        flush=True,
    )


def resident() -> tuple[int, int]:
    """Bytes that the process holds, and the most it held."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return held, most


def let_go(parameter: torch.Tensor) -> None:
    parameter.grad = None


def measured(name: str, *, batch: int, checkpointed: bool) -> None:
    config = load_config(name, [f"train_dataset.batch_size={batch}", "training_settings.precision=fp32"])
    arch = architecture(config.model, num_bands=3, num_classes=33)
    model = ClassWiseSam(arch).train()
    learning = frozenset(parameter for parameter, _ in model.named_parameters())
    imagined = estimate_memory(config, arch, learning, gpus=1, device="cpu")
    expected = imagined.activations_recomputed if checkpointed else imagined.activations_kept
    if checkpointed:
        checkpoint_activations(model)
    for parameter in model.parameters():  # the plan counts complete gradients apart from activations
        parameter.register_post_accumulate_grad_hook(let_go)
    image = torch.randn(batch, 3, arch.inp_size, arch.inp_size)
    label = torch.randint(33, (batch, arch.inp_size, arch.inp_size), dtype=torch.uint8)
    args, settings, totals = (
        config.model.args,
        TrainingSettings(),
        BatchTotals(torch.ones(()), torch.ones(()), torch.ones(1)),
    )
    tracker = MemTracker()
    tracker.track_external(model)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark falls back to what is held
    before = resident()[0]
    with tracker:
        backward_passes(
            model,
            [(image.clone(), label.clone())],
            World(torch.device("cpu")),
            args=args,
            settings=settings,
            weights=torch.ones(33),
            totals=totals,
        )
    grown = resident()[1] - before
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    real = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - held
    print(
        f"{config.model.name:10} batch {batch}  {'checkpointed' if checkpointed else '':12}  "
        f"plan {expected / 1e6:8.1f} MB  live storages {real / 1e6:8.1f} MB  plan ÷ live {expected / real:.3f}  "
        f"process grew by {grown / 1e6:8.1f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="leave the 10B model out")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for checkpointed in (False, True):
        measured("tiny", batch=4, checkpointed=checkpointed)
        measured("vit_b", batch=1, checkpointed=checkpointed)
    planned("XinTong/1dot5B", 1, 80, "train_dataset.batch_size=1")
    planned("XinTong/1dot5B", 1, 80)
    if quick:
        return
    for gpus in (8, 16, 64):
        for overrides in ((), (EXCHANGED,), (EXCHANGED, KEPT, HALF)):
            sent(gpus, *FSDP_ALONE, *overrides)
    for gpus, memory_gb in ((8, 80), (16, 40), (64, 80), (4, 80)):
        exchanged = ((EXCHANGED,), (EXCHANGED, KEPT, HALF)) if gpus == 8 else ()
        for overrides in ((), (OFFLOADED,), (CHECKPOINTED,), (CHECKPOINTED, OFFLOADED), (FULL,), *exchanged):
            planned("XinTong/10b_fsdp", gpus, memory_gb, *FSDP_ALONE, *overrides)


if __name__ == "__main__":
    main()
