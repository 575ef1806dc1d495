"""On an accelerator, whole commands give what they give on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from typer.testing import CliRunner

from cwsam_cli.main import app
from tests.cli.runs import history
from tests.pretended_accelerator import COUNT, DEVICE

MakeRaster = Callable[..., Path]
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


SIDE, BANDS, CLASSES = 1024, 5, 7


def write_model(path: Path) -> None:
    """A model of five bands and seven classes, 128 pixels wide, with all experts at work; its weights are random."""
    import torch

    from cwsam_cli.model.network import ClassWiseSam
    from tests.checkpoints import save_network
    from tests.small import small

    torch.manual_seed(0)
    experts: dict[str, int] = {"moe_num_expert_groups": 2, "moe_experts_per_group": 2}
    experts |= {"moe_k_groups": 2, "moe_k_experts": 2}
    arch = small(num_bands=BANDS, num_classes=CLASSES, inp_size=128, moe_start_layer_index=1, **experts)
    save_network(ClassWiseSam(arch), path)


def count_of_map(scene: Path, checkpoint: Path, target: Path, device: str, options: dict[str, Any]) -> dict[str, int]:
    """Map a scene; returns what the accelerator counted after the weights were there, and the number of windows."""
    from cwsam_cli.distributed.world import World
    from cwsam_cli.predict.planning import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.network import Model
    from cwsam_cli.predict.work import make_map

    request = MapRequest(
        scene=str(scene), checkpoint=checkpoint, output=target, device=device, precision="fp32", **options
    )
    model = Model.open(request)
    plan, score = make_plan(request, model), model.scorer(request)
    COUNT.clear()
    make_map(plan, score, World(model.device))
    rows, cols = len(plan.lattice.rows), len(plan.lattice.cols)
    return dict(COUNT) | {"rows": rows, "batches": rows * -(-cols // plan.batch)}


LAYERS: dict[str, tuple[dict[str, Any], int]] = {
    "the map alone": ({}, 1),
    "hidden by confidence": ({"min_confidence": 14.4}, 1),
    "views": ({"tta": "flips"}, 1),
    "every layer": ({"confidence": True, "probabilities": True, "entropy": True, "experts": True}, 11),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_map_is_the_map_of_the_cpu_and_only_pixels_and_layers_travel(
    accelerated: Accelerated, make_raster: MakeRaster, tmp_path: Path, name: str
) -> None:
    options, layers = LAYERS[name]
    side = SIDE if not options else SIDE // 2
    values = np.random.default_rng(0).integers(1, 255, (BANDS, side, side)).astype(np.uint8)
    values[:, 100:300, 200:290] = 0
    scene = make_raster("scene.tif", values, nodata=0, tiled=True, blockxsize=256, blockysize=256)
    checkpoint = tmp_path / "model.pth"
    write_model(checkpoint)
    maps = []
    for device in ("cpu", DEVICE):
        target = tmp_path / device / "map.tif"
        target.parent.mkdir()
        count = accelerated(count_of_map, scene, checkpoint, target, device, options)
        files = sorted(target.parent.glob("*.tif"))
        maps.append([rasterio.open(path).read() for path in files])
    assert sum(len(own) for own in maps[1]) == layers
    for path, ours, theirs in zip(files, *maps, strict=True):
        changed = np.abs(ours.astype(int) - theirs.astype(int))
        if path.stem in ("map", "map.experts"):  # classes; equal scores may be rounded to one side or the other
            assert (changed > 0).mean() < 1e-5
        else:
            assert changed.max() <= 1
    assert (maps[1][0] == 255).any() and len(np.unique(maps[1][0])) > 2
    pixels = side * side
    assert count["up"] <= 1.2 * pixels * (BANDS + 1)
    assert pixels * layers <= count["down"] <= 1.05 * pixels * layers
    assert count.get("reads", 0) == 0
    assert count["waits"] <= count["batches"] + count["rows"]


@pytest.mark.parametrize("dtype", ["uint16", "int8", "uint32", "float32", "float64"])
def test_scenes_of_every_dtype_turned_upside_down_and_cut_are_mapped_as_on_the_cpu(
    accelerated: Accelerated, make_raster: MakeRaster, tmp_path: Path, dtype: str
) -> None:
    values = np.random.default_rng(0).integers(1, 120, (BANDS, 150, 300)).astype(dtype)
    scene = make_raster("scene.tif", values, transform=Affine(30, 0, 6e5, 0, 30, 3e6))
    checkpoint = tmp_path / "model.pth"
    write_model(checkpoint)
    area = {"bounds": (6e5 + 900, 3e6 + 600, 6e5 + 8000, 3e6 + 4000)}
    maps = []
    for device in ("cpu", "pgpu"):
        target = tmp_path / f"{device}.tif"
        accelerated(count_of_map, scene, checkpoint, target, device, area)
        maps.append(rasterio.open(target).read())
    assert maps[0].size > 20_000 and (maps[0] != maps[1]).mean() < 1e-4
