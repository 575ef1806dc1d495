"""Cost, scaling and memory of predicting on a local Dask cluster.

    python tests/benchmarks/cluster.py [--scenes 2000] [--workers 1 2 4 8]

The overhead compares `predict` in one process with the same scene on one worker, both after a first map, in CPU
seconds of all processes that take part. Scaling and memory use a stub instead of the model.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import psutil
from predict import scene_file, untrained

SLEEP_S = 0.02  # of the stub for a window
WINDOWS = 25  # of a call


def rest(number: int) -> int:
    """Sleep as long as the stub takes for the windows of a call."""
    time.sleep(SLEEP_S * WINDOWS)
    return number


def blank_pieces(plan: Any, stretch: tuple[int, int, int]) -> tuple[int, list[tuple[int, bytes]]]:
    """Make pieces of class 0 without a model."""
    from cwsam_cli.journal import pack

    column, first, last = stretch
    shapes = ((row, *plan.piece_shape(row, column)) for row in range(first, last + 1))
    return column, [(row, pack(bytes(plan.layers.count * height * width))) for row, height, width in shapes]


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that still run."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)


def measured(make: Callable[[Path], object], folder: Path, times: int) -> float:
    """Median CPU seconds of a map after a first one."""
    spent = []
    for number in range(times + 1):
        before = cpu_seconds()
        make(folder / f"{number}.tif")
        spent.append(cpu_seconds() - before)
    return median(spent[1:])


def overhead(folder: Path, side: int, times: int) -> None:
    import torch

    from cwsam_cli.distributed.scheduler import LOCAL, connect
    from cwsam_cli.distributed.world import World
    from cwsam_cli.predict.fleet import make_on, plan_on
    from cwsam_cli.predict.network import Model
    from cwsam_cli.predict.plan import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.work import make_map

    torch.set_num_threads(1)
    checkpoint, scene = untrained(folder / "tiny.pth", ("red", "green", "blue")), scene_file(folder, side, side)
    request = MapRequest(scene=str(scene), checkpoint=checkpoint, device="cpu", precision="fp32")
    model = Model.open(request)
    score = model.scorer(request)

    def alone(output: Path) -> object:
        return make_map(make_plan(request.of_scene(str(scene), output), model), score, World(model.device))

    with connect(LOCAL, processes=1) as workers:

        def on_worker(output: Path) -> object:
            return make_on(workers, plan_on(workers, request.of_scene(str(scene), output)))

        for name in ("one", "two"):
            (folder / name).mkdir()
        own, theirs = measured(alone, folder / "one", times), measured(on_worker, folder / "two", times)
    pieces = -(-side // 256)
    print(
        f"sam_tiny, {side:,}², fp32, one thread: {own:.1f} CPU s in one process, {theirs:.1f} on one worker "
        f"({theirs / own:.3f} ×, {1000 * (theirs - own) / pieces:.0f} ms per piece; target at most 1.03 ×)",
        flush=True,
    )


def scaling(counts: list[int]) -> None:
    from cwsam_cli.distributed.scheduler import LOCAL, connect

    for count in counts:
        with connect(LOCAL, processes=count) as workers:
            list(workers.each(rest, [(number,) for number in range(count)]))  # all have started
            while workers.slots < count:
                time.sleep(0.5)
            start = time.perf_counter()
            calls = 16 * count
            list(workers.each(rest, [(number,) for number in range(calls)]))
            ideal = calls * SLEEP_S * WINDOWS / count
            share = ideal / (time.perf_counter() - start)
        print(
            f"{count} worker(s), stub of {SLEEP_S:g} s per window: {share:.3f} of ideal (target 0.9 at 8)", flush=True
        )


def memory(folder: Path, scenes: int) -> None:
    from cwsam_cli.predict import fleet
    from cwsam_cli.predict.many import predict_many
    from cwsam_cli.predict.request import MapRequest

    checkpoint, scene = untrained(folder / "tiny.pth", ("red", "green", "blue")), scene_file(folder, 512, 512)
    names = [folder / f"scene{number}.tif" for number in range(scenes)]
    for name in names:
        os.link(scene, name)
    seen: list[int] = []
    make_on = fleet.make_on

    def watched(*given: Any, **named: Any) -> Any:
        seen.append(psutil.Process().memory_info().rss)
        return make_on(*given, **named)

    request = MapRequest(
        checkpoint=checkpoint, output=folder / "maps", device="cpu", precision="fp32", gpus=2, max_memory=8 << 30
    )
    start = time.perf_counter()
    with (
        patch.object(fleet, "make_pieces_of", blank_pieces),
        patch("cwsam_cli.predict.many.make_on", watched),
    ):
        made = predict_many(request, list(map(str, names)))
    assert made is not None and len(made.maps) == scenes, made
    tenth = max(1, scenes // 10)
    early, late = max(seen[tenth : 2 * tenth]), max(seen[-tenth:])
    print(
        f"{scenes:,} scenes of 512² on 2 workers, stub: {time.perf_counter() - start:.0f} s; client with scheduler "
        f"{early / 1e6:.0f} MB after a tenth, {late / 1e6:.0f} MB at the end ({late / early:.3f} ×)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048, help="pixels of the scene whose overhead is measured")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--scenes", type=int, default=2000)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    scaling(arguments.workers)
    for run in (
        partial(memory, scenes=arguments.scenes),
        partial(overhead, side=arguments.side, times=arguments.times),
    ):
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder))


if __name__ == "__main__":
    main()
