"""Workers keep their files open and give their results in order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cwsam_cli import console
from cwsam_cli.distributed.scheduler import Workers, connect
from cwsam_cli.tile.footprints import PlacedScene
from cwsam_cli.tile.workers import in_order
from tests.clusters import quick_cluster


@contextmanager
def opened() -> Iterator[Callable[[int], tuple[int, bool]]]:
    state = {"open": True}
    try:
        yield lambda part: (part, state["open"])
    finally:
        state["open"] = False


@pytest.mark.parametrize("workers", [1, 2])
def test_the_context_of_a_worker_is_open_while_it_works(workers: int) -> None:
    assert list(in_order(opened, range(4), workers, "counting")) == [(part, True) for part in range(4)]


def test_a_cluster_gives_results_in_order_and_gets_what_parts_share_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_cluster() as cluster, connect(cluster.scheduler_address) as workers:
        submit, sent = workers._client.submit, []

        def counting(function: Any, *arguments: Any, **options: Any) -> Any:
            sent.append(opened in arguments)
            return submit(function, *arguments, **options)

        monkeypatch.setattr(workers._client, "submit", counting)
        assert list(in_order(opened, range(40), workers, "counting")) == [(part, True) for part in range(40)]
        assert sent.count(True) == 1
        assert isinstance(workers, Workers)


def test_dask_does_not_log_the_addresses_of_scenes() -> None:
    address = "https://me:SECRET@example.org/a.tif?sig=SECRET"
    place: Any = {"crs": None, "transform": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "width": 1, "height": 1}
    assert "SECRET" not in repr(PlacedScene(name="a", path=address, fingerprint="", **place))


@contextmanager
def talking() -> Iterator[Callable[[int], int]]:
    console.log.info("labels are resampled")
    console.log.warning("a tile is damaged")
    yield lambda part: part


def test_workers_repeat_no_message_of_the_process_that_starts_them(capfd: pytest.CaptureFixture[str]) -> None:
    before = console.verbosity()
    console.setup(0)
    try:
        assert list(in_order(talking, range(4), 2, "counting")) == [0, 1, 2, 3]
    finally:
        console.setup(before)
    told = capfd.readouterr().err
    assert "labels are resampled" not in told
    assert "a tile is damaged" in told
