"""Check that documents follow STAC 1.1 and the extensions projection, classification and file."""

import json
import re
from typing import Any

import pystac.validation


def refuse_invalid(document: dict[str, Any]) -> None:
    """Validate by the schemas of STAC 1.1, and the fields of extensions by the rules of their documents.

    The schemas of the extensions are in no package, and tests use no network.
    """
    pystac.validation.validate_dict(json.loads(json.dumps(document)), extensions=[])
    for asset in document.get("assets", {}).values():
        assert re.fullmatch(r"1220[0-9a-f]{64}", asset["file:checksum"])
        assert isinstance(asset["file:size"], int)
        for entry in asset.get("classification:classes", ()):
            assert isinstance(entry["value"], int) and isinstance(entry["description"], str)
            assert re.fullmatch(r"[0-9A-Za-z_-]+", entry["name"]) and re.fullmatch(r"[0-9A-F]{6}", entry["color_hint"])
    if document["type"] == "Feature":
        properties = document["properties"]
        assert re.fullmatch(r"[A-Z]+:\d+", properties.get("proj:code", "EPSG:4326"))
        assert len(properties["proj:shape"]) == 2 and len(properties["proj:transform"]) == 6
