"""Class tables of other programs say the same classes, and values of any width lead to codes."""

from pathlib import Path
from typing import Any

import pytest

from cwsam_cli.config.load import dataset_taxonomy, load_label_table, load_taxonomy
from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.errors import ConfigError
from cwsam_cli.taxonomy import IGNORE, LabelTable

Row = tuple[int, str, str]
SMALL = [(11, "Open Water", "#476ba0"), (41, "Deciduous Forest", "#68aa63"), (42, "Wald, immergrün", "#1c6330")]
WIDE = [(-3, "snow", "#ffffff"), (111, "Continuous urban fabric", "#e6004d"), (523, "Sea and ocean", "#e6f2ff")]


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def qgis_raster(rows: list[Row]) -> str:
    entries = "".join(f'<paletteEntry value="{v}" label="{n}" color="{c}" alpha="255"/>' for v, n, c in rows)
    renderer = f'<rasterrenderer type="paletted" band="1"><colorPalette>{entries}</colorPalette></rasterrenderer>'
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n<qgis><pipe>{renderer}</pipe></qgis>"


def qgis_ramp(rows: list[Row]) -> str:
    items = "".join(f'<item value="{v}" label="{n}" color="{c}" alpha="255"/>' for v, n, c in rows)
    shader = f"<rastershader><colorrampshader>{items}</colorrampshader></rastershader>"
    return f"<qgis><pipe><rasterrenderer>{shader}</rasterrenderer></pipe></qgis>"


def qgis_features(rows: list[Row], option: str = "Option name") -> str:
    key = "v" if option.startswith("prop") else "value"
    fills = [f'<{option}="color" {key}="{int(c[1:3], 16)},{int(c[3:5], 16)},{int(c[5:], 16)},255"/>' for *_, c in rows]
    symbols = "".join(f'<symbol name="{i}"><layer>{fill}</layer></symbol>' for i, fill in enumerate(fills))
    categories = "".join(f'<category value="{v}" label="{n}" symbol="{i}"/>' for i, (v, n, _) in enumerate(rows))
    rest = '<category value="" label="all other" symbol="0"/>'
    lists = f"<categories>{categories}{rest}</categories><symbols>{symbols}</symbols>"
    return f"<qgis><renderer-v2>{lists}</renderer-v2></qgis>"


def sidecar(rows: list[Row]) -> str:
    fields = [("VALUE", 0, 5), ("COUNT", 1, 1), ("NAME", 2, 2), ("R", 0, 6), ("G", 0, 7), ("B", 0, 8)]
    heads = "".join(f"<FieldDefn><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>" for n, t, u in fields)
    cells = "".join(
        "<Row>" + "".join(f"<F>{x}</F>" for x in (v, 17, n, *(int(c[i : i + 2], 16) for i in (1, 3, 5)))) + "</Row>"
        for v, n, c in rows
    )
    table = f"<GDALRasterAttributeTable>{heads}{cells}</GDALRasterAttributeTable>"
    return f'<PAMDataset><PAMRasterBand band="1">{table}</PAMRasterBand></PAMDataset>'


def table_in(rows: list[Row], delimiter: str, *, parts: bool = False) -> str:
    heads = ["ID", "Name", *(("Red", "Green", "Blue") if parts else ("Colour",)), "pixels"]
    lines = [
        [str(v), f'"{n}"', *((str(int(c[i : i + 2], 16)) for i in (1, 3, 5)) if parts else (c.upper(),)), ""]
        for v, n, c in rows
    ]
    return "\n".join(delimiter.join(line) for line in [heads, *lines]) + "\n"


FILES: dict[str, Any] = {
    "palette.qml": qgis_raster,
    "ramp.qml": qgis_ramp,
    "features.qml": qgis_features,
    "older features.qml": lambda rows: qgis_features(rows, "prop k"),
    "labels.tif.aux.xml": sidecar,
    "commas.csv": lambda rows: table_in(rows, ","),
    "semicolons.csv": lambda rows: "\ufeff" + table_in(rows, ";", parts=True),
    "tabs.tsv": lambda rows: table_in(rows, "\t"),
}


@pytest.mark.parametrize("name", FILES)
def test_values_that_can_be_codes_are_codes(tmp_path: Path, name: str) -> None:
    table = load_label_table(written(tmp_path, name, FILES[name](SMALL)))
    assert [(entry.code, entry.name, entry.color) for entry in table.taxonomy.classes] == SMALL
    assert table.values == {11: 11, 41: 41, 42: 42}
    assert not table.has_own_values


@pytest.mark.parametrize("name", FILES)
def test_values_that_cannot_be_codes_are_numbered(tmp_path: Path, name: str) -> None:
    table = load_label_table(written(tmp_path, name, FILES[name](WIDE)))
    assert [(entry.name, entry.color) for entry in table.taxonomy.classes] == [row[1:] for row in WIDE]
    assert table.taxonomy.codes == [1, 2, 3]
    assert table.values == {-3: 1, 111: 2, 523: 3}


def test_names_as_values_are_numbered(tmp_path: Path) -> None:
    text = qgis_features([("oak", "", "#00ff00"), ("lake", "Water", "#0000ff")])  # type: ignore[list-item]
    table = load_label_table(written(tmp_path, "trees.qml", text))
    assert table.taxonomy.names == ["oak", "Water"]
    assert table.values == {"oak": 1, "lake": 2}


def test_rows_of_an_attribute_table_count_from_0_and_may_be_without_a_name(tmp_path: Path) -> None:
    heads = "".join(
        f"<FieldDefn><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>"
        for n, t, u in (("Histogram", 1, 1), ("Red", 1, 6), ("Green", 1, 7), ("Blue", 1, 8), ("Land Cover", 2, 0))
    )
    rows = [("9", "0", "0", "0", ""), ("5", "0.28", "0.42", "0.63", "Open Water"), ("4", "1", "0", "0.5", "Developed")]
    cells = "".join("<Row>" + "".join(f"<F>{cell}</F>" for cell in row) + "</Row>" for row in rows)
    table = f"<GDALRasterAttributeTable>{heads}{cells}</GDALRasterAttributeTable>"
    text = f"<PAMDataset><PAMRasterBand>{table}</PAMRasterBand></PAMDataset>"
    classes = load_taxonomy(written(tmp_path, "nlcd.img.aux.xml", text)).classes
    assert [(entry.code, entry.name, entry.color) for entry in classes] == [
        (1, "Open Water", "#476ba1"),
        (2, "Developed", "#ff0080"),
    ]


def test_255_of_another_program_is_no_class(tmp_path: Path) -> None:
    rows = [*SMALL, (255, "no data", "#000000")]
    assert load_taxonomy(written(tmp_path, "p.qml", qgis_raster(rows))).codes == [11, 41, 42]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "kind,name\n1,forest\n", "columns kind, name"),
        ("a.csv", "id,name\n", "holds no classes"),
        ("a.qml", "<qgis></qgis>", "holds no classes"),
        ("a.qml", "<qgis>", "not a class table"),
    ],
)
def test_a_file_without_classes_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_taxonomy(written(tmp_path, name, text))
    assert caught.value.exit_code == 3 and name in str(caught.value)


def test_of_equal_values_the_first_counts_and_rows_without_a_name_are_left_out(tmp_path: Path) -> None:
    text = "id,name\n1,forest\n300,\n1,road\n2,x\n"
    assert load_taxonomy(written(tmp_path, "a.csv", text)).names == ["forest", "x"]


# `from` and `unlabelled`

NLCD = """
classes:
  - {code: 1, name: water, color: "#0000ff", from: [11, 12]}
  - {code: 2, name: developed, color: "#ff0000", from: 21}
  - {code: 4, name: forest, color: "#00ff00", from: [41, 42, -43, 9007199254740993, Wald, "#00ff01"]}
  - {code: 9, name: rock, color: "#808080"}
unlabelled: [0, 1, -9999, 70000, unknown]
"""


def test_several_values_become_one_class(tmp_path: Path) -> None:
    table = load_label_table(written(tmp_path, "nlcd.yaml", NLCD))
    assert table.taxonomy.codes == [1, 2, 4, 9]
    classes = {11: 1, 12: 1, 21: 2, 41: 4, 42: 4, -43: 4, 9007199254740993: 4, "Wald": 4, "#00ff01": 4, 9: 9}
    assert table.values == classes | dict.fromkeys([0, 1, -9999, 70000, "unknown"], IGNORE)
    assert table.taxonomy.unlabelled == (), "labels that tile writes hold codes only"


def test_a_table_without_own_values_may_have_wide_unlabelled_values(tmp_path: Path) -> None:
    text = 'classes: [{code: 1, name: a, color: "#ff0000"}]\nunlabelled: [0, -1, 300]'
    table = load_label_table(written(tmp_path, "t.yaml", text))
    assert table.taxonomy.unlabelled == (0,)
    assert table.values == {1: 1, 0: IGNORE, -1: IGNORE, 300: IGNORE}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("from: [11, 12]", "from: [11, 41]"), "the value 41 is both `water` and `forest`"),
        (("70000", "41"), "the value 41 is both `forest` and unlabelled"),
        (("from: 21", "from: 9"), "the value 9 is both `developed` and `rock`"),
        (("from: 21", "from: 2.5"), r"`classes\.1\.from` .* holds 2.5"),
        (("from: 21", "from: true"), r"`classes\.1\.from` .* holds True"),
        (("from: 21", "from: [[1]]"), r"`classes\.1\.from`"),
        (("70000", "9223372036854775808"), "`unlabelled` .* holds 9223372036854775808"),
        (("from: 21", "form: 21"), r"`classes\.1\.form`"),
    ],
)
def test_values_with_two_meanings_or_none_are_refused(tmp_path: Path, changed: tuple[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_label_table(written(tmp_path, "nlcd.yaml", NLCD.replace(*changed)))


def test_a_dataset_of_codes_takes_no_table_with_own_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`from`") as caught:
        dataset_taxonomy(FolderArgs(classes=written(tmp_path, "nlcd.yaml", NLCD)))
    assert "cwsam tile" in caught.value.hint


def test_shipped_tables_stand_for_themselves() -> None:
    table = load_label_table("zion_nlcd")
    assert table == LabelTable.of(load_taxonomy("zion_nlcd"))
