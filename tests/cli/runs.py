"""What a run of `cwsam train` left behind."""

import json
from pathlib import Path
from typing import Any

import torch


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def same_weights(a: Path, b: Path) -> bool:
    first, second = load(a)["weights"], load(b)["weights"]
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text("utf-8").splitlines()]


def progress(folder: Path) -> dict[str, Any]:
    """How far the run's complete state is."""
    return dict(json.loads((folder / "last" / "state.json").read_text("utf-8"))["progress"])


def options(*settings: str) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


def weights(checkpoint: Any) -> Any:
    return [value for value in checkpoint["weights"].values() if value.is_floating_point()]


EXPERTS = (
    "moe_num_expert_groups=2",
    "moe_experts_per_group=2",
    "moe_k_groups=1",
    "moe_k_experts=1",
    "moe_noisy_gating=false",
    "moe_start_layer_index=0",
)
