"""A step learns from one large batch however it is cut, in whatever precision; averages follow the weights."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import Loss, ModelArgs, ModelConfig, OptimizerArgs, OptimizerConfig, TrainingSettings
from cwsam_cli.dataset.loader import Batch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import MachineError
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.loop import RunStatus, StepResult, take_step
from cwsam_cli.learning.optim import build_optimizer, local_shards
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.taxonomy import IGNORE
from tests.pretended_accelerator import COUNT, DEVICE
from tests.small import ARCH

WORLD = World(torch.device("cpu"))
SETTINGS = TrainingSettings(clip_grad_norm=None, workers=0)
LOSSES: list[Loss] = ["ce", "ce+dice", "ce+iou", "ce+lovasz", "focal"]


def _model(**changes: Any) -> ClassWiseSam:
    torch.manual_seed(0)
    shape: dict[str, Any] = ARCH | {
        "depth": 1,
        "global_attn_indexes": (0,),
        "num_bands": 2,
        "num_classes": 3,
        "detail_stem": True,
    }
    return ClassWiseSam(Architecture(**shape | changes))


def _batch(size: int, seed: int = 0) -> Batch:
    """Images (B, 2, 32, 32) whose vertical stripes are their classes."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.arange(32) // 8 % 3).expand(size, 32, 32).contiguous()
    image = torch.stack([label - 1.0, (label == 2).float()], dim=1)
    return image + 0.1 * torch.randn(image.shape, generator=generator), label.to(torch.uint8)


def _uneven() -> Batch:
    """Six images that know all, some, or nothing of the ground."""
    image, label = _batch(6)
    for number in range(5):
        label[number, : number * 6] = IGNORE
    label[5] = IGNORE
    return image, label


def _learner(model: nn.Module | None = None, *, plain: bool = True, stay: tuple[str, ...] = (), **args: Any) -> Learner:
    """A model with plain gradient descent, or with the optimizer of a configuration."""
    model = _model() if model is None else model
    shards = local_shards(model)
    if plain:
        optimizer: torch.optim.Optimizer = torch.optim.SGD([{"params": [*shards.values()], "lr_factor": 1.0}])
    else:
        name = args.pop("name", "adamw")
        config = OptimizerConfig(name=name, args=OptimizerArgs(**args))
        optimizer = build_optimizer(model, shards, config, stay=stay)
    return Learner(model, shards, optimizer)


def _step(
    learner: Learner,
    *batches: Batch,
    loss: Loss = "ce",
    settings: TrainingSettings = SETTINGS,
    rate: float = 0.1,
    weights: Tensor | None = None,
    world: World = WORLD,
    get_status: Callable[[], RunStatus] = RunStatus,
    **args: Any,
) -> StepResult:
    return take_step(
        learner,
        [*batches],
        world,
        args=ModelArgs(loss=loss, **args),
        settings=settings,
        weights=weights,
        rate=rate,
        get_status=get_status,
    )


def _after_one_step(*batches: Batch, **options: Any) -> tuple[list[Tensor], StepResult]:
    learner = _learner()
    result = _step(learner, *batches, **options)
    return [parameter.detach() for parameter in learner.model.parameters()], result


def _weights(learner: Learner) -> dict[str, Tensor]:
    return {name: shard.detach().clone() for name, shard in learner.shards.items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _count_waits() -> tuple[int, int]:
    """How often the host waits for the device in a step of `sam_tiny`, and whether the step learned (1) or not (0)."""
    arch = architecture(ModelConfig(name="sam_tiny", args=ModelArgs(inp_size=32)), num_bands=2, num_classes=3)
    assert arch.moe_num_expert_groups
    learner = _learner(ClassWiseSam(arch).to(DEVICE), plain=False)
    settings = TrainingSettings(clip_grad_norm=1.0, workers=0)
    options: dict[str, Any] = {"loss": "ce+dice", "settings": settings, "rate": 1e-3}
    losses = []
    for _ in range(2):
        COUNT.clear()
        losses.append(_step(learner, _batch(2), _batch(2), world=World(torch.device(DEVICE)), **options).loss)
    return COUNT["reads"] + COUNT["downs"] + COUNT["waits"], int(losses[1] < losses[0])


def test_the_host_waits_for_an_accelerator_at_most_twice_in_a_step(accelerated: Callable[..., Any]) -> None:
    waits, learned = accelerated(_count_waits)
    assert waits <= 2
    assert learned


@pytest.mark.parametrize("loss", LOSSES)
def test_a_small_model_learns_one_batch_by_heart(loss: Loss) -> None:
    learner, (image, label) = _learner(plain=False), _batch(2)
    losses = [_step(learner, (image, label), loss=loss, rate=1e-2).loss for _ in range(40)]
    with torch.no_grad():
        right = (learner.model(image).argmax(dim=1) == label).float().mean()
    assert losses[0] > 0.4
    assert losses[-1] < 0.3 * losses[0]
    assert right > 0.97


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])])
@pytest.mark.parametrize("loss", LOSSES)
def test_accumulating_batches_equals_one_batch_of_all(loss: Loss, weights: Tensor | None) -> None:
    image, label = _uneven()
    whole, once = _after_one_step((image, label), loss=loss, weights=weights)
    cuts = [slice(0, 1), slice(1, 3), slice(3, 6), slice(6, 6)]
    parts, often = _after_one_step(*[(image[cut], label[cut]) for cut in cuts], loss=loss, weights=weights)
    before = [parameter.detach() for parameter in _model().parameters()]
    assert once.loss == pytest.approx(often.loss, rel=1e-5)
    assert once.gradient_norm == pytest.approx(often.gradient_norm, rel=1e-4)
    assert (once.images, often.images) == (6, 6)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert any(not torch.equal(start, one) for start, one in zip(before, whole, strict=True))


def test_a_step_tells_its_loss_by_parts_that_sum_to_it() -> None:
    _, result = _after_one_step(_batch(2), loss="ce+dice")
    assert result.losses.keys() == {"ce", "dice"}
    assert all(value > 0 for value in result.losses.values())
    assert result.loss == pytest.approx(sum(result.losses.values()))
    assert result.images == 2


def test_experts_add_a_part_for_their_routing() -> None:
    mixture = _model(
        moe_start_layer_index=0, moe_num_expert_groups=2, moe_experts_per_group=2, moe_k_groups=1, moe_k_experts=1
    )
    result = _step(_learner(mixture), _batch(2), balance_loss=0.5, router_z_loss=0.0)
    assert result.losses.keys() == {"ce", "routing"}
    assert result.losses["routing"] == pytest.approx(0.5 * 2, rel=0.3)  # 1 a level where the load is even


def test_a_step_without_any_image_moves_nothing() -> None:
    image, label = _batch(2)
    learner = _learner()
    before = _weights(learner)
    result = _step(learner, (image[:0], label[:0]), loss="ce+dice")
    assert (result.loss, result.gradient_norm, result.images) == (0, 0, 0)
    assert _same(before, _weights(learner))


@pytest.mark.parametrize("loss", LOSSES)
def test_an_unlabelled_step_moves_nothing(loss: Loss) -> None:
    image, label = _batch(2)
    learner = _learner()
    before = _weights(learner)
    assert _step(learner, (image, label * 0 + IGNORE), loss=loss).loss == 0
    assert _same(before, _weights(learner))


def test_each_group_of_weights_learns_at_the_given_rate_times_its_own_factor() -> None:
    model = _model()
    shards = local_shards(model)
    groups: dict[float, list[nn.Parameter]] = {0.5: [], 3.0: []}
    for name, shard in shards.items():
        groups[0.5 if name.startswith("image_encoder") else 3.0].append(shard)
    optimizer = torch.optim.SGD([{"params": own, "lr_factor": factor} for factor, own in groups.items()], lr=9.0)
    before = {name: shard.detach().clone() for name, shard in shards.items()}
    _step(Learner(model, shards, optimizer), _batch(2), rate=0.2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.6])
    plain = _learner()
    _step(plain, _batch(2), rate=1.0)
    for name, shard in shards.items():
        moved = (0.1 if name.startswith("image_encoder") else 0.6) * (plain.shards[name] - before[name])
        torch.testing.assert_close(shard.detach() - before[name], moved.detach(), rtol=1e-3, atol=1e-6)


def test_clipping_shortens_the_step_but_not_the_reported_norm() -> None:
    before = [parameter.detach() for parameter in _model().parameters()]
    free, unclipped = _after_one_step(_batch(2))
    short, clipped = _after_one_step(_batch(2), settings=replace(SETTINGS, clip_grad_norm=1e-3))
    moved = [
        math.sqrt(sum(float(((one - start) ** 2).sum()) for one, start in zip(after, before, strict=True)))
        for after in (free, short)
    ]
    assert clipped.gradient_norm == unclipped.gradient_norm
    assert moved[0] == pytest.approx(0.1 * unclipped.gradient_norm, rel=1e-2)
    assert moved[1] == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_gradients_do_not_linger_after_a_step() -> None:
    learner = _learner()
    _step(learner, _batch(2))
    assert all(shard.grad is None for shard in learner.shards.values())


@pytest.mark.parametrize("others", [0, 1])
def test_a_loss_that_is_no_number_stops_before_the_weights_change(others: int) -> None:
    learner, (image, label) = _learner(), _batch(1)
    before = _weights(learner)
    with pytest.raises(MachineError, match="the loss is nan") as caught:
        _step(learner, *[_batch(1)] * others, (image * math.nan, label))
    assert (caught.value.exit_code, "lr" in caught.value.hint) == (6, True)
    assert _same(before, _weights(learner))


def test_a_gradient_that_is_no_number_stops_before_the_weights_change() -> None:
    learner = _learner()
    before = _weights(learner)
    learner.shards["mask_decoder.class_tokens.weight"].register_hook(lambda grad: grad * math.inf)
    with pytest.raises(MachineError, match="the norm of its gradient") as caught:
        _step(learner, _batch(1))
    assert caught.value.exit_code == 6
    assert _same(before, _weights(learner))


def test_bfloat16_learns_too() -> None:
    learner = _learner()
    before = _weights(learner)
    result = _step(learner, _batch(2), settings=replace(SETTINGS, precision="bf16"))
    assert math.isfinite(result.loss)
    assert {shard.dtype for shard in learner.shards.values()} == {torch.float32}
    assert not _same(before, _weights(learner))


@pytest.mark.parametrize("loss", LOSSES)
def test_class_weights_reach_the_loss(loss: Loss) -> None:
    losses = [
        _after_one_step(_batch(1), loss=loss, weights=weights)[1].loss
        for weights in (None, torch.tensor([0.0, 0.0, 1.0]))
    ]
    assert losses[0] != pytest.approx(losses[1])


def test_label_smoothing_reaches_the_loss() -> None:
    losses = [_after_one_step(_batch(1), label_smoothing=share)[1].loss for share in (0.0, 0.3)]
    assert losses[0] != pytest.approx(losses[1])


def test_somebody_who_asks_to_stop_is_heard_after_the_step() -> None:
    world = World(torch.device("cpu"))
    learner = _learner()
    assert not any(_step(learner, _batch(1), world=world).status)
    before = _weights(learner)
    wish = RunStatus(is_interrupted=True)
    assert _step(learner, _batch(1), world=world, get_status=lambda: wish).status == wish
    assert not _same(before, _weights(learner))  # the step was finished


# --- what learns ---


def test_exactly_the_chosen_weights_learn_and_the_others_stay() -> None:
    learner = _learner(plain=False, weight_decay=0.5)
    chosen = {name for name in learner.shards if name.startswith("mask_decoder.")}
    learner.learn(chosen)
    assert {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad} == chosen
    before = _weights(learner)
    for _ in range(2):
        _step(learner, _batch(2), rate=1e-2)
    after = _weights(learner)
    assert {name for name in before if not torch.equal(before[name], after[name])} <= chosen
    assert {name for name in chosen if torch.equal(before[name], after[name])} == set()
    learner.learn(set(learner.shards))  # the next stage
    _step(learner, _batch(2), rate=1e-2)
    assert [name for name, value in _weights(learner).items() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_filters_of_frozen_bands_stay_bit_for_bit_and_the_others_learn_whatever_decays(name: str) -> None:
    filters = "image_encoder.patch_embed.proj.weight"
    model = _model(num_bands=5, embed_dim=32)  # so many filters that their averages are in 8 bits
    learner = _learner(model, plain=False, stay=(filters,), name=name, weight_decay=0.5)
    learner.frozen_bands = {filters: [0, 1, 3]}
    before = learner.shards[filters].detach().clone()
    for seed in range(3):
        image, label = _batch(2, seed)
        _step(learner, (torch.cat([image, image, image[:, :1]], dim=1), label), rate=1e-2)
    after = learner.shards[filters]
    assert [torch.equal(after[:, band], before[:, band]) for band in range(5)] == [True, True, False, True, False]
    if name == "adamw8bit":
        assert learner.optimizer.state[after]["state1"].dtype == torch.uint8


# --- fp16 ---


class Small(nn.Module):
    """A network so small that fp16 costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(self.first(image).relu()).float()


HALF = replace(SETTINGS, precision="fp16")


def _half(scale: float) -> Learner:
    learner = _learner(Small())
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return learner


def test_fp16_takes_nearly_the_step_of_fp32() -> None:
    image, label = _batch(2)
    batch = image[..., :8, :8], label[:, :8, :8]
    exact, half = _learner(Small()), _half(2.0**10)
    seen: list[torch.dtype] = []
    half.model.get_submodule("first").register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    before = _weights(half)
    expected, result = _step(exact, batch), _step(half, batch, settings=HALF)
    assert seen == [torch.float16]
    assert result.loss == pytest.approx(expected.loss, rel=1e-3)
    assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-2)  # of the unscaled gradient
    for name, shard in half.shards.items():
        torch.testing.assert_close(shard - before[name], exact.shards[name] - before[name], rtol=0.05, atol=1e-4)
    assert {shard.dtype for shard in half.shards.values()} == {torch.float32}


def test_clipping_in_fp16_means_the_unscaled_gradient() -> None:
    learner = _half(2.0**10)
    before = _weights(learner)
    _step(learner, _batch(1), settings=replace(HALF, clip_grad_norm=1e-2), rate=1.0)
    moved = math.sqrt(sum(float((value - before[name]).square().sum()) for name, value in _weights(learner).items()))
    assert moved == pytest.approx(1e-2, rel=0.02)


def test_a_step_whose_scaled_gradient_overflows_is_left_out_and_the_scale_halved() -> None:
    learner = _half(2.0**40)
    assert learner.scaler is not None
    before = _weights(learner)
    result = _step(learner, _batch(1), settings=HALF)
    assert math.isfinite(result.loss) and not math.isfinite(result.gradient_norm)
    assert _same(before, _weights(learner))
    assert learner.scaler.get_scale() == 2.0**39
    learner.scaler.update(2.0**10)
    assert math.isfinite(_step(learner, _batch(1), settings=HALF).gradient_norm)
    assert not _same(before, _weights(learner))


def test_a_forward_pass_that_overflows_in_fp16_is_left_out_too() -> None:
    learner, (image, label) = _half(2.0**10), _batch(1)
    assert learner.scaler is not None
    before = _weights(learner)
    result = _step(learner, (image * math.inf, label), settings=HALF)
    assert result.is_skipped and not math.isfinite(result.loss)
    assert _same(before, _weights(learner))
    assert learner.scaler.get_scale() == 2.0**9
    assert not _step(learner, (image, label), settings=HALF).is_skipped


def test_too_many_steps_left_out_in_a_row_end_the_run() -> None:
    learner, (image, label) = _half(2.0**10), _batch(1)
    for _ in range(30):
        assert _step(learner, (image * math.nan, label), settings=HALF).is_skipped
    with pytest.raises(MachineError, match=r"the loss is nan .* the last of 31 such steps") as caught:
        _step(learner, (image * math.nan, label), settings=HALF)
    assert "bf16" in caught.value.hint


def test_fp16_finds_a_scale_by_itself_and_learns() -> None:
    learner, batch = _half(2.0**24), _batch(1)
    losses = [_step(learner, batch, settings=HALF, rate=0.5).loss for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


# --- moving average ---

AVERAGE = replace(SETTINGS, ema=0.75)


def test_averages_are_those_computed_by_hand() -> None:
    learner = _learner()
    learner.begin_average()
    expected = _weights(learner)
    assert _same(learner.average, expected)
    for seed in range(30):
        _step(learner, _batch(2, seed), settings=AVERAGE)
        now = _weights(learner)
        half_life = min(math.log(0.5) / math.log(0.75), (seed + 1) / 10)  # of 2.4 steps from the 25th on
        share = 0.5 ** (1 / half_life)
        expected = {name: share * value + (1 - share) * now[name] for name, value in expected.items()}
    for name, value in learner.average.items():
        torch.testing.assert_close(value, expected[name])
    assert not _same(learner.average, _weights(learner))


def test_an_average_forgets_what_the_run_began_with() -> None:
    """At a decay of 0.999, 82 % of a plain average would still be that after 200 steps."""
    learner = _learner()
    learner.begin_average()
    with torch.no_grad():
        for shard in learner.shards.values():
            shard.fill_(1.0)  # as if learnt in the first step
    for _ in range(200):
        learner.update_average(0.999)
    apart = max(float((average - 1).abs().max()) for average in learner.average.values())
    assert apart < 1e-6


def test_a_weight_that_begins_to_learn_later_shortens_the_memory_again() -> None:
    learner = _learner()
    first = {name for name in learner.shards if name.startswith("mask_decoder.")}
    learner.learn(first)
    learner.begin_average()
    for _ in range(50):
        learner.update_average(0.999)
    learner.begin_average()
    assert learner.averaged_steps == 50  # nothing joined
    learner.learn(set(learner.shards))
    learner.begin_average()
    assert learner.averaged_steps == 0


def test_averaging_changes_nothing_of_how_the_weights_learn() -> None:
    averaged, plain = _learner(), _learner()
    averaged.begin_average()
    for learner, settings in ((averaged, AVERAGE), (plain, SETTINGS)):
        for seed in range(2):
            _step(learner, _batch(2, seed), settings=settings)
            with learner.averaged():
                pass
    assert _same(_weights(averaged), _weights(plain))


def test_averages_stand_in_for_the_weights_and_all_is_put_back() -> None:
    learner, (image, label) = _learner(), _batch(2)
    learner.begin_average()
    _step(learner, (image, label), settings=AVERAGE)
    weights, average = _weights(learner), {name: value.clone() for name, value in learner.average.items()}
    other = _model()
    other.load_state_dict(average, strict=False)  # all but the buffers
    with pytest.raises(RuntimeError, match="on the way"), torch.no_grad(), learner.averaged():
        assert _same(_weights(learner), average)
        assert torch.equal(learner.model(image), other(image))
        raise RuntimeError("on the way")
    assert _same(_weights(learner), weights)
    assert _same(learner.average, average)


def test_without_an_average_the_weights_stand_for_themselves() -> None:
    learner = _learner()
    weights = _weights(learner)
    with learner.averaged():
        assert _same(_weights(learner), weights)
    assert _same(_weights(learner), weights)


def test_only_what_learns_is_averaged_and_a_later_stage_joins() -> None:
    learner = _learner()
    decoder = {name for name in learner.shards if name.startswith("mask_decoder.")}
    learner.learn(decoder)
    learner.begin_average()
    assert learner.average.keys() == decoder
    _step(learner, _batch(1), settings=AVERAGE)
    kept = {name: value.clone() for name, value in learner.average.items()}
    learner.learn(set(learner.shards))
    learner.begin_average()
    assert learner.average.keys() == learner.shards.keys()
    assert all(torch.equal(learner.average[name], value) for name, value in kept.items())
    before = _weights(learner)
    assert all(torch.equal(learner.average[name], before[name]) for name in learner.shards.keys() - decoder)
