"""Training: 8-bit against 32-bit AdamW, our step against a plain loop, two processes against one.

    python tests/benchmarks/train.py [overhead | optimizers | processes]

`sam_tiny` on the demo's scene. One thread a process, so that CPU seconds compare.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from cwsam_cli.config.load import load_config
from cwsam_cli.dataset.loader import Batch
from cwsam_cli.dataset.samples import TileDataset, describe
from cwsam_cli.demo.pipeline import find_example
from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.loop import take_step, training_steps
from cwsam_cli.metrics.history import HISTORY, read_history
from cwsam_cli.model.experts import collect_routing
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.routing import routing_loss
from cwsam_cli.model.variants import architecture
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.train.pipeline import train
from cwsam_cli.train.start import build_learner
from cwsam_cli.train.state import find_state, read_index, shapes

PAIRS = 12
STEPS = 100


def overhead(dataset: Path) -> None:
    """One step here against the same mathematics in a dozen lines of PyTorch, in pairs."""
    config = load_config("tiny", ["model.args.loss=ce", "model.args.loss_weight=null"], data=[dataset])
    manifest = describe(config.train_dataset.dataset.args)
    names = [band.name for band in manifest.bands]
    arch = architecture(config.model, num_bands=len(names), num_classes=len(manifest.taxonomy))
    world = World(torch.device("cpu"))
    tiles = TileDataset(config.train_dataset.dataset.args, manifest.taxonomy, manifest.bands, arch.inp_size, train=True)
    batches = [step for epoch in range(9) for step in training_steps(tiles, 8, config.training_settings, epoch, world)]
    learner, _ = build_learner(config, arch, world, None, band_names=names, class_names=manifest.taxonomy.names)
    plain = ClassWiseSam(arch)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)

    def ours(step: list[Batch]) -> None:
        take_step(
            learner, step, world, args=config.model.args, settings=config.training_settings, weights=None, rate=1e-4
        )

    def theirs(step: list[Batch]) -> None:
        ((image, label),) = step
        with collect_routing(plain) as routing:
            loss = F.cross_entropy(plain(image), label.long(), ignore_index=IGNORE)
        args = config.model.args
        (loss + routing_loss(routing, balance=args.balance_loss, z=args.router_z_loss)).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    full = [step for step in batches if len(step[0][0]) == 8][: PAIRS + 2]
    ratios, seconds = [], []
    for step in full:
        before = time.process_time()
        theirs(step)
        middle = time.process_time()
        ours(step)
        after = time.process_time()
        ratios.append((middle - before) / (after - middle))
        seconds.append(after - middle)
    print(
        f"a step of 8 images: {statistics.median(seconds[2:]):.2f} CPU s, {8 / statistics.median(seconds[2:]):.1f} "
        f"images a CPU second; speed against a plain loop × {statistics.median(ratios[2:]):.3f} "
        f"({min(ratios[2:]):.3f} to {max(ratios[2:]):.3f}, {len(ratios) - 2} pairs)"
    )
    with profile(activities=[ProfilerActivity.CPU]) as told:
        ours(full[0])
    rows = sorted(told.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print("where its time goes: " + ", ".join(f"{r.key} {100 * r.self_cpu_time_total / total:.0f} %" for r in rows[:8]))


def run(dataset: Path, folder: Path, *overrides: str, processes: int = 1, batch: int = 8) -> list[dict[str, float]]:
    """Train for `STEPS` steps of eight images; the run's history."""
    per_epoch = math.ceil(len(list((dataset / "images" / "train").iterdir())) / 8)
    epochs = math.ceil(STEPS / per_epoch)
    settings = [f"epoch_max={epochs}", f"epoch_val={epochs}", f"train_dataset.batch_size={batch}", *overrides]
    train(load_config("tiny", settings, data=[dataset]), folder, cluster=Cluster(processes=processes, device="cpu"))
    return read_history(folder / HISTORY)


def optimizers(dataset: Path, temporary: Path) -> None:
    """Final loss and optimizer memory of 8-bit and 32-bit AdamW, three seeds."""
    for name in ("adamw", "adamw8bit"):
        losses, scores = [], []
        for seed in range(3):
            folder = temporary / f"{name}{seed}"
            rows = run(dataset, folder, f"optimizer.name={name}", f"training_settings.seed={seed}")
            losses.append(statistics.mean(row["train/loss"] for row in rows[-5:]))
            scores.append(rows[-1]["val/mIoU"])
        state = find_state(folder / "last")
        assert state is not None
        held = sum(
            math.prod(shape) * kind.itemsize
            for key, (shape, kind) in shapes(read_index(state)).items()
            if key.startswith("optimizer/")
        )
        values = ", ".join(f"{loss:.3f}" for loss in losses)
        print(
            f"{name}: loss of the last five epochs {statistics.mean(losses):.3f} ± {statistics.stdev(losses):.3f} "
            f"({values}), mIoU {statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}, "
            f"optimizer {held / 1e6:.1f} MB",
            flush=True,
        )


def processes(dataset: Path, temporary: Path) -> None:
    """Images a second of one process and of two, the same batches."""
    rates = {}
    for number in (1, 2):
        rows = run(dataset, temporary / f"processes{number}", processes=number, batch=8 // number)
        rates[number] = statistics.median(row["train/images_per_s"] for row in rows[1:])
        print(f"{number} process(es): {rates[number]:.1f} images/s", flush=True)
    print(f"two against one: × {rates[2] / rates[1]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("overhead", "optimizers", "processes"))
    what = parser.parse_args().what
    torch.set_num_threads(1)
    scene, labels = find_example()
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        dataset = temporary / "dataset"
        tile_scenes(
            TileRequest(
                scenes=(str(scene),), labels=labels, output=dataset, size=128, overlap=64, classes="nc_landclass96"
            )
        )
        if what in (None, "overhead"):
            overhead(dataset)
        if what in (None, "optimizers"):
            optimizers(dataset, temporary)
        if what in (None, "processes"):
            processes(dataset, temporary)


if __name__ == "__main__":
    main()
