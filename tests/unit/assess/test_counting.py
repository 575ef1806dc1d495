"""Pixels are counted once, also by the group of experts that serves them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cwsam_cli.assess.counting import count_hits
from cwsam_cli.assess.trained import Trained
from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.world import World
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.predict.scoring.scorer import Scorer
from cwsam_cli.taxonomy import IGNORE, from_names
from tests.small import small

MakeRaster = Callable[..., Path]
TAXONOMY = from_names(["a", "b", "c", "d"])


def test_groups_of_experts_are_those_that_predict_maps(make_raster: MakeRaster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        make_raster(f"images/{number}.tif", rng.integers(0, 9, (3, 32, 32)).astype(np.uint8))
        make_raster(f"labels/{number}.tif", rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (32, 32)), nodata=255)
    args = FolderArgs(root_path_1=str(tmp_path / "images"), root_path_2=str(tmp_path / "labels"))
    bands = tuple(Band(name=name, mean=4.0, std=2.0) for name in "rgb")
    dataset = TileDataset(args, TAXONOMY, bands, 32)
    torch.manual_seed(0)
    arch = small(
        moe_num_expert_groups=2,
        moe_experts_per_group=2,
        moe_k_groups=1,
        moe_k_experts=1,
        moe_start_layer_index=1,
        patch_size=8,
    )
    model = ClassWiseSam(arch).eval()
    trained = Trained(model, dataset, TAXONOMY, None, expert_groups=2)
    world, cells = World(torch.device("cpu")), np.arange(2)
    counts = count_hits(trained, world, cells, cell_count=2, tolerance=1, batch_size=2)
    scorer = Scorer(model, world.device, expert_groups=2)
    expected = np.zeros((2, 2, 2), int)
    for number in range(2):
        image, label = (part.numpy() for part in dataset[number])
        scores = scorer(torch.from_numpy(image)[None])[0].numpy()
        group, is_right, known = scores[4:].argmax(axis=0), scores[:4].argmax(axis=0) == label, label != IGNORE
        for own in range(2):
            expected[number, own] = (known & (group == own)).sum(), (known & is_right & (group == own)).sum()
    assert (expected[:, :, 0] > 0).any(axis=0).all()
    np.testing.assert_array_equal(counts.groups, expected)
    np.testing.assert_array_equal(counts.groups.sum(axis=1), counts.tiles)
