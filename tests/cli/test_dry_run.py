"""A dry run costs no more than the run that it tells of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.predict import many
from cwsam_cli.predict.many import estimate_many
from cwsam_cli.predict.planning import make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring import network
from cwsam_cli.predict.scoring.network import Model
from cwsam_cli.predict.workers import parts


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of each pass; no model is built for them."""
    seen: list[int] = []

    def score(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images

    def make_scorer(self: Model, request: MapRequest) -> Callable[[torch.Tensor], torch.Tensor]:
        return score

    monkeypatch.setattr(Model, "scorer", make_scorer)
    return seen


def request_of(run: Any, **options: Any) -> MapRequest:
    return MapRequest(scene=str(run.scene), checkpoint=run.checkpoint, device="cpu", **options)


def test_what_is_timed_is_a_batch_of_the_run(run: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "resident_memory", lambda: 300_000_000)
    request = request_of(run, batch_size=1)
    least = make_plan(request, Model.open(request)).memory
    limited = request_of(run, max_memory=least)
    ((estimate,), _) = estimate_many(limited, [str(run.scene)])
    assert estimate.batch < limited.batch_size
    assert passes == [1, estimate.batch]
    assert estimate.seconds is not None


def test_a_model_that_must_be_shared_is_neither_built_nor_timed(
    run: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "must_be_shared", lambda trained, device, processes: True)
    ((estimate,), _) = estimate_many(request_of(run, gpus=2), [str(run.scene)])
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

    monkeypatch.setattr(many, "sha256", counting)
    monkeypatch.setattr(network, "sha256", counting)
    monkeypatch.setattr(parts, "must_be_shared", lambda *_: True)
    monkeypatch.setattr(many, "launch", lambda worker, *arguments, cluster: started.append(arguments))
    many.predict_many(request_of(run, gpus=2, output=tmp_path / "maps"), [str(run.scene)])
    ((common, _, digest),) = started
    assert hashed == [run.checkpoint]
    for _ in range(2):
        assert Model.open(common, digest=digest).digest == "0" * 64
    assert hashed == [run.checkpoint]
