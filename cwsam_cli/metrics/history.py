"""Read the figures that a training run records in `history.jsonl`."""

import json
from pathlib import Path

HISTORY = "history.jsonl"
"""The file in a run's folder, beside its checkpoints."""


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the figures of a run, one mapping per epoch. Lines from the first damaged one on are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or "epoch" not in row or not all(isinstance(n, int | float) for n in row.values()):
            break
        rows.append(row)
    return rows
