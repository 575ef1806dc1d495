"""Initialise a model from weights of Segment Anything or ClassWise-SAM-Adapter, or from a checkpoint of cwsam.

No tensor is dropped silently. Every tensor of the model and of the file has a row in the report:
loaded, resized, remapped, replicated into experts, drawn at random, missing or unused.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cwsam_cli.config.schema import UpcycleConfig
from cwsam_cli.errors import CheckpointError
from cwsam_cli.model.growth import ROUTER_STD, Weights, equal_bases, grow, is_mixture, shrink
from cwsam_cli.model.names import describe_unused, find_origin, is_class_wise
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture

TOKEN_NOISE = 0.5
"""Noise on class tokens that start from a mask token, as a share of the mask tokens' standard deviation."""


How = Literal["loaded", "resized", "remapped", "replicated", "drawn", "missing", "unused"]
"""How a tensor of a model was made, or that a tensor of the checkpoint was not used."""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """Report on one tensor."""

    name: str
    how: How
    note: str = ""
    """Details, e.g. the tensor it was made from."""


@dataclass(slots=True)
class LoadReport:
    """Report on every tensor of the model and of the checkpoint."""

    rows: list[ReportRow] = field(default_factory=list)
    loaded_share: float = 0.0
    """Share of the model's values that come from the checkpoint, 0 to 1."""
    grown: bool = False
    """The encoder's experts were made from a smaller model."""
    remarks: list[str] = field(default_factory=list)
    """Warnings for the user."""

    def summary(self) -> str:
        """Summarise the report in one line for the log."""
        counts = Counter(row.how for row in self.rows)
        parts = ", ".join(f"{count} {how}" for how, count in counts.items())
        return f"weights: {parts}; {100 * self.loaded_share:.1f} % of the model's values come from the checkpoint"


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """Weights that a model starts from. Files of Segment Anything and ClassWise-SAM-Adapter have weights only."""

    weights: Weights
    band_names: Sequence[str] = ()
    """Bands of the images; empty for files with weights only, whose bands are red, green and blue."""
    class_names: Sequence[str] = ()
    architecture: Architecture | None = None
    grown: bool = False
    """Group 0 of the experts comes from a smaller model."""


def rgb_bands(band_names: Sequence[str]) -> dict[int, int]:
    """Find the red, green and blue bands by name; without such names, the first three bands.

    Returns:
        Colour index (0 red, 1 green, 2 blue) by band index. Fewer than three bands without such
        names give an empty result.
    """
    words = [name.lower().replace("_", " ").split() for name in band_names]
    found = {}
    for index, color in enumerate(("red", "green", "blue")):
        named = [band for band, own in enumerate(words) if color in own and "edge" not in own]
        if named:
            found[named[0]] = index
    if not found and len(band_names) >= 3:
        return {0: 0, 1: 1, 2: 2}
    return found


def load_pretrained(
    arch: Architecture,
    source: PretrainedWeights,
    *,
    band_names: Sequence[str],
    class_names: Sequence[str],
    upcycle: UpcycleConfig,
    seed: int = 0,
) -> tuple[ClassWiseSam, LoadReport]:
    """Build a model from pretrained weights; see `make_weights` for the arguments.

    The model is built on the meta device and takes over the tensors, so no weight is in memory twice.

    Returns:
        The model, and the report on every tensor.
    """
    report = LoadReport()
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    made = make_weights(
        arch, source, report, band_names=band_names, class_names=class_names, upcycle=upcycle, seed=seed
    )
    model.load_state_dict(dict(made), assign=True)
    return model, report


def make_weights(
    arch: Architecture,
    source: PretrainedWeights,
    report: LoadReport,
    *,
    band_names: Sequence[str],
    class_names: Sequence[str],
    upcycle: UpcycleConfig,
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model one by one, from pretrained weights where possible.

    Args:
        arch: architecture of the model.
        source: pretrained weights. Tensors that are missing there are initialised as in a new model.
        report: report that is filled meanwhile.
        band_names: bands of the images.
        class_names: classes of the class table.
        upcycle: how new experts are made.
        seed: seed of noise and new weights.

    Yields:
        Name and tensor, in the order of `named_tensors`.

    Raises:
        CheckpointError: a tensor has the wrong shape, or the model uses less than half of the checkpoint.
    """
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    torch.manual_seed(seed)
    made_values = all_values = 0
    used: set[str] = set()
    for prefix, module in model.named_modules():
        fresh: Weights = {}
        for name, target in _own(prefix, module):
            all_values += target.numel()
            made = _make(name, target, arch, source, band_names, class_names, upcycle, seed, report)
            if made is None:
                report.rows.append(ReportRow(name, "missing", "initialised as in a new model"))
                fresh = fresh or _fresh(module, prefix)
                yield name, fresh[name.rpartition(".")[2]]
                continue
            value, origin, how, note = made
            if origin:
                used.add(origin)
                made_values += target.numel()
            report.rows.append(ReportRow(name, how, note))
            yield name, value.to(target.dtype)
    unused = [name for name in source.weights if name not in used]
    report.rows += [ReportRow(name, "unused") for name in unused]
    if is_class_wise(source.weights):
        report.remarks.append(describe_unused(unused))
        parts = {"adapters": arch.adaptor, "frequency prompt": arch.input_type}
        lacking = " and no ".join(part for part, kind in parts.items() if kind == "none")
        if lacking:
            report.remarks.append(
                f"the model has no {lacking}, so its encoder differs from that of ClassWise-SAM-Adapter; "
                'give it both: --set "model.args.encoder_mode={adaptor: adaptor, input_type: fft}"'
            )
    report.loaded_share = made_values / all_values
    if not source.weights:
        return
    share = sum(tensor.numel() for name, tensor in source.weights.items() if name in used) / sum(
        tensor.numel() for tensor in source.weights.values()
    )
    if share < 0.5:
        raise CheckpointError(
            f"the model can use only {100 * share:.0f} % of the checkpoint",
            hint="set model.name to the model of the checkpoint: its encoder (ViT-B, L or H) must match",
        )


def named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield weights and buffers by name, in the order of `make_weights`."""
    for prefix, module in model.named_modules():
        yield from _own(prefix, module)


def _own(prefix: str, module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return [(f"{prefix}.{name}".lstrip("."), tensor) for name, tensor in own]


def _fresh(module: torch.nn.Module, prefix: str) -> Weights:
    """Initialise a module's own tensors as in a new model."""
    real = {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        module.to_empty(device="cpu", recurse=False)
        reset()
        real = {name: tensor.detach() for name, tensor in module.named_parameters(recurse=False)}
        if prefix.endswith((".up", ".shared")):  # adapters and prompts start at 0
            real = {name: torch.zeros_like(tensor) for name, tensor in real.items()}
    for name, tensor in real.items():
        if ".mlp.routers." in prefix or prefix.endswith(".mlp.group_router"):
            torch.nn.init.normal_(tensor, std=ROUTER_STD if name == "weight" else 0.0)
        elif name == "pos_embed":
            torch.nn.init.trunc_normal_(tensor, std=0.02)
        elif name == "positional_encoding_gaussian_matrix":
            torch.nn.init.normal_(tensor)
        elif name == "weight" and reset is None:
            torch.nn.init.ones_(tensor)  # LayerNorm2d
    return real


def _make(
    name: str,
    target: Tensor,
    arch: Architecture,
    source: PretrainedWeights,
    band_names: Sequence[str],
    class_names: Sequence[str],
    upcycle: UpcycleConfig,
    seed: int,
    report: LoadReport,
) -> tuple[Tensor, str, How, str] | None:
    """Make a tensor of the model. Returns its value, the checkpoint's name of it, how it was made, and a note."""
    if not source.weights:
        return None
    if is_mixture(name):
        groups = 1 if name.startswith("mask_decoder") else arch.moe_num_expert_groups
        grown = grow(name, target.shape, source.weights, groups, upcycle, seed)
        if grown is None:
            return None
        if grown.note == "loaded":
            return grown.value, grown.source, "loaded", ""
        report.grown |= name.startswith("image_encoder.")
        if name.endswith(".groups.1.lin1_weight") and equal_bases(source.weights, name.split(".groups.")[0]):
            apart = upcycle.noise > 0 and "noise" in upcycle.method
            report.remarks.append(
                f"{name.split('.groups.')[0]}: all base experts are equal, so "
                + ("new ones differ only by noise" if apart else "the new ones are equal too")
            )
        note = f"from {grown.source}: {grown.note}" if grown.source else grown.note
        return grown.value, grown.source, "replicated" if grown.source else "drawn", note
    shrunk = None if name in source.weights else shrink(name, source.weights)
    if shrunk is not None:
        if name.endswith(".lin1.weight"):
            report.remarks.append(
                f"{name.removesuffix('.lin1.weight')}: the checkpoint has experts here, but the model has none. "
                "The MLP starts as a copy of expert 0, so the output changes."
            )
        return shrunk.value, shrunk.source, "remapped", f"from {shrunk.source}: {shrunk.note}"
    origin = find_origin(name, source.weights)
    value = source.weights.get(origin)
    if value is None:
        return None
    if name.endswith(("patch_embed.proj.weight", "detail_stem.reduce.weight", "prompt.spectrum.weight")):
        return _bands(value, target, origin, source, band_names, report)
    if name == "mask_decoder.class_tokens.weight":
        return _tokens(value, origin, source, class_names, seed, report)
    if value.shape == target.shape:
        return value, origin, "loaded" if origin == name else "remapped", "" if origin == name else f"from {origin}"
    note = f"{tuple(value.shape)} to {tuple(target.shape)}"
    if name.endswith("pos_embed") and value.shape[-1] == target.shape[-1]:
        grid = F.interpolate(
            value.float().permute(0, 3, 1, 2), target.shape[1:3], mode="bicubic", align_corners=False, antialias=True
        )
        return grid.permute(0, 2, 3, 1).contiguous(), origin, "resized", note
    if name.endswith(("rel_pos_h", "rel_pos_w")) and value.shape[-1] == target.shape[-1]:
        table = F.interpolate(value.float().T[None], len(target), mode="linear", align_corners=False)[0]
        return table.T.contiguous(), origin, "resized", note
    raise _misfit(origin, value, target)


def _misfit(origin: str, value: Tensor, target: Tensor) -> CheckpointError:
    return CheckpointError(
        f"`{origin}` is {tuple(value.shape)} in the checkpoint, but the model needs {tuple(target.shape)}",
        hint="set model.name to the model of the checkpoint: its encoder (ViT-B, L or H) must match",
    )


def _bands(
    value: Tensor, target: Tensor, origin: str, source: PretrainedWeights, band_names: Sequence[str], report: LoadReport
) -> tuple[Tensor, str, How, str]:
    """Assign filters (out, bands, h, w) to the images' bands. A band without filters gets the mean of all filters."""
    if (len(value), value.shape[2:]) != (len(target), target.shape[2:]):
        raise _misfit(origin, value, target)
    theirs = list(source.band_names) or ["red", "green", "blue"]
    if list(band_names) == theirs:
        return value, origin, "loaded", ""
    if source.band_names and set(band_names) & set(theirs):
        taken = {i: theirs.index(name) for i, name in enumerate(band_names) if name in theirs}
    elif source.band_names:
        report.remarks.append("no band name matches the checkpoint, so bands are matched by their position")
        taken = {i: i for i in range(min(len(band_names), len(theirs)))}
    else:
        taken = rgb_bands(band_names)
    mean = value.float().mean(dim=1)
    filters = torch.stack([value[:, taken[i]].float() if i in taken else mean for i in range(len(band_names))], dim=1)
    same = [band_names[i] for i in taken]
    return filters, origin, "remapped", f"bands {', '.join(same)} keep their filters, others get the mean"


def _tokens(
    value: Tensor, origin: str, source: PretrainedWeights, class_names: Sequence[str], seed: int, report: LoadReport
) -> tuple[Tensor, str, How, str]:
    """Match class tokens by class name. From Segment Anything, every class gets a mask token with noise.

    Without noise all logits would be equal, and with a frozen decoder no weight would get a gradient.
    """
    if not source.class_names:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(class_names), value.shape[1], generator=generator) * value.float().std()
        tokens = value[:1].float() + TOKEN_NOISE * noise
        return tokens, origin, "remapped", f"from {origin}, row 0, to every class, with noise"
    theirs = list(source.class_names)
    if theirs == list(class_names):
        return value, origin, "loaded", ""
    mean = value.float().mean(dim=0)
    rows = [value[theirs.index(name)].float() if name in theirs else mean for name in class_names]
    known = [name for name in class_names if name in theirs]
    new = [name for name in class_names if name not in theirs]
    report.remarks.append(
        f"class tokens: {len(known)} matched by name; from the mean token: {', '.join(new) or 'none'}; "
        f"not used: {', '.join(name for name in theirs if name not in class_names) or 'none'}"
    )
    return torch.stack(rows), origin, "remapped", "matched by class name"
