"""Decide which weights learn in which stage of a run."""

from collections.abc import Iterable, Sequence

from cwsam_cli.config.schema import StageConfig
from cwsam_cli.model.growth import is_mixture
from cwsam_cli.model.variants import Architecture

_ADAPTERS = (".adapter_attn.", ".adapter_mlp.", "image_encoder.prompt.")


def learning_names(
    names: Iterable[str],
    arch: Architecture,
    *,
    from_checkpoint: bool,
    frozen_base: bool,
    stage: str | None = None,
    extra_bands: bool = False,
) -> set[str]:
    """Select the parameters that learn.

    Args:
        names: names of all parameters.
        arch: architecture of the model. With adapters, Segment Anything's own weights are frozen.
        from_checkpoint: whether the run starts from a checkpoint. A new model freezes nothing.
        frozen_base: whether group 0 of the encoder's experts is frozen.
        extra_bands: whether there are bands other than red, green and blue. Their filters learn.
        stage: `integrate`, `adapt` or `finetune`. Without a stage, everything learns that adapters do not freeze.

    Returns:
        Names of the parameters that learn.
    """
    learning = set()
    for name in names:
        if frozen_base and _is_base(name):
            continue
        decoder = name.startswith("mask_decoder.")
        integrates = is_mixture(name) and not (decoder and ".mlp.groups." in name)
        adapts = integrates or decoder or is_adapter(name)
        filters = extra_bands and name == "image_encoder.patch_embed.proj.weight"
        everything = stage == "finetune" or not (from_checkpoint and arch.adaptor == "adaptor")
        if stage == "integrate":
            learns = integrates
        elif stage == "adapt":
            learns = adapts
        else:
            learns = everything or adapts or filters
        if learns:
            learning.add(name)
    return learning


def stage_at(stages: Sequence[StageConfig], epoch: int) -> StageConfig | None:
    """Return the stage of an epoch, counted from 1; None without stages."""
    for stage in stages:
        if epoch <= stage.epochs:
            return stage
        epoch -= stage.epochs
    return None


def is_adapter(name: str) -> bool:
    """Check whether a weight belongs to an adapter or the frequency prompt."""
    return any(part in name for part in _ADAPTERS)


def _is_base(name: str) -> bool:
    return name.startswith("image_encoder.") and ".mlp.groups.0." in name
