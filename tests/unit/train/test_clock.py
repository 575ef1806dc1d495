"""When a run saves, and when it ends in time."""

import pytest

from cwsam_cli.config.schema import TrainingSettings
from cwsam_cli.train import clock
from cwsam_cli.train.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests set."""
    time = [1000.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    return time


def test_without_settings_nothing_is_ever_due(now: list[float]) -> None:
    run = Clock(TrainingSettings())
    now[0] += 1e9
    assert not run.is_save_due
    assert not run.is_too_late_for("step", reserve_s=1e9)


def test_a_save_is_due_once_its_time_has_passed_since_the_last(now: list[float]) -> None:
    run = Clock(TrainingSettings(save_every="10min"))
    now[0] += 599
    assert not run.is_save_due
    now[0] += 1
    assert run.is_save_due
    run.restart_interval()
    assert not run.is_save_due


def test_a_save_is_due_after_so_many_steps(now: list[float]) -> None:
    run = Clock(TrainingSettings(save_every="3 steps"))
    for due in (False, False, True):
        run.count_step()
        assert run.is_save_due == due
    run.restart_interval()
    assert not run.is_save_due


def test_time_is_up_when_the_longest_step_and_the_reserve_would_not_fit(now: list[float]) -> None:
    run = Clock(TrainingSettings(time_limit="1000s"))
    for took in (20.0, 50.0, 10.0):
        with run.timing("step"):
            now[0] += took
    now[0] = 1000 + 990 - 50 - 30  # one per cent is left over
    assert not run.is_too_late_for("step", reserve_s=30)
    now[0] += 0.5
    assert run.is_too_late_for("step", reserve_s=30)
    assert not run.is_too_late_for("validation", reserve_s=30)  # none was measured yet
