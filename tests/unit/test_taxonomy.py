"""Codes and indices are two things, and a class table that contradicts itself is refused."""

import pytest

from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, default_color, from_names


def _class(code: int, name: str, color: str = "#00ff00") -> LandCoverClass:
    return LandCoverClass(code=code, name=name, color=color)


def _table() -> Taxonomy:
    return Taxonomy(classes=(_class(40, "水体", "#0000ff"), _class(7, "林地"), _class(0, "背景"), _class(254, "冰川")))


def test_codes_lead_to_indices_and_back() -> None:
    table = _table()
    forth, back = table.code_to_index(), table.index_to_code()
    assert [forth[code] for code in (40, 7, 0, 254)] == [0, 1, 2, 3]
    assert [back[index] for index in range(4)] == [40, 7, 0, 254]
    assert [back[forth[code]] for code in table.codes] == table.codes


def test_codes_that_are_no_class_lead_to_ignore() -> None:
    forth = _table().code_to_index()
    assert len(forth) == 256
    assert {forth[code] for code in range(256) if code not in (40, 7, 0, 254)} == {IGNORE}


def test_indices_that_are_no_class_lead_to_ignore() -> None:
    back = _table().index_to_code()
    assert len(back) == 256
    assert set(back[4:]) == {IGNORE}


def test_ignored_background_makes_only_code_0_unlabelled() -> None:
    plain, ignoring = _table().code_to_index(), _table().code_to_index(ignore_background=True)
    assert plain[0] == 2
    assert ignoring[0] == IGNORE
    assert plain[1:] == ignoring[1:]


def test_ignoring_background_leaves_class_of_index_0_alone() -> None:
    assert _table().code_to_index(ignore_background=True)[40] == 0


def test_a_full_table_of_255_classes_maps_every_code() -> None:
    table = from_names([f"类别{number}" for number in range(255)])
    assert table.code_to_index() == bytes(range(256))
    assert table.index_to_code() == bytes(range(256))


def test_names_codes_and_length_follow_the_table() -> None:
    table = _table()
    assert (len(table), table.names, table.codes) == (4, ["水体", "林地", "背景", "冰川"], [40, 7, 0, 254])


def test_a_color_is_red_green_blue() -> None:
    assert _class(1, "road", "#0a80FF").rgb == (10, 128, 255)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ((), "at least one class"),
        ((_class(3, "水体"), _class(3, "林地")), "code 3"),
        ((_class(1, "水体"), _class(2, "水体")), "name 水体"),
        ((_class(255, "水体"),), "code 255 of `水体`"),
        ((_class(-1, "水体"),), "code -1 of `水体`"),
        ((_class(1, "  "),), "code 1 has no name"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(classes: tuple[LandCoverClass, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Taxonomy(classes=classes)


@pytest.mark.parametrize("color", ["", "blue", "0000ff", "#00f", "#0000fg", "#0000ff0", "#0000ff80", "##000ff"])
def test_a_color_of_another_form_is_refused(color: str) -> None:
    with pytest.raises(ValueError, match="of `水体` is not of the form #rrggbb"):
        Taxonomy(classes=(_class(1, "水体", color),))


def test_a_code_that_is_a_class_and_unlabelled_is_refused() -> None:
    with pytest.raises(ValueError, match="code 7 is both a class and unlabelled"):
        Taxonomy(classes=(_class(7, "林地"),), unlabelled=(0, 7))


def test_unlabelled_codes_lead_to_ignore() -> None:
    assert Taxonomy(classes=(_class(7, "林地"),), unlabelled=(0,)).code_to_index()[0] == IGNORE


def test_same_classes_means_codes_and_names_in_order_whatever_the_color() -> None:
    table = Taxonomy(classes=(_class(1, "水体"), _class(2, "林地")))
    recolored = Taxonomy(classes=(_class(1, "水体", "#111111"), _class(2, "林地", "#222222")), name="another")
    assert table.same_classes(recolored)


@pytest.mark.parametrize(
    "other",
    [
        (_class(2, "林地"), _class(1, "水体")),
        (_class(1, "水体"), _class(3, "林地")),
        (_class(1, "水体"), _class(2, "草地")),
        (_class(1, "水体"),),
        (_class(1, "水体"), _class(2, "林地"), _class(3, "草地")),
    ],
)
def test_another_order_code_name_or_number_is_not_the_same(other: tuple[LandCoverClass, ...]) -> None:
    table = Taxonomy(classes=(_class(1, "水体"), _class(2, "林地")))
    assert not table.same_classes(Taxonomy(classes=other))


def test_bare_names_count_up_from_0_or_from_the_first_code() -> None:
    assert from_names(["水体", "林地"]).codes == [0, 1]
    assert from_names(["水体", "林地"], first=5).codes == [5, 6]
    assert from_names(["水体", "林地"]).names == ["水体", "林地"]


def test_a_palette_colors_the_names() -> None:
    table = from_names(["水体", "林地"], [[0, 0, 255], [1, 2, 3]])
    assert [entry.color for entry in table.classes] == ["#0000ff", "#010203"]


@pytest.mark.parametrize(
    ("palette", "told"),
    [
        ([[0, 0, 255]], "1 colours for 2 classes"),
        ([[0, 0, 256], [0, 0, 0]], "not of the form"),
        ([[0, 0, -1], [0, 0, 0]], "not of the form"),
    ],
)
def test_a_palette_that_does_not_fit_is_refused(palette: list[list[int]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        from_names(["水体", "林地"], palette)


def test_default_colors_of_a_long_table_all_differ() -> None:
    assert len({default_color(index) for index in range(255)}) == 255


@pytest.mark.parametrize(("first", "second"), [("Forest", "forest"), ("bare soil", "bare  soil"), ("Wald", "Wald ")])
def test_names_that_differ_in_capitals_or_spaces_only_are_refused(first: str, second: str) -> None:
    with pytest.raises(ValueError, match="differ in capitals or spaces only"):
        Taxonomy(classes=(_class(1, first), _class(2, second)))


@pytest.mark.parametrize(
    "name",
    [
        "line\nbreak",
        "bell\x07",
        "lone \ud800 surrogate",
        "nul\x00",
        "sep\u2028arator",
        "\u202egnp.exe",
        "\u2066a",
        "no\uffff",
    ],
)
def test_names_that_cannot_be_printed_are_refused_in_words_that_can(name: str) -> None:
    with pytest.raises(ValueError, match="code 3 has characters that cannot be printed") as caught:
        Taxonomy(classes=(_class(3, name),))
    assert str(caught.value).isprintable()


def test_names_of_all_scripts_are_allowed() -> None:
    names = ["خاک‌رس", "क्षेत्र", "👩‍🌾 field", "שדה", "= SUM(1)", "<b>&amp;", "a/b\\c"]
    assert Taxonomy(classes=tuple(_class(code, name) for code, name in enumerate(names))).names == names


def test_a_name_has_at_most_100_characters() -> None:
    assert Taxonomy(classes=(_class(3, "林" * 100),)).names == ["林" * 100]
    with pytest.raises(ValueError, match="longer than 100 characters"):
        Taxonomy(classes=(_class(3, "林" * 101),))


def test_a_code_that_no_class_can_have_may_be_declared_as_nodata_but_not_as_unlabelled() -> None:
    with pytest.raises(ValueError, match=r"may hold 0-255, not -1; .* gdal_translate -a_nodata -1 "):
        Taxonomy(classes=(_class(3, "a"),), unlabelled=(-1,))
