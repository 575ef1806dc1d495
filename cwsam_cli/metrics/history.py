"""Read the figures that a training run records in `history.jsonl`."""

import json
from pathlib import Path

HISTORY = "history.jsonl"
"""The file in a run's folder, beside its checkpoints."""


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the figures of a run, one mapping per epoch. An incomplete last line is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
