"""What learns: a table of every mode."""

import pytest
import torch

from cwsam_cli.config.schema import StageConfig
from cwsam_cli.learning.stages import learning_names, stage_at
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from tests.small import small

SAM, FILTERS, BASE, NEW, ROUTERS = "SAM's own", "patch filters", "group 0", "new groups", "routers"
ADAPTERS, DECODER, DECODER_ROUTERS, DECODER_EXPERTS = "adapters", "decoder", "decoder's routers", "decoder's experts"

ALL = {SAM, FILTERS, BASE, NEW, ROUTERS, ADAPTERS, DECODER, DECODER_ROUTERS, DECODER_EXPERTS}
INTEGRATE = {NEW, ROUTERS, DECODER_ROUTERS}
ADAPT = INTEGRATE | {ADAPTERS, DECODER, DECODER_EXPERTS}


def _arch(adaptor: str = "adaptor", bands: int = 3, groups: int = 3, decoder_experts: int = 3) -> Architecture:
    return small(
        embed_dim=32,
        depth=3,
        num_bands=bands,
        num_classes=3,
        detail_stem=True,
        moe_start_layer_index=1,
        moe_num_expert_groups=groups,
        moe_experts_per_group=2,
        moe_k_experts=1,
        moe_decoder_experts=decoder_experts,
        moe_decoder_k_experts=1,
        adaptor=adaptor,
        input_type="fft",
    )


def _kind(name: str) -> str:
    """Which of the table's groups a parameter belongs to, told from its name piece by piece."""
    room, *path = name.split(".")
    if room == "mask_decoder":
        if "routers" in path:
            return DECODER_ROUTERS
        return DECODER_EXPERTS if "groups" in path else DECODER
    if path[0] == "prompt" or any(piece.startswith("adapter_") for piece in path):
        return ADAPTERS
    if "groups" in path:
        return BASE if path[path.index("groups") + 1] == "0" else NEW
    if "routers" in path or "group_router" in path:
        return ROUTERS
    return FILTERS if path == ["patch_embed", "proj", "weight"] else SAM


def _names(arch: Architecture) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in ClassWiseSam(arch).named_parameters()]


def _learning(
    arch: Architecture,
    *,
    from_checkpoint: bool,
    frozen_base: bool,
    stage: str | None = None,
    extra_bands: bool = False,
) -> set[str]:
    """The kinds of parameters that learn; each learns as a whole or not at all."""
    names = _names(arch)
    learning = learning_names(
        names,
        arch,
        from_checkpoint=from_checkpoint,
        frozen_base=frozen_base,
        stage=stage,
        extra_bands=extra_bands,
    )
    assert learning <= set(names)
    kinds = {_kind(name) for name in learning}
    assert not kinds & {_kind(name) for name in set(names) - learning}
    return kinds


def test_the_model_of_the_table_has_every_kind_of_parameter() -> None:
    assert {_kind(name) for name in _names(_arch())} == ALL
    assert {_kind(name) for name in _names(_arch("none"))} == ALL - {ADAPTERS}


@pytest.mark.parametrize("adaptor", ["adaptor", "none"])
@pytest.mark.parametrize(
    ("stage", "from_checkpoint", "frozen_base", "learns"),
    [
        # A model from scratch freezes nothing.
        (None, False, False, ALL),
        ("integrate", False, False, INTEGRATE | {BASE}),
        ("adapt", False, False, ADAPT | {BASE}),
        ("finetune", False, False, ALL),
        # One that began with a checkpoint, and has a group 0 to keep.
        ("integrate", True, True, INTEGRATE),
        ("adapt", True, True, ADAPT),
        ("finetune", True, True, ALL - {BASE}),
        # The same with `freeze_base_group: false`.
        ("integrate", True, False, INTEGRATE | {BASE}),
        ("adapt", True, False, ADAPT | {BASE}),
        ("finetune", True, False, ALL),
    ],
)
def test_what_learns_in_each_stage(
    adaptor: str, stage: str | None, from_checkpoint: bool, frozen_base: bool, learns: set[str]
) -> None:
    there = ALL if adaptor == "adaptor" else ALL - {ADAPTERS}
    learning = _learning(_arch(adaptor), from_checkpoint=from_checkpoint, frozen_base=frozen_base, stage=stage)
    assert learning == learns & there


@pytest.mark.parametrize(
    ("adaptor", "frozen_base", "learns"),
    [
        ("none", False, ALL - {ADAPTERS}),
        ("none", True, ALL - {ADAPTERS, BASE}),
        ("adaptor", False, ADAPT | {BASE}),
        ("adaptor", True, ADAPT),
    ],
)
def test_without_stages_adapters_freeze_segment_anythings_own_weights_and_nothing_else_does(
    adaptor: str, frozen_base: bool, learns: set[str]
) -> None:
    assert _learning(_arch(adaptor), from_checkpoint=True, frozen_base=frozen_base) == learns


def test_with_one_group_all_experts_learn_beside_adapters() -> None:
    arch = _arch(groups=1, decoder_experts=0)
    assert _learning(arch, from_checkpoint=True, frozen_base=False) == {BASE, ROUTERS, ADAPTERS, DECODER}


@pytest.mark.parametrize(("bands", "learns"), [(3, False), (4, True), (8, True)])
def test_beside_adapters_the_patch_filters_of_extra_bands_learn(bands: int, learns: bool) -> None:
    learning = _learning(_arch(bands=bands), from_checkpoint=True, frozen_base=True, extra_bands=learns)
    assert learning == (ADAPT | {FILTERS} if learns else ADAPT)


def test_the_stages_follow_each_other_for_their_epochs() -> None:
    stages = [
        StageConfig(name="integrate", epochs=2),
        StageConfig(name="adapt", epochs=1),
        StageConfig(name="finetune", epochs=3, lr_factor=0.2),
    ]
    names = [stage.name if (stage := stage_at(stages, epoch)) else None for epoch in range(1, 8)]
    assert names == ["integrate", "integrate", "adapt", "finetune", "finetune", "finetune", None]


def test_the_same_kind_of_stage_may_come_twice() -> None:
    stages = [StageConfig(name="adapt", epochs=1), StageConfig(name="adapt", epochs=1, lr_factor=0.1)]
    factors = [stage.lr_factor for epoch in (1, 2) if (stage := stage_at(stages, epoch))]
    assert factors == [1.0, 0.1]


def test_without_stages_there_is_none() -> None:
    assert stage_at([], 1) is None
