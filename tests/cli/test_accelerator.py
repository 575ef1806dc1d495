"""On an accelerator, whole commands give what they give on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from cwsam_cli.main import app
from tests.cli.runs import history
from tests.pretended_accelerator import COUNT

Accelerated = Callable[..., Any]


def command(*arguments: str) -> int:
    """Run `cwsam`; it must succeed. Returns the number of operations on the accelerator."""
    COUNT.clear()
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return COUNT["operations"]


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 1e-3)])
def test_training_learns_what_it_learns_on_the_cpu(
    accelerated: Accelerated, run: Any, small: tuple[str, ...], tmp_path: Path, precision: str, bound: float
) -> None:
    experts = "moe_num_expert_groups=2 moe_experts_per_group=2 moe_k_groups=1 moe_k_experts=2 moe_start_layer_index=0"
    settings = ["epoch_max=1", "epoch_val=1", f"training_settings.precision={precision}"]
    settings += [f"model.args.encoder_mode.{setting}" for setting in experts.split()]
    words = ["train", *small, "--data", str(run.dataset), *(word for s in settings for word in ("--set", s))]
    losses = []
    for device in ("cpu", "pgpu"):
        folder = tmp_path / device
        operations = accelerated(command, *words, "-o", str(folder), "--device", device)
        assert bool(operations) == (device == "pgpu")
        losses.append([row["train/loss"] for row in history(folder)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=bound)


def test_eval_finds_what_it_finds_on_the_cpu(accelerated: Accelerated, run: Any, tmp_path: Path) -> None:
    words = ("eval", "-c", str(run.checkpoint), "--data", str(run.dataset), "--split", "val")
    reports = []
    for device in ("cpu", "pgpu"):
        folder = tmp_path / device
        accelerated(command, *words, "-o", str(folder), "--device", device)
        reports.append((folder / "confusion_matrix.csv").read_text("utf-8"))
    assert reports[0] == reports[1]


def test_a_map_is_the_map_of_the_cpu(accelerated: Accelerated, run: Any, tmp_path: Path) -> None:
    maps = []
    for device in ("cpu", "pgpu"):
        target = tmp_path / f"{device}.tif"
        accelerated(
            command, "predict", str(run.scene), "-c", str(run.checkpoint), "-o", str(target), "--device", device
        )
        with rasterio.open(target) as source:
            maps.append(source.read(1))
    np.testing.assert_array_equal(maps[1], maps[0])
