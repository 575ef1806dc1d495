"""A dry run costs no more than the run that it tells of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.predict import many as archive
from cwsam_cli.predict import plan as layout
from cwsam_cli.predict.many import estimate_many
from cwsam_cli.predict.plan import Model, lay_out
from cwsam_cli.predict.request import MapOptions


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of each pass; no model is built for them."""
    seen: list[int] = []

    def score(images: torch.Tensor) -> None:
        seen.append(len(images))

    def scorer(self: Model, options: MapOptions) -> Callable[[torch.Tensor], None]:
        return score

    monkeypatch.setattr(Model, "scorer", scorer)
    return seen


def test_what_is_timed_is_a_batch_of_the_run(run: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "resident_memory", lambda: 300_000_000)
    scene = str(run.scene)
    model = Model.load(run.checkpoint, MapOptions(device="cpu"))
    least = lay_out(scene, model, MapOptions(device="cpu", batch_size=1)).memory
    ((estimate,), _) = estimate_many([scene], run.checkpoint, MapOptions(device="cpu", max_memory=least))
    assert estimate.batch < MapOptions().batch_size
    assert passes == [1, estimate.batch]
    assert estimate.seconds is not None


def test_a_model_that_must_be_shared_is_neither_built_nor_timed(
    run: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "must_be_shared", lambda trained, device, processes: True)
    ((estimate,), _) = estimate_many([str(run.scene)], run.checkpoint, MapOptions(device="cpu", gpus=2))
    assert estimate.seconds is None and not passes
    assert "not timed, because several processes share the model" in estimate.as_text()


def test_a_checkpoint_is_hashed_once_for_all_processes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    started: list[tuple[Any, ...]] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return "0" * 64

    monkeypatch.setattr(layout, "sha256", counting)
    monkeypatch.setattr(archive, "launch", lambda worker, *arguments, cluster: started.append(arguments))
    archive.predict_many([str(run.scene)], run.checkpoint, tmp_path / "maps", MapOptions(device="cpu", gpus=2))
    ((_, checkpoint, digest, options, *_),) = started
    assert hashed == [run.checkpoint]
    for _ in range(2):
        assert Model.load(checkpoint, options, digest=digest).digest == "0" * 64
    assert hashed == [run.checkpoint]
