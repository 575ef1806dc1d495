"""Training on one CUDA device: seconds per step, memory against the plan, and the encoder against the card's peak.

    python tests/benchmarks/gpu.py [--output FILE.json] [--long]

Images are noise and weights are random: no data and no download is needed. Each figure is printed as soon as it is
there. `--long` adds the 10B model, which needs 130 GB of the device and ten minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cwsam_cli.config.load import load_config
from cwsam_cli.config.schema import RunConfig
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.loop import take_step
from cwsam_cli.learning.stages import learning_names
from cwsam_cli.model.encoder import MLP, ImageEncoder
from cwsam_cli.model.experts import HierarchicalExperts
from cwsam_cli.model.variants import architecture
from cwsam_cli.plan.check import check_memory
from cwsam_cli.train.start import build_learner

DEVICE = torch.device("cuda")
BANDS = ("red", "green", "blue")
ENCODERS = ("sam_vit_b", "sam_vit_l", "sam_vit_h")
results: dict[str, Any] = {}


def tell(what: str, **figures: Any) -> None:
    """Print figures and keep them."""
    results[what] = figures
    print(f"{what}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)


def seconds(work: Callable[[], object], *, repeats: int = 10) -> float:
    """Median time of some work on the device, after three runs that do not count."""
    times = []
    for number in range(repeats + 3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_peak() -> float:
    """FLOP per second of a large bf16 product."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b)


def encoders(peak: float) -> None:
    """Forward and backward passes of the dense encoders at 512 pixels, in bf16."""
    from torch.utils.flop_counter import FlopCounterMode

    for name in ENCODERS:
        config = load_config("vit_b", [f"model.name={name}", "model.args.encoder_mode.adaptor=none"])
        encoder = ImageEncoder(architecture(config.model, num_bands=3, num_classes=8)).to(DEVICE)
        image = torch.randn(8, 3, 512, 512, device=DEVICE)

        def forward(encoder: ImageEncoder = encoder, image: Tensor = image) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return encoder(image)

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            forward()
        flops = counter.get_total_flops()
        with torch.no_grad():
            ahead = seconds(forward)
        both = seconds(lambda forward=forward: forward().float().square().mean().backward())
        tell(
            f"encoder {name}, batch 8",
            forward_ms=round(1e3 * ahead, 2),
            share_of_peak=round(flops / ahead / peak, 3),
            forward_backward_ms=round(1e3 * both, 2),
            share_of_peak_both=round(3 * flops / both / peak, 3),
        )


def experts() -> None:
    """An expert layer against a dense MLP on as many token slots, width 1,280, in bf16."""
    for groups in (1, 6):
        layer = HierarchicalExperts(
            1280, 5120, groups=groups, experts=16, top_groups=min(2, groups), top_experts=4 // min(2, groups)
        ).to(DEVICE)
        dense = MLP(1280, 5120).to(DEVICE)
        tokens, slots = (torch.randn(4 * count, 1280, device=DEVICE, requires_grad=True) for count in (1024, 4096))

        def passes(module: torch.nn.Module, x: Tensor) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                out = module(x)
            out.float().square().mean().backward()

        layer.train(), dense.train()
        ratio = seconds(lambda layer=layer, x=tokens: passes(layer, x)) / seconds(
            lambda dense=dense, x=slots: passes(dense, x)
        )
        tell(f"{16 * groups} experts, forward and backward", times_a_dense_mlp=round(ratio, 2))


def batch(config: RunConfig) -> tuple[Tensor, Tensor]:
    """Noise with labels."""
    size, count = config.model.args.inp_size, config.train_dataset.batch_size
    return torch.randn(count, 3, size, size), torch.randint(33, (count, size, size)).to(torch.uint8)


def training(name: str, options: list[str]) -> None:
    """Steps of a shipped configuration: images per second, and the memory that the plan foresaw."""
    own = ["sam_checkpoint=null", "training_settings.grad_accum_steps=1", *options]
    config = load_config(name, own)
    settings = config.training_settings
    arch = architecture(config.model, num_bands=3, num_classes=33)
    torch.cuda.empty_cache()
    began, world = time.perf_counter(), World(DEVICE)
    learner, _ = build_learner(
        config, arch, world, None, band_names=BANDS, class_names=[f"class {i}" for i in range(33)]
    )
    learning = learning_names(
        learner.shards, arch, from_checkpoint=True, frozen_base=arch.moe_num_expert_groups > 1, stage="finetune"
    )
    learner.learn(learning)
    torch.cuda.synchronize()
    tell(f"{name}, laid out", seconds=round(time.perf_counter() - began, 1))
    torch.cuda.reset_peak_memory_stats()
    samples = batch(config)

    def step() -> float:
        return take_step(
            learner, [samples], world, args=config.model.args, settings=settings, weights=None, rate=1e-5
        ).loss

    losses = [step() for _ in range(2)]
    took = seconds(step, repeats=5)
    peak = torch.cuda.max_memory_allocated()
    figures: dict[str, Any] = {
        "step_s": round(took, 3),
        "images_per_s": round(len(samples[0]) / took, 2),
        "peak_gb": round(peak / 1e9, 2),
        "loss": [round(loss, 3) for loss in (*losses, step())],
    }
    tell(name, **figures)
    torch.cuda.set_sync_debug_mode("warn")
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    syncs = sum("synchroniz" in str(warning.message) for warning in caught)
    try:
        fit = check_memory(config, arch, {"finetune": learning}, gpus=1, gpu_memory=10**12)
        figures |= {"planned_gb": round(fit.plan.gpu / 1e9, 2), "of_plan": round(peak / fit.plan.gpu, 3)}
    except Exception as error:  # another version of torch may name its inside otherwise
        figures["planned_gb"] = f"not computed: {error!r}"
    tell(name, **figures, waits_for_the_device_per_step=syncs)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    card = torch.cuda.get_device_properties(0)
    peak = matmul_peak()
    tell(
        "card",
        name=card.name,
        memory_gb=round(card.total_memory / 1e9, 1),
        torch=torch.__version__,
        matmul_tflops=round(peak / 1e12),
    )
    try:
        training("vit_b", ["train_dataset.batch_size=4"])
        training("XinTong/1dot5B", [])
        experts()
        encoders(peak)
        if arguments.long:
            training("XinTong/10b_fsdp", ["training_settings.activation_checkpointing=true"])
    finally:
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
