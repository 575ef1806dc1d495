"""Losses against their definitions, and silence where nothing is labelled."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cwsam_cli.config.schema import Loss
from cwsam_cli.learning.losses import count_totals, loss_parts
from cwsam_cli.taxonomy import IGNORE

KINDS: list[Loss] = ["ce", "ce+dice", "ce+iou", "ce+lovasz", "focal"]
WEIGHTS = torch.tensor([0.5, 3.0, 0.0, 1.0])


def _loss(*arguments: Any, **named: Any) -> Tensor:
    return torch.stack([*loss_parts(*arguments, **named).values()]).sum()


def _batch(classes: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = torch.randint(classes, (3, 6, 5), dtype=torch.uint8)
    target[torch.rand(target.shape) < 0.3] = IGNORE
    return torch.randn(3, classes, 6, 5), target


def _logits(*probabilities: list[float]) -> Tensor:
    """Logits (1, K, 1, P) whose softmax is given pixel by pixel."""
    return torch.tensor(probabilities).log().T[None, :, None]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs_with_ignored_pixels_and_weights(weights: Tensor | None) -> None:
    logits, target = _batch()
    expected = F.cross_entropy(logits, target.long(), weight=weights, ignore_index=IGNORE)
    torch.testing.assert_close(_loss(logits, target, "ce", weights), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_targets_may_be_any_integers(dtype: torch.dtype) -> None:
    logits, target = _batch()
    assert _loss(logits, target.to(dtype), "ce") == _loss(logits, target, "ce")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_an_unlabelled_batch_costs_nothing_and_moves_nothing(kind: Loss, weights: Tensor | None) -> None:
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = _loss(logits, torch.full((2, 3, 3), IGNORE, dtype=torch.uint8), kind, weights)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(2, 4, 3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_weightless_classes_costs_no_cross_entropy(kind: Loss) -> None:
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = _loss(logits, torch.full((1, 3, 3), 2), kind, WEIGHTS)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (loss.item() == 0) is (kind in ("ce", "focal"))


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_change_neither_loss_nor_gradient(kind: Loss) -> None:
    logits, target = _batch()
    unknown = (target == IGNORE)[:, None].expand_as(logits)
    changed = torch.where(unknown, torch.randn_like(logits) * 9, logits).requires_grad_()
    loss = _loss(changed, target, kind)
    loss.backward()
    torch.testing.assert_close(loss, _loss(logits, target, kind))
    assert changed.grad is not None
    assert not changed.grad[unknown].any()
    assert changed.grad[~unknown].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_map_costs_nothing(kind: Loss) -> None:
    _, target = _batch()
    logits = F.one_hot(target.masked_fill(target == IGNORE, 0).long(), 4).movedim(-1, 1) * 50.0
    assert _loss(logits, target, kind).item() == pytest.approx(0, abs=1e-6)


# Four pixels, two classes, the last unlabelled. Class 0: common 0.8 + 0.6, scores 1.4 + 0.3, truth 2.
# Class 1: common 0.7, scores 0.2 + 0.4 + 0.7, truth 1.
EXAMPLE = ([0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9])
LABELS = torch.tensor([[[0, 0, 1, IGNORE]]])


@pytest.mark.parametrize(
    ("kind", "overlap"),
    [
        ("ce", 0.0),
        ("ce+dice", ((1 - 2 * 1.4 / 3.7) + (1 - 2 * 0.7 / 2.3)) / 2),
        ("ce+iou", ((1 - 1.4 / 2.3) + (1 - 0.7 / 1.6)) / 2),
        # errors 0.4, 0.3, 0.2 by class 0 cost 1/2, 1/3·…: IoU lost after one, two, three mistakes 1/2, 2/3, 1;
        # by class 1 (the same errors; its one pixel is the second) 1/2, 1, 1.
        ("ce+lovasz", ((0.4 / 2 + 0.3 / 6 + 0.2 / 3) + (0.4 / 2 + 0.3 / 2 + 0.2 * 0)) / 2),
    ],
)
def test_a_small_example_by_hand(kind: Loss, overlap: float) -> None:
    entropy = -(math.log(0.8) + math.log(0.6) + math.log(0.7)) / 3
    loss = _loss(_logits(*EXAMPLE), LABELS, kind)
    assert loss.item() == pytest.approx(entropy + overlap, abs=1e-6)


@pytest.mark.parametrize("kind", ["ce+dice", "ce+iou"])
def test_a_class_that_an_images_labels_do_not_hold_enters_no_overlap(kind: Loss) -> None:
    with_third = [[*pair[:1], pair[1] / 2, pair[1] / 2] for pair in EXAMPLE]
    labels = torch.tensor([[[0, 0, 0, IGNORE]]])
    overlap = _loss(_logits(*with_third), labels, kind) - _loss(_logits(*with_third), labels, "ce")
    common, scores, truth = 1.7, 1.7, 3.0
    expected = 1 - 2 * common / (scores + truth) if kind == "ce+dice" else 1 - common / (scores + truth - common)
    assert overlap.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["ce+dice", "ce+iou", "ce+lovasz"])
def test_overlap_weighs_every_image_alike(kind: Loss) -> None:
    one, other = _logits(*EXAMPLE), _logits(*reversed(EXAMPLE))
    labels = torch.tensor([[[0, 1, 0, 1]]])
    both = torch.tensor([[[0, 0, 0, 0]]])
    parts = [
        _loss(logits, target, kind) - _loss(logits, target, "ce") for logits, target in ((one, labels), (other, both))
    ]
    batch = torch.cat([one, other]), torch.cat([labels, both])
    whole = _loss(*batch, kind) - _loss(*batch, "ce")
    assert whole.item() == pytest.approx((parts[0].item() + parts[1].item()) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_against_the_gradient_lowers_the_loss(kind: Loss) -> None:
    logits, target = _batch()
    logits.requires_grad_()
    before = _loss(logits, target, kind)
    before.backward()
    assert logits.grad is not None
    assert _loss(logits.detach() - logits.grad, target, kind) < before


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_add_up_to_the_whole_whoever_holds_which(kind: Loss, weights: Tensor | None) -> None:
    logits, target = _batch()
    target[1] = IGNORE
    cuts = [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 3)]  # one unlabelled, one empty
    whole = count_totals([target[cut] for cut in cuts], weights)
    parts = [_loss(logits[cut], target[cut], kind, weights, totals=whole) for cut in cuts]
    torch.testing.assert_close(torch.stack(parts).sum(), _loss(logits, target, kind, weights))


def test_the_parts_of_a_loss_are_named_and_sum_to_it() -> None:
    logits, target = _batch()
    parts = loss_parts(logits, target, "ce+lovasz", WEIGHTS)
    assert set(parts) == {"ce", "lovasz"}
    torch.testing.assert_close(sum(parts.values()), _loss(logits, target, "ce+lovasz", WEIGHTS))


def test_a_smoothed_label_weighs_what_its_pixels_class_weighs() -> None:
    logits, target = _batch()
    per_pixel = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="none", label_smoothing=0.2)
    known = target != IGNORE
    weights = WEIGHTS[target.long().masked_fill(~known, 0)] * known
    expected = (weights * per_pixel).sum() / weights.sum()
    torch.testing.assert_close(_loss(logits, target, "ce", WEIGHTS, smoothing=0.2), expected)


def test_pixels_without_weight_cost_nothing_with_smoothing_either() -> None:
    logits = torch.randn(1, 4, 3, 3)
    target = torch.full((1, 3, 3), 2, dtype=torch.uint8)  # class 2 weighs 0
    assert _loss(logits, target, "ce", WEIGHTS, smoothing=0.1).item() == 0


def test_smoothing_asks_for_less_than_certainty() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.uint8)
    certain = torch.stack([torch.full((1, 2, 2), 20.0), torch.zeros(1, 2, 2)], dim=1)
    assert _loss(certain, target, "ce") < 1e-6
    assert _loss(certain, target, "ce", smoothing=0.1).item() == pytest.approx(0.05 * 20, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_change_nothing_with_smoothing_either(kind: Loss) -> None:
    logits, target = _batch()
    unknown = (target == IGNORE)[:, None].expand_as(logits)
    changed = torch.where(unknown, torch.randn_like(logits) * 9, logits).requires_grad_()
    loss = _loss(changed, target, kind, WEIGHTS, smoothing=0.2)
    loss.backward()
    torch.testing.assert_close(loss, _loss(logits, target, kind, WEIGHTS, smoothing=0.2))
    assert changed.grad is not None
    assert not changed.grad[unknown].any()


def test_smoothing_spreads_a_share_of_each_label_over_all_classes() -> None:
    logits, target = _batch()
    known = target != IGNORE
    logs = logits.log_softmax(dim=1)
    right = logs.gather(1, target.long().masked_fill(~known, 0)[:, None])[:, 0]
    expected = -(0.7 * right + 0.3 * logs.mean(dim=1))[known].mean()
    torch.testing.assert_close(_loss(logits, target, "ce", smoothing=0.3), expected)


@pytest.mark.parametrize("kind", ["ce+iou", "ce+lovasz"])
def test_of_certain_maps_the_overlap_losses_are_one_minus_iou(kind: Loss) -> None:
    _, target = _batch()
    guess = torch.randint(4, target.shape, generator=torch.Generator().manual_seed(1))
    logits = F.one_hot(guess, 4).movedim(-1, 1) * 60.0
    expected = []
    for truth, found in zip(target, guess, strict=True):
        known = truth != IGNORE
        lost = []
        for k in truth[known].unique():
            hit, either = (truth == k) & (found == k) & known, ((truth == k) | (found == k)) & known
            lost.append(1 - hit.sum().item() / either.sum().item())
        expected.append(sum(lost) / len(lost))
    loss = _loss(logits, target, kind) - _loss(logits, target, "ce")
    assert loss.item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_the_whole_is_the_weight_of_labelled_pixels_and_the_images_that_have_one() -> None:
    target = torch.tensor([[[0, 1], [IGNORE, 3]], [[IGNORE, IGNORE], [IGNORE, IGNORE]], [[2, 2], [2, 2]]])
    plain, weighted = count_totals([target[:1], target[1:]]), count_totals([target[:1], target[1:]], WEIGHTS)
    assert (plain.weight.item(), plain.images.item(), plain.sizes.tolist()) == (7, 2, [1, 2])
    assert (weighted.weight.item(), weighted.images.item()) == (0.5 + 3.0 + 1.0, 2)  # class 2 weighs 0
    assert count_totals([]).weight.item() == 0


def test_the_focal_loss_weighs_a_pixel_by_the_square_of_what_is_missing() -> None:
    expected = -sum((1 - p) ** 2 * math.log(p) for p in (0.8, 0.6, 0.7)) / 3
    assert _loss(_logits(*EXAMPLE), LABELS, "focal").item() == pytest.approx(expected, abs=1e-6)
