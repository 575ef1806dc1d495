"""A state gives back every bit, stands until the next one is whole, and runs nothing."""

import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cwsam_cli.errors import CheckpointError, MachineError
from cwsam_cli.train import state
from cwsam_cli.train.state import find_state, read_record
from tests.states import WORLD, fill, plain_state, save_state, state_shapes


def _tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model/weight": torch.randn(7, 5, generator=generator),
        "model/scalar": torch.randn((), generator=generator),
        "model/empty": torch.empty(0, 3),
        "optimizer/weight/state1/0": torch.randint(256, (300,), generator=generator).to(torch.uint8),
        "average/weight": torch.randn(4, 2, 3, generator=generator).to(torch.bfloat16),
    }


def _hollow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, 7) for name, tensor in tensors.items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_a_state_gives_back_every_bit(tmp_path: Path) -> None:
    save_state(tmp_path / "last", _tensors(), progress={"epoch": 3, "sums": {"loss": 0.1}})
    read = _hollow(_tensors())
    fill(tmp_path / "last", read)
    assert _same(read, _tensors())
    plain = read_record(tmp_path / "last")
    assert plain.progress == {"epoch": 3, "sums": {"loss": 0.1}}
    assert plain.processes == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_tensors_are_read_into_the_memory_that_is_there(tmp_path: Path) -> None:
    save_state(tmp_path / "last", _tensors())
    read = _hollow(_tensors())
    places = {name: tensor.data_ptr() for name, tensor in read.items()}
    fill(tmp_path / "last", read)
    assert {name: tensor.data_ptr() for name, tensor in read.items()} == places


def test_some_tensors_of_many_may_be_read(tmp_path: Path) -> None:
    save_state(tmp_path / "last", _tensors())
    read = {"model/weight": torch.zeros(7, 5)}
    fill(tmp_path / "last", read)
    assert torch.equal(read["model/weight"], _tensors()["model/weight"])


def test_shapes_and_number_formats_are_told_without_reading(tmp_path: Path) -> None:
    save_state(tmp_path / "last", _tensors())
    assert state_shapes(tmp_path / "last") == {
        name: (tensor.shape, tensor.dtype) for name, tensor in _tensors().items()
    }


# --- whole or not at all ---


def test_a_newer_state_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_state(tmp_path / "last", _tensors(seed), progress={"seed": seed})
    read = _hollow(_tensors())
    fill(tmp_path / "last", read)
    assert _same(read, _tensors(2))
    assert read_record(tmp_path / "last").progress["seed"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_an_older_state_stands_when_the_newer_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path / "last", _tensors(1), progress={"seed": 1})

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(MachineError, match="No space left") as caught:
        patch.setattr(state.dcp, "save", full)
        save_state(tmp_path / "last", _tensors(2), progress={"seed": 2})
    assert (caught.value.exit_code, "disk" in caught.value.hint) == (6, True)
    found = find_state(tmp_path / "last")
    assert found is not None and read_record(found).progress["seed"] == 1
    save_state(tmp_path / "last", _tensors(3), progress={"seed": 3})  # what was left of the failed one is no hindrance
    assert read_record(tmp_path / "last").progress["seed"] == 3


def test_a_second_ctrl_c_while_a_state_is_written_interrupts_and_the_older_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path / "last", _tensors(1), progress={"seed": 1})

    def press(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(state.FileSystemWriter, "write_data", press)
        save_state(tmp_path / "last", _tensors(2), progress={"seed": 2})
    found = find_state(tmp_path / "last")
    assert found is not None and read_record(found).progress["seed"] == 1


class Killed(BaseException):
    """The process ends here, whatever it was about to do."""


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]) -> bool:
    """Run a writer that dies at its n-th change of names on the disk; whether it did."""
    done: list[str] = []

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            if len(done) == step:
                raise Killed
            done.append(change.__name__)
            return change(*arguments, **named)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(state.os, "replace", dying(os.replace))
        patch.setattr(state.shutil, "rmtree", dying(shutil.rmtree))
        try:
            write()
        except Killed:
            return True
    return False


def test_wherever_a_writer_is_killed_a_whole_state_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(9):
        for second in range(9):  # the run goes on, and is killed again
            folder = tmp_path / f"{first}-{second}" / "last"
            save_state(folder, _tensors(1), progress={"seed": 1})
            deaths = 0
            for seed, step in ((2, first), (3, second)):
                deaths += _killed_at(
                    step,
                    monkeypatch,
                    lambda seed=seed, folder=folder: save_state(folder, _tensors(seed), progress={"seed": seed}),
                )
                found = find_state(folder)
                assert found is not None, f"killed at {first}, then at {second}: no state is left"
                read = _hollow(_tensors())
                fill(found, read)
                assert _same(read, _tensors(read_record(found).progress["seed"]))
            if not deaths:
                assert (first, second) > (3, 3)
                return


def test_without_a_state_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    assert find_state(tmp_path / "last") is None
    assert find_state(tmp_path / "nowhere") is None


# --- what is refused ---


NOT_STATES = ["", "{", "[]", "null", '{"version": 99}', "{}", "[" * 100_000, '{"version": 1, "processes": "two"}']


@pytest.mark.parametrize("text", NOT_STATES, ids=range(len(NOT_STATES)))
def test_a_state_json_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    save_state(tmp_path / "last", _tensors())
    (tmp_path / "last" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json` cannot be read") as caught:
        read_record(tmp_path / "last")
    assert (caught.value.exit_code, "resume=best" in caught.value.hint) == (5, True)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("processes", 0, "processes"),
        ("averaged_steps", -1, "averaged_steps"),
        ("average", "all", "average"),
        ("optimizer", {"steps": {"a": -1}, "cut": {}}, "steps"),
        ("optimizer", {"steps": {"a": "x"}, "cut": {}}, "optimizer.steps.a"),
        ("scaler", {"scale": 1.0}, "scaler"),
        ("scaler", dict.fromkeys(torch.amp.GradScaler("cpu").state_dict(), -1.0), "scaler"),
        ("identity", [], "identity"),
        ("progress", None, "progress"),
    ],
)
def test_an_edited_field_is_refused_by_its_name(tmp_path: Path, key: str, value: Any, named: str) -> None:
    save_state(tmp_path / "last", _tensors(), scaler=torch.amp.GradScaler("cpu").state_dict())
    read_record(tmp_path / "last")
    path = tmp_path / "last" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=named):
        read_record(tmp_path / "last")


@pytest.mark.parametrize(
    "wanted",
    [{"model/other": torch.zeros(1)}, {"model/weight": torch.zeros(7, 6)}, {"model/weight": torch.zeros(6, 5)}],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(tmp_path: Path, wanted: dict[str, Tensor]) -> None:
    save_state(tmp_path / "last", _tensors())
    with pytest.raises(CheckpointError, match="last` is damaged or belongs to another model") as caught:
        fill(tmp_path / "last", wanted)
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".metadata", "tensors"])
@pytest.mark.parametrize("how", ["missing", "cut", "rubbish"])
def test_a_damaged_state_is_refused(tmp_path: Path, name: str, how: str) -> None:
    save_state(tmp_path / "last", _tensors())
    (path,) = (tmp_path / "last").glob(".metadata" if name == ".metadata" else "*.distcp")
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if how == "cut" else b"\x00" * 2000)
    with pytest.raises(CheckpointError, match="last` is damaged") as caught:
        fill(tmp_path / "last", _hollow(_tensors()))
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def _calls(path: Path) -> list[Any]:
    """Objects that do something to a file when a careless reader loads them."""

    class System:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {path}",)

    class Open:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(path), "w")

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path,)

    class Eval:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, (f"open({str(path)!r}, 'w')",)

    return [System(), Open(), Touch(), Eval()]


@pytest.mark.parametrize("kind", range(4))
def test_an_index_that_names_another_class_runs_nothing(tmp_path: Path, kind: int) -> None:
    save_state(tmp_path / "last", _tensors())
    target = tmp_path / "exploded"
    (tmp_path / "last" / ".metadata").write_bytes(pickle.dumps(_calls(target)[kind]))
    for read in (lambda: state_shapes(tmp_path / "last"), lambda: fill(tmp_path / "last", _hollow(_tensors()))):
        with pytest.raises(CheckpointError, match="which a state never contains"):
            read()
    assert not target.exists()


def test_a_bomb_among_the_indexs_own_parts_runs_nothing_either(tmp_path: Path) -> None:
    save_state(tmp_path / "last", _tensors())
    path, target = tmp_path / "last" / ".metadata", tmp_path / "exploded"
    metadata = pickle.loads(path.read_bytes())
    metadata.planner_data = _calls(target)[0]
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"system, which a state never contains") as caught:
        fill(tmp_path / "last", _hollow(_tensors()))
    assert caught.value.exit_code == 5
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        ("builtins", "eval"),
        ("os", "system"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.serialization", "load"),
        ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "Metadata.__init__"),
        ("torch.distributed.checkpoint.filesystem", "os"),
        ("functools", "partial"),
    ],
)
def test_only_the_plain_classes_of_an_index_are_known(name: tuple[str, str], tmp_path: Path) -> None:
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in name)
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + words + b"\x93.")
    with pytest.raises(CheckpointError, match="which a state never contains"):
        state_shapes(tmp_path)


def _lead_outside(index: Any) -> None:
    next(iter(index.storage_data.values())).relative_path = "../secret.distcp"


def _lead_to_root(index: Any) -> None:
    next(iter(index.storage_data.values())).relative_path = "/etc/passwd"


def _lead_outside_on_windows(index: Any) -> None:
    next(iter(index.storage_data.values())).relative_path = "..\\secret.distcp"


def _place_before_the_file(index: Any) -> None:
    next(iter(index.storage_data.values())).offset = -1


def _give_a_word_for_a_size(index: Any) -> None:
    next(iter(index.state_dict_metadata.values())).size = "large"


def _give_a_word_for_a_dtype(index: Any) -> None:
    next(iter(index.state_dict_metadata.values())).properties.dtype = "float32"


def _forget_the_pieces(index: Any) -> None:
    next(iter(index.state_dict_metadata.values())).chunks = None


def _forget_all(index: Any) -> None:
    index.storage_data = None


@pytest.mark.parametrize(
    "change",
    [
        _lead_outside,
        _lead_to_root,
        _lead_outside_on_windows,
        _place_before_the_file,
        _give_a_word_for_a_size,
        _give_a_word_for_a_dtype,
        _forget_the_pieces,
        _forget_all,
    ],
)
def test_an_index_with_a_wrong_field_is_refused_before_a_file_is_read(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    save_state(tmp_path / "last", _tensors())
    path = tmp_path / "last" / ".metadata"
    index = pickle.loads(path.read_bytes())
    change(index)
    path.write_bytes(pickle.dumps(index))
    for file in (tmp_path / "last").glob("*.distcp"):
        file.unlink()
    with pytest.raises(CheckpointError, match="last` is damaged") as caught:
        state_shapes(tmp_path / "last")
    assert "distcp`: No such file" not in str(caught.value)


def test_tensors_that_are_no_tensors_run_nothing(tmp_path: Path) -> None:
    """Their file, too, may have been put there by somebody."""
    save_state(tmp_path / "last", {"model/weight": torch.zeros(3)})
    (path,) = (tmp_path / "last").glob("*.distcp")
    target = tmp_path / "exploded"
    torch.save(_calls(target)[0], tmp_path / "bomb")
    bomb = (tmp_path / "bomb").read_bytes()
    index = tmp_path / "last" / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    (entry,) = metadata.storage_data.values()
    entry.offset, entry.length = 0, len(bomb)
    index.write_bytes(pickle.dumps(metadata))
    path.write_bytes(bomb)
    with pytest.raises(CheckpointError):
        fill(tmp_path / "last", {"model/weight": torch.zeros(3)})
    assert not target.exists()


def test_a_state_json_holds_plain_values_only(tmp_path: Path) -> None:
    save_state(tmp_path / "last", _tensors(), identity={"classes": ["1 水体"]})
    raw = json.loads((tmp_path / "last" / "state.json").read_text("utf-8"))
    assert raw["identity"] == {"classes": ["1 水体"]}


def test_a_state_holds_the_values_of_when_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, save = threading.Event(), state.dcp.save
    tensors = _tensors(1)
    with monkeypatch.context() as patch:
        patch.setattr(state.dcp, "save", lambda *given, **named: (may_go_on.wait(60), save(*given, **named)))
        writer = state.StateWriter(tmp_path / "last", WORLD)
        writer.write(tensors, plain_state())
        for tensor in tensors.values():
            tensor.zero_()  # training goes on meanwhile
        may_go_on.set()
        writer.wait()
    read = _hollow(tensors)
    fill(tmp_path / "last", read)
    assert _same(read, _tensors(1))
