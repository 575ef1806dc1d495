"""Views are turned back where they belong, and a pass takes about the memory it is said to."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cwsam_cli.config.load import load_config
from cwsam_cli.distributed.world import choose_precision
from cwsam_cli.errors import MachineError
from cwsam_cli.model.experts import expert_layers
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.predict.scoring.scorer import AUGMENTATIONS, Scorer

CPU = torch.device("cpu")


class Local(nn.Module):
    """Scores a pixel by itself and its right neighbour: what it says turns with the image, but for that."""

    def __init__(self, *, sideways: float = 0.0) -> None:
        super().__init__()
        self.sideways = sideways

    def forward(self, image: Tensor) -> Tensor:
        own = image[:, :1]
        return torch.cat([own, -own, own.roll(-1, dims=3) * self.sideways], dim=1)


def images() -> Tensor:
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tta", AUGMENTATIONS)
def test_a_model_that_turns_with_its_image_scores_the_same_with_and_without_views(tta: str) -> None:
    plain = Scorer(Local(), CPU)(images())
    np.testing.assert_allclose(Scorer(Local(), CPU, views=AUGMENTATIONS[tta])(images()), plain, rtol=1e-6)


@pytest.mark.parametrize(("tta", "number"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_views_differ_from_each_other_and_are_averaged(tta: str, number: int) -> None:
    views = AUGMENTATIONS[tta]
    assert len(set(views)) == len(views) == number
    model = Local(sideways=1.0)
    scores = Scorer(model, CPU, views=views)(images())
    each = [Scorer(model, CPU, views=(view,))(images()) for view in views]
    np.testing.assert_allclose(scores, torch.stack(each).mean(dim=0), rtol=1e-5, atol=1e-6)
    distinct = {part.numpy().tobytes() for part in each}
    assert len(distinct) == {"none": 1, "flips": 2, "d4": 4}[tta]  # the neighbour lies on one of so many sides


def test_the_hidden_class_never_wins() -> None:
    scores = Scorer(Local(), CPU, hidden_class=0)(images())
    assert (scores.argmax(axis=1) != 0).all()
    assert scores[:, 1:].isfinite().all()


def test_scores_are_the_callers_own_and_in_float32() -> None:
    scores = Scorer(Local(), CPU, precision="bf16")(images())
    assert scores.dtype == torch.float32 and not scores.requires_grad
    scores += 1


class Large(Local):
    """Needs more memory than there is for more than two windows at a time."""

    def __init__(self, most: int = 2) -> None:
        super().__init__()
        self.most, self.passes = most, list[int]()

    def forward(self, image: Tensor) -> Tensor:
        self.passes.append(len(image))
        if len(image) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(image)


def test_a_batch_that_does_not_fit_is_halved_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: None, raising=False)
    batch = torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Large()
    score = Scorer(model, CPU)
    torch.testing.assert_close(score(batch), Scorer(Local(), CPU)(batch), rtol=0, atol=0)
    assert model.passes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    model.passes.clear()
    score(batch[:2])
    assert model.passes == [1, 1]


def test_a_window_that_does_not_fit_ends_in_a_sentence() -> None:
    with pytest.raises(MachineError, match="cpu has not enough free memory for one window"):
        Scorer(Large(most=0), CPU)(images()[:1])


def mixture() -> ClassWiseSam:
    """Two groups of two experts in one block, four patches a side."""
    mode = "{embed_dim: 24, depth: 2, num_heads: 2, global_attn_indexes: [1], patch_size: 8, prompt_embed_dim: 16, "
    mode += "decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 2, moe_experts_per_group: 2, "
    mode += "moe_start_layer_index: 1}"
    config = load_config("tiny", ["model.args.inp_size=32", f"model.args.encoder_mode={mode}"])
    torch.manual_seed(0)
    return ClassWiseSam(architecture(config.model, num_bands=2, num_classes=3)).eval()


def test_planes_of_expert_groups_come_behind_the_classes_and_change_nothing() -> None:
    model = mixture()
    batch = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = Scorer(model, CPU)(batch)
    scores = Scorer(model, CPU, expert_groups=2)(batch)
    assert scores.shape == (2, 5, 32, 32)
    np.testing.assert_array_equal(scores[:, :3], plain)
    shares = scores[:, 3:]
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    by_patch = shares[:, :, ::8, ::8].numpy()
    np.testing.assert_array_equal(by_patch.repeat(8, axis=2).repeat(8, axis=3), shares)
    assert np.ptp(by_patch, axis=(2, 3)).max() > 0.01  # the router does tell patches apart


def test_the_group_that_is_said_to_serve_is_the_one_the_router_prefers() -> None:
    model = mixture()
    (layer,) = [layer for _, layer in expert_layers(model)]
    assert layer.group_router is not None
    with torch.no_grad():
        layer.group_router.weight.zero_()
        layer.group_router.bias.copy_(torch.tensor([0.0, 9.0]))
    shares = Scorer(model, CPU, expert_groups=2)(torch.randn(1, 2, 32, 32))[:, 3:]
    assert (shares.argmax(axis=1) == 1).all()


def test_a_precision_that_is_asked_for_is_taken() -> None:
    assert [choose_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert choose_precision("auto", CPU) in ("fp32", "bf16")
    assert choose_precision("auto", torch.device("meta")) == "fp32"


PEAK = """
import re, sys, torch
from pathlib import Path
from cwsam_cli.config.load import load_config
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.predict.memory import activation_bytes, resident_memory
from cwsam_cli.predict.scoring.scorer import AUGMENTATIONS, Scorer
torch.set_num_threads(1)
classes, views, batch = int(sys.argv[1]), AUGMENTATIONS[sys.argv[2]], 8
arch = architecture(load_config("tiny").model, num_bands=3, num_classes=classes)
score = Scorer(ClassWiseSam(arch).eval(), torch.device("cpu"), views=views)
before = resident_memory()
scores = score(torch.zeros(batch, 3, arch.inp_size, arch.inp_size))
peak = int(re.search("VmHWM: *\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]) * 1024
taken = peak - before - scores.nbytes
print(taken / batch / activation_bytes(arch, views=len(views)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("classes", "tta"), [(7, "none"), (33, "none"), (33, "flips")])
def test_a_pass_takes_no_more_than_its_estimate_and_a_fixed_part(classes: int, tta: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(classes), tta],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.2 < float(done.stdout) < 1.6  # 64 MB of it, once, are in the costs apart
