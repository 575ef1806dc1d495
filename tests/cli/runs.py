"""Runs of `cwsam train` in processes of their own, and what they leave behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
PATIENCE_S = 540.0
"""Only a run that hangs takes as long."""


def start(words: list[str]) -> "subprocess.Popen[str]":
    """Start a command in a session of its own, so that one signal reaches all its processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes prepares to compile what no CPU runs, for 2.6 s
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(words: list[str]) -> str:
    """Run a command to its end, which must be a good one. Returns what it wrote to stderr."""
    process = start(words)
    try:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, stderr
    return stderr


def start_until(words: list[str], event: Callable[[], bool]) -> "subprocess.Popen[str]":
    """Start a command, and wait for an event before its end."""
    process = start(words)
    deadline = time.monotonic() + PATIENCE_S
    while not event():
        assert process.poll() is None, process.communicate()[1]
        if time.monotonic() > deadline:
            kill(process)
            raise TimeoutError(f"{words} hangs")
        time.sleep(0.02)
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a command that still runs, and all its processes, with signal 9."""
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


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
