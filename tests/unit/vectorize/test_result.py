"""The last lines of `cwsam vectorize`."""

from pathlib import Path

from cwsam_cli.vectorize.result import CheckResult, ClassArea, VectorizeResult, format_result

KIND = "projected, in the map's CRS"


def result(*classes: ClassArea, check: CheckResult | None = None) -> VectorizeResult:
    areas = {entry.name: entry.area_ha * 1e4 for entry in classes}
    return VectorizeResult(Path("p.gpkg"), 7, KIND, KIND, areas, classes, check)


def test_classes_are_told_with_hectares_and_shares() -> None:
    told = format_result(result(ClassArea(1, "water", 1234.5, 0.25), ClassArea(200, "a longer name", 3703.5, 0.75)))
    head, water, other, last = told.splitlines()
    assert head.split() == ["code", "class", "ha", "share"]
    assert water.split() == ["1", "water", "1,234.50", "25.0", "%"]
    assert other.split() == ["200", "a", "longer", "name", "3,703.50", "75.0", "%"]
    assert len({len(head), len(water), len(other)}) == 1
    assert last == f"p.gpkg: 7 polygons, 4,938 ha ({KIND}; lengths too)"


def test_a_layer_without_polygons_has_no_table() -> None:
    assert format_result(result()).startswith("p.gpkg: 7 polygons, 0 m²")


def test_the_check_is_told_last() -> None:
    told = format_result(result(ClassArea(1, "water", 1, 1), check=CheckResult(10, 0, 0, 0.05)))
    assert told.splitlines()[-1].startswith("checked: 10 edges, 0 without their opposite")
    assert told.endswith("class areas off by 5 % at most")
