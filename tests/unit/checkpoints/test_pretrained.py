"""Whose weights `sam_checkpoint` names is told by their keys; the official ones are fetched once."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cwsam_cli.checkpoints import pretrained
from cwsam_cli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from cwsam_cli.checkpoints.pretrained import open_pretrained
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.errors import CheckpointError, MachineError
from cwsam_cli.files import sha256
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import from_names
from tests.small import small

FILTERS = "image_encoder.patch_embed.proj.weight"
ARCHITECTURE = small(
    depth=1, global_attn_indexes=(0,), num_bands=2, num_classes=3, prompt_embed_dim=16, decoder_mlp_dim=16
)


def _official() -> dict[str, Tensor]:
    return {
        "image_encoder.pos_embed": torch.randn(1, 8, 8, 16),
        FILTERS: torch.randn(16, 3, 8, 8),
        "mask_decoder.mask_tokens.weight": torch.randn(4, 16),
    }


def _ours(path: Path) -> Checkpoint:
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        weights=ClassWiseSam(ARCHITECTURE).state_dict(),
        architecture=ARCHITECTURE,
        taxonomy=from_names(["水体", "forest", "road"], first=5),
        bands=(Band(name="nir", mean=1.0, std=2.0), Band(name="red", mean=3.0, std=4.0)),
        dtype="uint8",
        gsd_m=None,
        ignore_background=False,
        epoch=3,
        metrics={},
    )
    save_checkpoint(checkpoint, path)
    return checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps what it downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, list[str]]]:
    """A server's URL, its folder, and what was asked of it."""
    monkeypatch.setenv("no_proxy", "*")
    asked: list[str] = []
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/", folder, asked
        httpd.shutdown()
        thread.join()


# Whose weights


@pytest.mark.parametrize("name", ["sam_vit_h_4b8939.pth", "model_epoch_best.pth", "权重.bin"])
def test_segment_anythings_weights_are_known_by_their_keys(tmp_path: Path, name: str) -> None:
    official = _official()
    torch.save(official | {"note": "not a tensor"}, tmp_path / name)
    opened = open_pretrained(str(tmp_path / name))
    assert set(opened.weights) == set(official)
    assert all(torch.equal(opened.weights[key], value) for key, value in official.items())
    assert (opened.architecture, list(opened.band_names), list(opened.class_names)) == (None, [], [])


@pytest.mark.parametrize("name", ["model_epoch_best.pth", "sam_vit_h_4b8939.pth"])
def test_a_checkpoint_of_ours_is_known_by_its_keys_and_tells_its_bands_and_classes(tmp_path: Path, name: str) -> None:
    saved = _ours(tmp_path / name)
    opened = open_pretrained(str(tmp_path / name))
    assert all(torch.equal(opened.weights[key], value) for key, value in saved.weights.items())
    assert set(opened.weights) == set(saved.weights)
    assert list(opened.band_names) == ["nir", "red"]
    assert list(opened.class_names) == ["水体", "forest", "road"]
    assert opened.architecture == ARCHITECTURE


def test_writing_to_opened_weights_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save(_official(), path)
    before = path.read_bytes()
    open_pretrained(str(path)).weights[FILTERS].zero_()
    assert path.read_bytes() == before
    assert open_pretrained(str(path)).weights[FILTERS].any()


@pytest.mark.parametrize("kind", ["official", "ours"])
def test_opened_weights_stay_on_disk(tmp_path: Path, kind: str) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not show what is mapped")
    path = tmp_path / "model.pth"
    if kind == "ours":
        _ours(path)
    else:
        torch.save(_official(), path)
    opened = open_pretrained(str(path))
    regions = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith(str(path))]
    for name, value in opened.weights.items():
        assert any(int(start, 16) <= value.data_ptr() < int(end, 16) for start, end in regions), name


# What is neither


@pytest.mark.parametrize(
    "content",
    [
        {"encoder.weight": torch.zeros(2)},
        {FILTERS: "not a tensor"},
        {},
        [torch.zeros(1)],
        torch.zeros(3),
        {"format": "another", FILTERS.removeprefix("image_encoder."): torch.zeros(1)},
    ],
)
def test_weights_of_something_else_are_refused_with_what_is_looked_for(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth` holds neither Segment Anything's weights nor") as caught:
        open_pretrained(str(tmp_path / "model.pth"))
    assert caught.value.exit_code == 5
    assert FILTERS in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(300)])
def test_garbage_is_not_readable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth` is not a readable checkpoint") as caught:
        open_pretrained(str(tmp_path / "model.pth"))
    assert caught.value.exit_code == 5
    assert "incomplete" in caught.value.hint


def test_half_a_file_is_not_readable(tmp_path: Path) -> None:
    torch.save(_official(), tmp_path / "model.pth")
    content = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        open_pretrained(str(tmp_path / "model.pth"))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({FILTERS: torch.zeros(1), "path": tmp_path}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        open_pretrained(str(tmp_path / "model.pth"))


@pytest.mark.parametrize("name", ["gone.pth", "sam_vit_x"])
def test_what_is_not_there_is_named_beside_what_may_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"there is no checkpoint `{name}`") as caught:
        open_pretrained(name)
    assert caught.value.exit_code == 5
    assert all(official in caught.value.hint for official in ("sam_vit_h", "sam_vit_l", "sam_vit_b", "URL"))


@pytest.mark.parametrize("name", ["zion/run", "zion"])
def test_a_runs_folder_is_answered_with_the_checkpoint_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    best = Path("zion/run/model_epoch_best.pth")
    best.parent.mkdir(parents=True)
    best.touch()
    with pytest.raises(CheckpointError, match=f"`{name}` is a folder, not a checkpoint") as caught:
        open_pretrained(name)
    assert caught.value.hint == f"use {best}"


def test_a_folder_without_a_checkpoint_is_answered_with_what_may_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"`\.` is a folder, not a checkpoint") as caught:
        open_pretrained(".")
    assert all(official in caught.value.hint for official in ("sam_vit_h", "sam_vit_l", "sam_vit_b", "URL"))


# Official files


@pytest.mark.parametrize(
    ("name", "file", "digits"),
    [
        ("sam_vit_h", "sam_vit_h_4b8939.pth", "4b8939"),
        ("sam_vit_l", "sam_vit_l_0b3195.pth", "0b3195"),
        ("sam_vit_b", "sam_vit_b_01ec64.pth", "01ec64"),
    ],
)
def test_the_official_names_mean_the_official_files_in_torchs_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, digits: str
) -> None:
    asked = []

    def download(url: str, target: Path, *, sha256_prefix: str) -> Path:
        asked.append((url, target, sha256_prefix))
        target.parent.mkdir(parents=True)
        torch.save(_official(), target)
        return target

    monkeypatch.setattr(pretrained, "download", download)
    assert FILTERS in open_pretrained(name).weights
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    assert asked == [(url, cache / file, digits)]


def test_an_official_file_is_downloaded_once(
    cache: Path, served: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, asked = served
    official = _official()
    torch.save(official, folder / "sam_vit_b_01ec64.pth")
    digits = hashlib.sha256((folder / "sam_vit_b_01ec64.pth").read_bytes()).hexdigest()[:6]
    monkeypatch.setattr(pretrained, "_OFFICIAL_URL", url)
    monkeypatch.setitem(pretrained._OFFICIAL, "sam_vit_b", ("sam_vit_b_01ec64.pth", digits))
    for _ in range(2):
        opened = open_pretrained("sam_vit_b")
        assert torch.equal(opened.weights[FILTERS], official[FILTERS])
    assert asked == ["/sam_vit_b_01ec64.pth"]
    assert [path.name for path in cache.iterdir()] == ["sam_vit_b_01ec64.pth"]


def test_a_file_that_only_calls_itself_official_is_refused(
    cache: Path, served: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, _ = served
    torch.save(_official(), folder / "sam_vit_l_0b3195.pth")
    monkeypatch.setattr(pretrained, "_OFFICIAL_URL", url)
    for name in ("sam_vit_l", f"{url}sam_vit_l_0b3195.pth"):
        with pytest.raises(CheckpointError, match="0b3195") as caught:
            open_pretrained(name)
        assert caught.value.exit_code == 5
        assert list(cache.iterdir()) == []


def test_without_a_network_the_official_file_may_be_brought_to_the_cache_by_hand(
    cache: Path, served: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_OFFICIAL_URL", "http://127.0.0.1:1/")
    with pytest.raises(MachineError, match="could not be downloaded") as caught:
        open_pretrained("sam_vit_h")
    target = cache / "sam_vit_h_4b8939.pth"
    assert caught.value.exit_code == 6
    assert str(target) in caught.value.hint
    torch.save(_official(), target)
    monkeypatch.setitem(pretrained._OFFICIAL, "sam_vit_h", (target.name, sha256(target)[:6]))
    assert FILTERS in open_pretrained("sam_vit_h").weights


def test_a_url_is_downloaded_to_the_cache_and_opened(cache: Path, served: tuple[str, Path, list[str]]) -> None:
    url, folder, asked = served
    saved = _ours(folder / "base.pth")
    opened = open_pretrained(f"{url}base.pth")
    assert opened.architecture == saved.architecture
    (kept,) = cache.iterdir()
    assert kept.name.endswith("-base.pth") and len(kept.name) > len("-base.pth")  # two places may hold one name
    assert asked == ["/base.pth"]
