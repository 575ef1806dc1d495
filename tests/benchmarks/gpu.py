"""One GPU with this program: encoder, expert layer, training, prediction, and the tests marked `gpu1`.

    python tests/benchmarks/gpu.py [--output FILE.json] [--long]

The script needs only torch 2.11 or later, numpy, PyYAML and pytest. Images are noise and weights are random. Each
figure is printed as soon as it is known, the most valuable first. On one H100 the script ends within 4 minutes.
`--long` has no limit and adds the 10B model, which needs 130 GB of the device. `--device cpu` runs a tiny form of
every part, whose figures mean nothing.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # where only torch is installed, cwsam is not

from cwsam_cli.config.schema import (  # noqa: E402
    DatasetConfig,
    EncoderMode,
    ModelArgs,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingSettings,
)
from cwsam_cli.dataset.transforms import normalize  # noqa: E402
from cwsam_cli.distributed.world import World  # noqa: E402
from cwsam_cli.learning.loop import take_step  # noqa: E402
from cwsam_cli.learning.stages import learning_names  # noqa: E402
from cwsam_cli.model.encoder import MLP, ImageEncoder  # noqa: E402
from cwsam_cli.model.experts import HierarchicalExperts  # noqa: E402
from cwsam_cli.model.network import ClassWiseSam  # noqa: E402
from cwsam_cli.model.variants import Architecture, architecture  # noqa: E402
from cwsam_cli.plan.cards import CARDS  # noqa: E402
from cwsam_cli.plan.memory import estimate_memory  # noqa: E402
from cwsam_cli.plan.speed import estimate_time  # noqa: E402
from cwsam_cli.predict.blend import Blender, WindowScores  # noqa: E402
from cwsam_cli.predict.layers import MapLayers  # noqa: E402
from cwsam_cli.predict.scoring.scorer import Scorer  # noqa: E402
from cwsam_cli.predict.scoring.transfer import Pace, UploadStream, hand_over, staging  # noqa: E402
from cwsam_cli.raster.lattice import Lattice  # noqa: E402
from cwsam_cli.raster.prefetch import prefetch  # noqa: E402
from cwsam_cli.taxonomy import from_names  # noqa: E402
from cwsam_cli.train.start import build_learner  # noqa: E402
from tests.gpu.options import GPU1  # noqa: E402

LIMIT_S = 235
"""Seconds of a run without `--long`."""
BANDS, CLASSES = 3, 33
TINY = EncoderMode(
    embed_dim=32,
    depth=2,
    num_heads=2,
    global_attn_indexes=[1],
    window_size=3,
    prompt_embed_dim=16,
    moe_start_layer_index=1,
)


@dataclass(frozen=True, slots=True)
class Area:
    """A whole scene."""

    width: int
    height: int
    col_off: int = 0
    row_off: int = 0


@dataclass(slots=True)
class Bench:
    """The device, the size of everything, and the figures so far."""

    device: torch.device
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    peak: float = 0.0
    """FLOP per second of a large product in bf16."""

    @property
    def is_tiny(self) -> bool:
        """Whether the device is the CPU, where only the lines count."""
        return self.device.type == "cpu"

    def tell(self, what: str, **figures: Any) -> None:
        """Print figures and keep them."""
        self.results[what] = figures
        print(f"{what}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)

    def wait(self) -> None:
        """Wait until the device has finished."""
        if not self.is_tiny:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], *, repeats: int = 10) -> float:
        """Median time of some work, after three runs that do not count."""
        warm, repeats = (1, 1) if self.is_tiny else (3, repeats)
        times = []
        for _ in range(warm + repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times[warm:])

    def half(self) -> torch.autocast:
        """Compute in bf16; the tiny form in float32, because some CPUs emulate bf16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=not self.is_tiny)

    def config(self, name: str, *, batch: int, **settings: Any) -> RunConfig:
        """Return a training run of a model. On the CPU the model is tiny."""
        mode = dataclasses.replace(TINY if self.is_tiny else EncoderMode(), moe_noisy_gating=True)
        args = ModelArgs(inp_size=64 if self.is_tiny else 512, loss="ce+dice", encoder_mode=mode)
        optimizer = "adamw8bit" if name == "sam_hierarchical_moe_10b" else "adamw"
        return RunConfig(
            train_dataset=DatasetConfig(batch_size=batch),
            model=ModelConfig(name="sam_tiny" if self.is_tiny else name, args=args),  # type: ignore[arg-type]
            optimizer=OptimizerConfig(name=optimizer),
            training_settings=TrainingSettings(precision="fp32" if self.is_tiny else "bf16", **settings),
        )

    def arch(self, name: str) -> Architecture:
        """Return the architecture of a model."""
        return architecture(self.config(name, batch=1).model, num_bands=BANDS, num_classes=CLASSES)


def card(bench: Bench) -> None:
    """The device, and its speed with a large product."""
    side = 256 if bench.is_tiny else 8192
    dtype = torch.float32 if bench.is_tiny else torch.bfloat16
    a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    bench.peak = 2 * side**3 / bench.seconds(lambda: a @ b)
    name = "CPU" if bench.is_tiny else torch.cuda.get_device_name()
    bench.tell("device", name=name, torch=torch.__version__, product_tflops=round(bench.peak / 1e12, 3))


def encoder(bench: Bench, name: str) -> None:
    """Forward and backward passes of a dense encoder, against the device's peak and transformers' encoder."""
    arch = dataclasses.replace(bench.arch(name), adaptor="none")
    count = 1 if bench.is_tiny else 8
    image = torch.randn(count, BANDS, arch.inp_size, arch.inp_size, device=bench.device)

    def passes(model: nn.Module, *, learn: bool) -> None:
        with torch.set_grad_enabled(learn), bench.half():
            out = model(image)
        if learn:
            (out if isinstance(out, Tensor) else out.last_hidden_state).float().square().mean().backward()

    ours = ImageEncoder(arch).to(bench.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        passes(ours, learn=False)
    flops = counter.get_total_flops()
    forward, both = (bench.seconds(lambda learn=learn: passes(ours, learn=learn)) for learn in (False, True))
    figures: dict[str, Any] = {
        "forward_ms": round(1e3 * forward, 2),
        "share_of_peak": round(flops / forward / bench.peak, 3),
        "forward_backward_ms": round(1e3 * both, 2),
        "share_of_peak_both": round(3 * flops / both / bench.peak, 3),
    }
    peer = transformers_encoder(arch)
    if peer is None:
        figures["transformers"] = "not installed"
    else:
        peer = peer.to(bench.device)
        theirs = [bench.seconds(lambda learn=learn: passes(peer, learn=learn)) for learn in (False, True)]
        figures["transformers_times_ours"] = [
            round(one / own, 2) for one, own in zip(theirs, (forward, both), strict=True)
        ]
    bench.tell(f"encoder {name}, batch {count}", **figures)


def transformers_encoder(arch: Architecture) -> nn.Module | None:
    """Build the same encoder of transformers, with fused attention; None if that is not installed."""
    try:
        from transformers import SamVisionConfig
        from transformers.models.sam.modeling_sam import SamVisionEncoder
    except ImportError:
        return None
    config = SamVisionConfig(
        hidden_size=arch.embed_dim,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.num_heads,
        image_size=arch.inp_size,
        patch_size=arch.patch_size,
        window_size=arch.window_size,
        global_attn_indexes=list(arch.global_attn_indexes),
        output_channels=arch.prompt_embed_dim,
        mlp_dim=4 * arch.embed_dim,
    )
    config._attn_implementation = "sdpa"
    return SamVisionEncoder(config)


def experts(bench: Bench) -> None:
    """An expert layer against a dense MLP on as many token slots, forward and backward."""
    width, count = (32, 64) if bench.is_tiny else (1280, 1024)
    for groups in (1, 6):
        shape = {"groups": groups, "experts": 16, "top_groups": min(2, groups), "top_experts": 4 // min(2, groups)}
        layer = HierarchicalExperts(width, 4 * width, **shape).to(bench.device)
        dense = MLP(width, 4 * width).to(bench.device)

        def passes(module: nn.Module, x: Tensor) -> None:
            with bench.half():
                out = module(x)
            out.float().square().mean().backward()

        took = []
        for module, rows in ((layer, count), (dense, 4 * count)):
            x = torch.randn(rows, width, device=bench.device, requires_grad=True)
            took.append(bench.seconds(lambda module=module, x=x: passes(module, x)))
        bench.tell(f"{16 * groups} experts, width {width}", times_a_dense_mlp=round(took[0] / took[1], 2))


def training(bench: Bench, name: str, batch: int, **settings: Any) -> None:
    """Steps of a model: images per second, memory against the plan, and how often the host waits."""
    config, arch = bench.config(name, batch=batch, **settings), bench.arch(name)
    began, world = time.perf_counter(), World(bench.device)
    learner, _ = build_learner(
        config,
        arch,
        world,
        None,
        band_names=("red", "green", "blue"),
        class_names=[f"class {index}" for index in range(CLASSES)],
    )
    names = learning_names(
        learner.shards, arch, from_checkpoint=True, frozen_base=arch.moe_num_expert_groups > 1, stage="finetune"
    )
    learner.learn(names)
    bench.wait()
    built = time.perf_counter() - began
    size = arch.inp_size
    samples = torch.randn(batch, BANDS, size, size), torch.randint(CLASSES, (batch, size, size)).to(torch.uint8)

    def step() -> float:
        return take_step(
            learner,
            [samples],
            world,
            args=config.model.args,
            settings=config.training_settings,
            weights=None,
            rate=1e-5,
        ).loss

    losses = [step(), step()]
    if not bench.is_tiny:
        torch.cuda.reset_peak_memory_stats()
    took = bench.seconds(step, repeats=5)
    losses.append(step())
    figures: dict[str, Any] = {
        "built_in_s": round(built, 1),
        "step_s": round(took, 3),
        "images_per_s": round(batch / took, 2),
        "loss": [round(loss, 3) for loss in losses],
        "host_waits_per_step": count_waits(step, bench),
    }
    if not bench.is_tiny:
        figures["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    bench.tell(f"training {name}", **figures)
    device = bench.results["device"]["name"].lower().replace(" ", "")
    known = next((own for own in CARDS if own in device), "h100")
    planned = estimate_memory(config, arch, frozenset(names), gpus=1)
    shortest = estimate_time(config, arch, frozenset(names), gpus=1, card=CARDS[known])
    figures |= {"planned_gb": round(planned.gpu / 1e9, 2), "shortest_step_s": round(shortest.step_s, 4)}
    if "peak_gb" in figures:
        figures["peak_of_plan"] = round(1e9 * figures["peak_gb"] / planned.gpu, 3)
    bench.tell(f"training {name}", **figures, planned_for=known, limit=shortest.limit)


def count_waits(work: Callable[[], object], bench: Bench) -> int:
    """Count how often the host waits for the device."""
    if not bench.is_tiny:
        torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    if not bench.is_tiny:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def prediction(bench: Bench, name: str) -> None:
    """Map a scene: Mpx per second, against the model alone, and how long the device computes."""
    arch, side = bench.arch(name), 160 if bench.is_tiny else 8192
    network = ClassWiseSam(arch).to(bench.device).eval()
    scorer = Scorer(network, bench.device, precision="fp32" if bench.is_tiny else "bf16")
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (BANDS, side, side), np.uint8)
    count = 2 if bench.is_tiny else 8
    images = torch.randn(count, BANDS, arch.inp_size, arch.inp_size, device=bench.device)
    alone = bench.seconds(lambda: scorer(images)) / count

    def run(pixels: NDArray[np.uint8]) -> tuple[float, int]:
        began = time.perf_counter()
        windows, rows = predict(bench, scorer, pixels, batch=count)
        assert rows == pixels.shape[1]
        return time.perf_counter() - began, windows

    run(scene[:, : side // 2])
    took, windows = run(scene)
    activity, kind = (
        (ProfilerActivity.CPU, DeviceType.CPU) if bench.is_tiny else (ProfilerActivity.CUDA, DeviceType.CUDA)
    )
    with profile(activities=[activity]) as record:
        profiled, _ = run(scene[:, : side // 4 + arch.inp_size])
    busy = covered(
        (event.time_range.start, event.time_range.end) for event in record.events() or () if event.device_type == kind
    )
    bench.tell(
        f"prediction {name}, {side} × {side} pixels",
        mpx_per_s=round(scene[0].size / took / 1e6, 2),
        windows_per_s=round(windows / took, 1),
        of_the_model_alone=round(windows * alone / took, 3),
        share_of_time_in_which_the_device_computes=round(busy / 1e6 / profiled, 3),
    )


def predict(bench: Bench, scorer: Scorer, scene: NDArray[np.uint8], *, batch: int) -> tuple[int, int]:
    """Map a scene as `cwsam predict` does, without files. Returns the number of windows and of finished rows."""
    height, width = scene.shape[1:]
    size = scorer.model.arch.inp_size
    lattice = Lattice.over(width, height, size, size // 4)
    places = [(row, col) for row in range(len(lattice.rows)) for col in range(len(lattice.cols))]
    uploads, pace = UploadStream(bench.device), Pace(bench.device)
    mean, std = (torch.full((BANDS, 1, 1), value, device=bench.device) for value in (127.0, 74.0))
    shown = torch.ones(size, size, dtype=torch.uint8, device=bench.device)

    def read() -> Iterator[tuple[list[tuple[int, int]], Tensor, Any]]:
        with uploads.enter():
            for start in range(0, len(places), batch):
                own = places[start : start + batch]
                raw = torch.empty(len(own), BANDS, size, size, dtype=torch.uint8, device=bench.device)
                here = staging(raw)
                for window, (row, col) in zip(here, own, strict=True):
                    top, left = lattice.rows[row], lattice.cols[col]
                    window.copy_(torch.from_numpy(scene[:, top : top + size, left : left + size]))
                if here is not raw:
                    raw.copy_(here, non_blocking=True)
                yield own, normalize(raw, shown.expand(len(own), -1, -1), mean, std), uploads.mark()

    def scored() -> Iterator[WindowScores]:
        with contextlib.closing(prefetch(read())) as ready:
            for own, images, event in ready:
                uploads.wait(event, images)
                batch_scores = scorer(images)
                pace.after_batch()
                for (row, col), scores in zip(own, batch_scores, strict=True):
                    yield WindowScores(row, col, scores, torch.zeros_like(shown))

    layers = MapLayers(from_names([f"class {index}" for index in range(CLASSES)]))
    blender = Blender(lattice, layers.finisher(bench.device), device=bench.device)
    finished = ((top, [rows]) for top, rows in blender.blend(scored(), Area(width, height)))
    return len(places), sum(rows.shape[1] for _, (rows,) in hand_over(finished))


def covered(intervals: Iterator[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def agreement(bench: Bench) -> None:
    """Scores in half precision against float32. With random weights, many classes are nearly tied."""
    arch = bench.arch("sam_vit_b")
    network = ClassWiseSam(arch).to(bench.device).eval()
    image = torch.randn(1, BANDS, arch.inp_size, arch.inp_size, device=bench.device)

    def scores(dtype: torch.dtype) -> Tensor:
        with torch.no_grad(), torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32):
            return network(image).float()

    exact = scores(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        half = scores(dtype)
        bench.tell(
            f"scores of sam_vit_b, {str(dtype).removeprefix('torch.')} against float32",
            difference_in_standard_deviations=round(float((half - exact).square().mean().sqrt() / exact.std()), 4),
            equal_classes=round(float((half.argmax(1) == exact.argmax(1)).float().mean()), 4),
        )


def tests(bench: Bench, left: float) -> None:
    """Run the tests marked `gpu1`."""
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *GPU1, "tests/gpu"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=left,
        )
    except subprocess.TimeoutExpired as stopped:
        out = stopped.stdout or b""
        last = out.decode() if isinstance(out, bytes) else out
        bench.tell("tests marked gpu1", stopped_after_s=round(left), output=last.strip().splitlines()[-1:])
        return
    print(done.stdout[-4000:], flush=True)
    summary = done.stdout.strip().splitlines()[-1:] or done.stderr.strip().splitlines()[-1:]
    bench.tell("tests marked gpu1", summary=summary, exit_code=done.returncode, s=round(time.perf_counter() - began, 1))


def main() -> None:
    """Run the parts, the most valuable first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--long", action="store_true", help="no time limit, and the 10B model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a tiny form of every part")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device; `--device cpu` runs a tiny form of every part", file=sys.stderr)
        raise SystemExit(6)
    torch.manual_seed(0)
    bench = Bench(torch.device(arguments.device))
    limit = float("inf") if arguments.long else LIMIT_S
    began = time.monotonic()
    parts: list[tuple[str, Callable[[], object]]] = [
        ("device", lambda: card(bench)),
        ("encoder sam_vit_b", lambda: encoder(bench, "sam_vit_b")),
        ("experts", lambda: experts(bench)),
        ("training sam_vit_b", lambda: training(bench, "sam_vit_b", 4)),
        ("prediction sam_vit_b", lambda: prediction(bench, "sam_vit_b")),
        ("prediction sam_tiny", lambda: prediction(bench, "sam_tiny")),
        ("agreement", lambda: agreement(bench)),
        ("training sam_moe_1dot5b", lambda: training(bench, "sam_moe_1dot5b", 4)),
        ("encoder sam_vit_h", lambda: encoder(bench, "sam_vit_h")),
        ("encoder sam_vit_l", lambda: encoder(bench, "sam_vit_l")),
        ("tests marked gpu1", lambda: tests(bench, min(600.0, limit - (time.monotonic() - began)))),
    ]
    if arguments.long:
        name = "sam_hierarchical_moe_10b"
        parts.append((f"training {name}", lambda: training(bench, name, 1, activation_checkpointing=True)))
    for what, run in parts:
        if time.monotonic() - began > limit:
            bench.tell(what, left_out="no time left; --long has no limit")
            continue
        try:
            run()
        except Exception as error:  # the other figures are worth having
            bench.tell(what, failed=repr(error))
        if not bench.is_tiny:
            torch.cuda.empty_cache()
        if arguments.output:
            arguments.output.write_text(json.dumps(bench.results, indent=1))
    if any("failed" in figures for figures in bench.results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
