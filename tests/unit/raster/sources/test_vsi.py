"""Files are uploaded whole, or a sentence says why not."""

import os
from pathlib import Path

import pytest

from cwsam_cli.errors import MachineError
from cwsam_cli.raster.sources.vsi import read_headers, upload


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "map.tif"
    path.write_bytes(os.urandom(6 << 20))
    return path


@pytest.mark.parametrize("chunk_mb", ["5", "50"])
def test_large_files_are_uploaded_in_parts_and_small_ones_at_once(
    object_store: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_mb: str
) -> None:
    monkeypatch.setenv("VSIS3_CHUNK_SIZE", chunk_mb)
    (tmp_path / "busy").write_text("1")
    upload(file, f"s3://box{chunk_mb}/maps/map.tif")
    assert (tmp_path / f"box{chunk_mb}" / "maps" / "map.tif").read_bytes() == file.read_bytes()
    assert read_headers(f"/vsis3/box{chunk_mb}/maps/map.tif")
    asked = (tmp_path / "requests").read_text()
    assert ("partNumber=2" in asked) == (chunk_mb == "5")


@pytest.mark.parametrize(("fault", "reason"), [("refuse", "403"), ("busy", "503")])
def test_an_upload_that_fails_is_named_and_the_file_stays(
    object_store: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    (tmp_path / fault).write_text("999")
    with pytest.raises(MachineError, match=rf"map\.tif` could not be uploaded to `s3://{fault}/map\.tif`: .*") as told:
        upload(file, f"s3://{fault}/map.tif")
    assert "stays here" in told.value.hint and reason in str(told.value) and file.exists()


def test_an_object_that_is_not_there_has_no_headers(object_store: str) -> None:
    assert read_headers("/vsis3/nothing/none.tif") == {}
