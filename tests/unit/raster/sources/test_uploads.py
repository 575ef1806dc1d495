"""An output of an object store is made beside the others of its kind, and goes there main file last."""

from pathlib import Path

import pytest

from cwsam_cli.raster.sources.uploads import place_output, upload_all


def test_addresses_have_places_on_this_disk() -> None:
    assert place_output("maps/map.tif") == (Path("maps/map.tif"), "")
    place, address = place_output("s3://bucket/maps/")
    assert (place, address) == (Path(".cwsam-uploads/s3/bucket/maps"), "s3://bucket/maps")
    assert place_output("gs://bucket/maps")[0] != place


def test_files_are_uploaded_in_order_and_removed(
    object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place, address = place_output("s3://ordered/maps/map.tif")
    place.parent.mkdir(parents=True)
    files = [place.with_name(name) for name in ("map.qml", "map.json", "map.tif")]
    for path in files:
        path.write_text(path.name)
    upload_all(files, address, kept=[files[1]])
    puts = [line.rpartition("/")[2] for line in Path("requests").read_text().splitlines() if line.startswith("PUT")]
    assert puts == ["map.qml", "map.json", "map.tif"]
    assert list(place.parent.iterdir()) == [files[1]]
    upload_all([files[1]], "s3://ordered/maps/map.json")
    assert not Path(".cwsam-uploads").exists()
