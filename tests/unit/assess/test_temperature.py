"""The temperature is the one that makes the labels most likely."""

import math

import pytest
import torch
from torch import Tensor

from cwsam_cli.assess.temperature import fit_temperature


def drawn(temperature: float, classes: int = 5, count: int = 40_000) -> tuple[Tensor, Tensor]:
    """Scores of a model that is too sure by this factor, and labels drawn from what it should have said."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0].to(torch.uint8)
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 9.0])
def test_the_factor_by_which_a_model_is_too_sure_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_makes_the_labels_more_likely() -> None:
    logits, labels = drawn(1.7, count=3000)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels.long()))

    found = fit_temperature(logits, labels)
    assert all(loss(found) <= loss(found * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_a_hidden_class_does_not_disturb_the_fit() -> None:
    logits, labels = drawn(2.0)
    hidden = torch.full((len(logits), 1), -math.inf)
    assert fit_temperature(torch.cat([logits, hidden], dim=1), labels) == pytest.approx(fit_temperature(logits, labels))


def test_a_model_that_is_always_right_or_knows_nothing_has_a_finite_temperature() -> None:
    logits, _ = drawn(1.0, count=500)
    assert 0.05 <= fit_temperature(logits, logits.argmax(dim=1)) < 0.1
    assert 10 < fit_temperature(logits, logits.argmin(dim=1)) <= 20
    assert math.isfinite(fit_temperature(torch.zeros(50, 3), torch.zeros(50)))
