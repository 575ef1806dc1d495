"""The plugin's own rules read the metadata as they are meant."""

import dataclasses
import json

from cwsam_cli.export.deepness import deepness_metadata
from tests.unit.export.test_network import checkpoint


def test_metadata_are_json_texts_with_consecutive_classes() -> None:
    raw = deepness_metadata(checkpoint())
    read = {key: json.loads(value) for key, value in raw.items()}
    assert read["model_type"].capitalize() == "Segmentor"
    assert read["class_names"] == {"0": "nothing", "1": "水体", "2": "forest", "3": "road"}
    assert (read["resolution"], read["tile_size"], read["tiles_overlap"]) == (3000, 32, 25)
    assert read["standardization_mean"] == [0, 0, 0] and read["standardization_std"] == [1, 1, 1]
    assert read["seg_thresh"] == 0 and read["seg_small_segment"] == 0


def test_a_model_without_a_pixel_size_names_none() -> None:
    assert "resolution" not in deepness_metadata(dataclasses.replace(checkpoint(), gsd_m=None))
