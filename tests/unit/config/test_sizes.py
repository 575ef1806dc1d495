"""Areas and lengths as people write them."""

import pytest

from cwsam_cli.config.sizes import Size, area, area_text, length
from cwsam_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1ha", Size(10_000, False)),
        ("900m2", Size(900, False)),
        ("900 m²", Size(900, False)),
        ("0.5 km2", Size(500_000, False)),
        ("10px", Size(10, True)),
    ],
)
def test_a_number_with_a_unit_of_area_is_an_area(text: str, value: Size) -> None:
    assert area(text, "--min-area") == value


@pytest.mark.parametrize(("text", "value"), [("15m", Size(15, False)), ("1.5PX", Size(1.5, True))])
def test_a_number_with_a_unit_of_length_is_a_length(text: str, value: Size) -> None:
    assert length(text, "--simplify") == value


@pytest.mark.parametrize("text", ["", "15", "m", "-1m", "0m", "1 mile", "1ha", "1e3m"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="--simplify"):
        length(text, "--simplify")


@pytest.mark.parametrize(
    ("area_m2", "text"),
    [
        (0, "0 m²"),
        (0.0123, "0.0123 m²"),
        (4, "4.00 m²"),
        (900, "900 m²"),
        (1_800, "0.180 ha"),
        (123_456, "12.3 ha"),
        (12_345_678_900, "1,234,568 ha"),
    ],
)
def test_areas_have_a_unit_and_small_ones_digits(area_m2: float, text: str) -> None:
    assert area_text(area_m2) == text
