"""The item has what STAC 1.1 and the MLM extension require."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cwsam_cli.export.ground import TrainingGround
from cwsam_cli.export.stac import Artifact, make_item
from tests.unit.export.test_network import checkpoint

GROUND = TrainingGround(tiles={"train": 3}, bounds=(-79.0, 35.5, -78.5, 36.0), shares=(0.1, 0.2, 0.3, 0.4))


def item(ending: str = ".onnx", ground: TrainingGround = GROUND) -> dict[str, Any]:
    artifact = Artifact(
        href=f"models/m{ending}", ending=ending, file={"file:size": 7, "file:checksum": "1220" + "ab" * 32}
    )
    made: dict[str, Any] = json.loads(json.dumps(make_item("my model", artifact, checkpoint(), ground)))
    return made


def test_the_item_has_the_required_fields_of_stac_1_1() -> None:
    raw = item()
    assert {"type", "stac_version", "id", "geometry", "bbox", "properties", "links", "assets"} <= raw.keys()
    assert (raw["type"], raw["stac_version"], raw["id"]) == ("Feature", "1.1.0", "my-model")
    assert raw["bbox"] == [-79.0, 35.5, -78.5, 36.0]
    (ring,) = raw["geometry"]["coordinates"]
    assert ring[0] == ring[-1] and {tuple(corner) for corner in ring} == {
        (x, y) for x in (-79.0, -78.5) for y in (35.5, 36.0)
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", raw["properties"]["datetime"])


def test_without_bounds_there_is_neither_geometry_nor_bbox() -> None:
    raw = item(ground=TrainingGround(tiles={}))
    assert raw["geometry"] is None and "bbox" not in raw


@pytest.mark.parametrize(
    ("ending", "scaling"),
    [
        (".onnx", [{"type": "scale", "value": 255}]),
        (".pt2", None),
        (".safetensors", [{"type": "z-score", "mean": mean, "stddev": 20 + mean} for mean in (90, 80, 70)]),
    ],
)
def test_inputs_name_their_bands_shape_and_scaling(ending: str, scaling: Any) -> None:
    properties = item(ending)["properties"]
    (taken,) = properties["mlm:input"]
    assert taken["bands"] == ["r", "g", "b"] == [band["name"] for band in properties["bands"]]
    assert properties["bands"] == item(ending)["assets"]["model"]["bands"]  # both, or STAC's or MLM's schema fails
    assert taken["input"]["shape"] == [1, 3, 32, 32] and "bands" in taken["input"]["dim_order"]
    assert len(taken["input"]["dim_order"]) == 4
    assert taken.get("value_scaling") == scaling


def test_outputs_name_the_classes_in_the_order_of_planes() -> None:
    properties = item()["properties"]
    (given,) = properties["mlm:output"]
    assert given["result"]["shape"] == [1, 4, 32, 32] and given["tasks"] == properties["mlm:tasks"]
    classes = given["classification:classes"]
    assert [entry["value"] for entry in classes] == [0, 1, 2, 3]
    assert [entry["name"] for entry in classes] == ["nothing", "class_1", "forest", "road"]
    assert "水体" in classes[1]["description"]
    assert all(re.fullmatch("[0-9A-F]{6}", entry["color_hint"]) for entry in classes)


def test_the_asset_is_the_file_with_its_checksum() -> None:
    (asset,) = item()["assets"].values()
    assert asset["roles"] == ["mlm:model"] and asset["mlm:artifact_type"] == "onnx"
    assert (asset["href"], asset["file:size"]) == (Path("models/m.onnx").as_posix(), 7)
    assert asset["file:checksum"] == "1220" + "ab" * 32
