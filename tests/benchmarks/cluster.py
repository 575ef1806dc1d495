"""Predicting on a local Dask cluster: CPU time beside in-process, and with stubs for the model scaling and memory.

python tests/benchmarks/cluster.py [--pairs 3] [--workers 1 2 4 8] [--scenes 2000]
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
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


def overhead(folder: Path, pairs: int, side: int = 2048) -> None:
    """CPU time of a map by one worker and its client, without their start, beside that of one process."""
    from statistics import median

    from cwsam_cli.distributed.scheduler import LOCAL, connect
    from cwsam_cli.distributed.world import World
    from cwsam_cli.predict.planning import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.network import Model
    from cwsam_cli.predict.work import make_map
    from cwsam_cli.predict.workers.fleet import make_on, plan_on

    torch.set_num_threads(1)
    checkpoint, scene = untrained(folder / "tiny.pth", ("red", "green", "blue")), scene_file(folder, side, side)
    request = MapRequest(scene=str(scene), checkpoint=checkpoint, output=folder / "map.tif", device="cpu")
    request = replace(request, precision="fp32", overwrite=True)
    model = Model.open(request)
    score, plan = model.scorer(request), make_plan(request, model)
    with connect(LOCAL, processes=1) as workers:

        def spent() -> float:
            own = [psutil.Process(), *psutil.Process().children(recursive=True)]
            return sum(sum(process.cpu_times()[:2]) for process in own)

        def by_worker() -> float:
            start = spent()
            make_on(workers, planned)
            return spent() - start

        def here() -> float:
            start = spent()
            make_map(plan, score, World(model.device))
            return spent() - start

        planned = plan_on(workers, request)
        small = replace(request, scene=str(scene_file(folder, 256, 256)), output=folder / "small.tif")
        make_on(workers, plan_on(workers, small))  # the worker reads the weights
        times = [(by_worker(), here()) for _ in range(pairs)]
    ratios = [there / near for there, near in times]
    print(
        f"sam_tiny, {side:,}², {len(plan.pieces)} pieces, {pairs} pairs: {median(near for _, near in times):.2f} CPU s "
        f"here, {median(ratios):.3f} × by one worker and its client ({min(ratios):.3f} to {max(ratios):.3f})",
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
    from cwsam_cli.predict.many import predict_many
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.workers import fleet

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
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--scenes", type=int, default=2000)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as in workers and in the command
    with tempfile.TemporaryDirectory() as folder:
        if arguments.pairs:
            overhead(Path(folder), arguments.pairs)
        scaling(arguments.workers)
        if arguments.scenes:
            memory(Path(folder), arguments.scenes)


if __name__ == "__main__":
    main()
