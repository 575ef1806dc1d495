"""A model that is shared out scores as the whole one does, however unequal the shares of the work."""

import numpy as np
import pytest
import torch

from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.launch import launch
from cwsam_cli.errors import MachineError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.predict import memory
from cwsam_cli.predict.scoring.scorer import Scorer
from tests.distributed import scoring

CPU = torch.device("cpu")


@pytest.mark.parametrize("expert_groups", [0, 2])
def test_two_processes_that_share_a_model_score_as_one_that_has_it(expert_groups: int) -> None:
    torch.manual_seed(0)
    model = ClassWiseSam(scoring.small()).eval()
    told = launch(
        scoring.score_uneven_shares,
        dict(model.state_dict()),
        expert_groups,
        cluster=Cluster(processes=2, device="cpu", timeout_s=60),
    )
    assert told is not None
    scores, held = told
    assert 0.45 < held < 0.6
    alone = Scorer(model, CPU, expert_groups=expert_groups)
    for images, raw in zip(scoring.batches(), scores, strict=True):
        expected = alone(images).numpy()
        np.testing.assert_allclose(
            np.frombuffer(raw, np.float32).reshape(expected.shape), expected, rtol=1e-5, atol=1e-6
        )


def test_a_model_that_fits_nowhere_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = scoring.trained(dict(ClassWiseSam(scoring.small()).state_dict()))
    assert not memory.must_be_shared(checkpoint, CPU, 1)
    monkeypatch.setattr(memory, "physical_memory", lambda: 200_000)
    with pytest.raises(MachineError, match=r"B parameters, .* of weights, .* for a window; cpu has 200 kB") as caught:
        memory.must_be_shared(checkpoint, CPU, 4)  # the processes of one machine's CPU have one memory
    assert caught.value.exit_code == 6 and "--gpus" in caught.value.hint


@pytest.mark.parametrize(("processes", "shared"), [(8, True), (100, True)])
def test_gpus_that_together_hold_a_model_share_it(
    monkeypatch: pytest.MonkeyPatch, processes: int, shared: bool
) -> None:
    checkpoint = scoring.trained(dict(ClassWiseSam(scoring.small()).state_dict()))
    pass_ = memory.activation_bytes(checkpoint.architecture)
    room = int((memory.weight_bytes(checkpoint) / 4 + pass_) / 0.94)

    class Properties:
        total_memory = room

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert memory.must_be_shared(checkpoint, torch.device("cuda"), processes) is shared
    with pytest.raises(MachineError):
        memory.must_be_shared(checkpoint, torch.device("cuda"), 2)
