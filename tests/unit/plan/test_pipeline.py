"""What a configuration's model is made of, counted without making it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cwsam_cli.config.load import load_config
from cwsam_cli.main import app
from cwsam_cli.plan.pipeline import RunEstimate, estimate_run

EXPERT = 13_113_600
ADAPTERS = 52_531_200
PROMPT = (40 * 3 * 16 * 16 + 40) + (1280 * 40 + 40) + 32 * (40 * 40 + 40) + (40 * 1280 + 1280)
ROUTERS_10B = 8 * (6 * 16 * 1280 + 6 * 1280 + 6) + 2 * 16 * 256


@pytest.fixture(scope="module")
def the_10b() -> RunEstimate:
    return estimate_run(load_config("XinTong/10b_fsdp"))


def _cwsam(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 0, result.stderr
    return result


def _json(*arguments: str) -> dict[str, Any]:
    told = json.loads(_cwsam(*arguments, "--json").stdout)
    assert isinstance(told, dict)
    return told


def test_json_has_the_total_at_its_top_level() -> None:
    told = _json("--config", "XinTong/10b_fsdp")
    assert 10.4e9 <= told["total"] <= 10.8e9
    assert sum(told["parts"].values()) == told["total"]
    assert told["model"] == "sam_hierarchical_moe_10b"


def test_experts_of_the_10b_model_are_counted_by_group(the_10b: RunEstimate) -> None:
    groups = {name: count for name, count in the_10b.parts.items() if name.startswith("encoder experts")}
    assert groups == {f"encoder experts, group {group}": 8 * 16 * EXPERT for group in range(6)}
    assert the_10b.parts["encoder dense MLPs"] == 24 * EXPERT
    assert the_10b.parts["adapters and prompts"] == ADAPTERS + PROMPT
    assert the_10b.parts["routers"] == ROUTERS_10B


def test_what_learns_in_the_stages_of_the_10b_model(the_10b: RunEstimate) -> None:
    new = 8 * 5 * 16 * EXPERT
    decoder = the_10b.parts["decoder"] + the_10b.parts["decoder experts, group 0"]
    assert the_10b.trainable == {
        "integrate": new + ROUTERS_10B,
        "adapt": new + ROUTERS_10B + ADAPTERS + PROMPT + decoder,
        "finetune": the_10b.total - 8 * 16 * EXPERT,
    }


def test_a_token_of_the_10b_model_meets_vit_h_with_four_experts_a_block(the_10b: RunEstimate) -> None:
    encoder = 633_052_928 + 8 * (4 - 1) * EXPERT + ADAPTERS + PROMPT
    decoder = the_10b.parts["decoder"] + 2 * 4 * (2 * 256 * 2048 + 2048 + 256)
    assert the_10b.active == encoder + decoder + ROUTERS_10B


@pytest.mark.parametrize(
    ("config", "overrides", "learning"),
    [
        ("vit_b", [], "everything"),
        ("tiny", [], "everything"),
        ("vit_b", ["sam_checkpoint=sam_vit_b"], "everything"),
        ("tiny", ["sam_checkpoint=small.pth"], "all but group 0"),
        ("tiny", ["sam_checkpoint=small.pth", "model.args.freeze_base_group=false"], "everything"),
        ("XinTong/10b_fsdp", ["sam_checkpoint=null", "stages=[]"], "everything"),
        ("XinTong/10b_new", [], "adapters, decoder, new experts"),
        ("XinTong/1dot5B", [], "adapters, decoder, all experts"),
        ("XinTong/3b", [], "adapters, decoder, all experts"),
    ],
)
def test_what_learns_without_stages(config: str, overrides: list[str], learning: str) -> None:
    made = estimate_run(load_config(config, overrides))
    beside_adapters = ("adapters", "decoder", "routers", "encoder experts")
    expected = {
        "everything": made.total,
        "all but group 0": made.total - made.parts.get("encoder experts, group 0", 0),
        "adapters, decoder, all experts": sum(
            count for part, count in made.parts.items() if part.startswith(beside_adapters)
        ),
        "adapters, decoder, new experts": sum(
            count
            for part, count in made.parts.items()
            if part.startswith(beside_adapters) and part != "encoder experts, group 0"
        ),
    }
    assert made.trainable == {"all": expected[learning]}


def test_bands_and_settings_change_the_count() -> None:
    three, four = _json("--config", "vit_b"), _json("--config", "vit_b", "--bands", "4")
    assert four["total"] - three["total"] == 768 * 16 * 16
    seven = _json("--config", "vit_b", "--set", "model.args.num_classes=7")
    assert three["total"] - seven["total"] == (33 - 7) * 256


def test_classes_of_the_configuration_are_the_planes_of_the_model() -> None:
    four = estimate_run(load_config("vit_b", ["train_dataset.dataset.args.classes=[a, b, c, d]"]))
    assert estimate_run(load_config("vit_b")).total - four.total == (33 - 4) * 256


def test_operations_of_vit_b_are_those_of_its_encoder_and_a_light_decoder() -> None:
    assert 227 < estimate_run(load_config("vit_b")).flops / 1e9 < 240


def test_people_read_every_part_and_every_stage() -> None:
    text = _cwsam("--config", "XinTong/10b_fsdp").stdout
    told = _json("--config", "XinTong/10b_fsdp")
    lines = text.splitlines()
    for name, count in [*told["parts"].items(), ("total", told["total"]), ("active for a token", told["active"])]:
        assert any(line.startswith(name) and line.endswith(f" {count:,}") for line in lines), name
    for stage, count in told["trainable"].items():
        assert any(stage in line and line.endswith(f" {count:,}") for line in lines), stage
    assert any("forward" in line and line.endswith(f"{told['flops'] / 1e9:,.1f} GFLOP") for line in lines)


SMALL = (
    *("--config", "tiny", "--set", "train_dataset.batch_size=4"),
    *("--set", "model.args.encoder_mode={depth: 2, global_attn_indexes: [1], moe_start_layer_index: 1}"),
)


def test_memory_is_planned_where_gpus_are_given() -> None:
    told = _json(*SMALL, "--gpus", "2", "--gpu-memory", "1GiB")
    memory = told["memory"]
    assert memory["gpu_memory"] == 2**30
    assert memory["plan"]["gpus"] == 2
    assert memory["plan"]["parameters"] == pytest.approx(4 * told["total"] / 2, rel=0.05)
    assert memory["fits"]
    assert memory["stage"] == "all"
    assert _json(*SMALL)["memory"] is None


def test_people_read_the_memory_and_what_makes_it_fit() -> None:
    text = _cwsam(*SMALL, "--gpus", "1", "--gpu-memory", "0.2 GB").stdout
    assert text.startswith("sam_tiny\n")  # what it says without GPUs comes first
    for part in ("parameters", "gradients", "optimizer state, adamw", "activations, batch 4", "the GPU"):
        assert any(line.startswith(part) and " GB" in line for line in text.splitlines()), part
    assert "does not fit in 0.20 GB (0.19 GB without the reserve), but fits with one of" in text
    assert "\n  --set training_settings.activation_checkpointing=true   (" in text


@pytest.mark.parametrize("size", ["80 bananas", "0GB", "-3GB", "", "80MB"])
def test_a_gpu_memory_that_is_no_size_is_refused(size: str) -> None:
    result = CliRunner().invoke(app, ["plan", *SMALL, "--gpus", "1", "--gpu-memory", size])
    assert result.exit_code == 2
    assert f"--gpu-memory `{size}` is not a size" in result.stderr


@pytest.mark.slow
def test_the_10b_model_fits_eight_gpus_of_80_gb_and_1_5b_fits_one() -> None:
    ten = estimate_run(load_config("XinTong/10b_fsdp"), gpus=8).memory
    one = estimate_run(load_config("XinTong/1dot5B", ["train_dataset.batch_size=1"]), gpus=1).memory
    assert ten is not None and one is not None
    assert ten.fits and one.fits
    assert ten.stage == "finetune"
    held = 4 * (10_688_199_680 + 9_009_658_880) / 8  # weights and gradients
    assert ten.plan.parameters + ten.plan.gradients == pytest.approx(held, rel=0.01)


def test_planning_the_10b_model_takes_less_than_a_gigabyte() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not say what a process used")
    script = (
        "from pathlib import Path\n"
        "from cwsam_cli.config.load import load_config\n"
        "from cwsam_cli.plan.pipeline import estimate_run\n"
        "made = estimate_run(load_config('XinTong/10b_fsdp'))\n"
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "print(made.total, next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM')))\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    total, peak = map(int, told.stdout.split())
    assert total > 10e9
    assert peak < 1e9
