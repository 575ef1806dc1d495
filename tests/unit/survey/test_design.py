"""A design is read as it was written, or refused with the name of the wrong field."""

import dataclasses
import json
from typing import Any

import pytest

from cwsam_cli.survey.design import Design, MapClass, Stratum

DESIGN = Design(
    map="map.tif",
    map_sha256="0" * 64,
    classes=(MapClass(code=1, name="水体", color="#0000ff"),),
    strata_from="",
    strata=(Stratum(number=1, name="水体", code=1, pixels=100, area_m2=9e4, points=5),),
    allocation="proportional",
    seed=3,
)


def test_a_design_comes_back_as_it_was() -> None:
    assert Design.from_json(DESIGN.as_json()) == DESIGN


def test_a_class_of_another_programs_map_may_have_a_long_name() -> None:
    design = dataclasses.replace(DESIGN, classes=(MapClass(code=1, name="w" * 150, color="#0000ff"),))
    assert Design.from_json(design.as_json()) == design


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version is 2"),
        ({"seed": "three"}, "seed"),
        ({"block_pixels": 0}, "block_pixels"),
        ({"classes": [{"code": 1, "name": "bell\x07", "color": "#0000ff"}]}, "cannot be printed"),
        ({"classes": [{"code": 1, "name": "water", "color": "url(x)"}]}, "color"),
        ({"strata": 3}, "strata"),
        ({"strata": [{"number": 1}]}, "strata.0"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Design.from_json(json.dumps(json.loads(DESIGN.as_json()) | change))


@pytest.mark.parametrize("field", ["pixels", "points", "area_m2", "blocks"])
def test_a_stratum_holds_nothing_below_zero(field: str) -> None:
    raw = json.loads(DESIGN.as_json())
    raw["strata"][0][field] = -1
    with pytest.raises(ValueError, match=f"{field} of stratum 1"):
        Design.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "{"])
def test_a_text_that_is_no_design_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Design.from_json(text)
