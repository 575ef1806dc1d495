"""Confusion matrices against scikit-learn and torchmetrics, and the time of a sample against that of reading its map.

    python tests/benchmarks/eval.py [SIDE]

Times are CPU seconds, medians of pairs in one run. SIDE is the side of the map in pixels, by default 10,000.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from hardware import choose_precisions
from numpy.typing import NDArray
from rasterio.windows import Window
from vectorize import make_map

from cwsam_cli.maps.strips import open_classes
from cwsam_cli.metrics.confusion import confusion_matrix
from cwsam_cli.sample.draw import draw
from cwsam_cli.survey.allocation import allocate, shares
from cwsam_cli.survey.population import classes_as_strata, count_population

CLASSES = 33
PIXELS = 4_000_000
ROUNDS = 5
POINTS = 500


def cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def confusion() -> None:
    rng = np.random.default_rng(0)
    truth, guess = (rng.integers(0, CLASSES, PIXELS).astype(np.uint8) for _ in range(2))

    def ours() -> Any:
        return confusion_matrix(truth, guess, CLASSES)

    expected = ours()
    for name, make in (("sklearn", sklearn_matrix), ("torchmetrics", torchmetrics_matrix)):
        if importlib.util.find_spec(name) is None:
            print(f"{name}: skipped, it is not installed")
            continue
        peer = make(truth, guess)
        assert (np.asarray(peer()) == expected).all()
        pairs = [(cpu(ours), cpu(peer)) for _ in range(ROUNDS)]
        own, other = (PIXELS / 1e6 / median(times) for times in zip(*pairs, strict=True))
        ratio = median(theirs / mine for mine, theirs in pairs)
        print(f"confusion matrix, Mpx per CPU s: cwsam {own:.0f}, {name} {other:.1f}; ratio {ratio:.1f}")


def sklearn_matrix(truth: NDArray[np.uint8], guess: NDArray[np.uint8]) -> Callable[[], Any]:
    from sklearn.metrics import confusion_matrix as peer

    return lambda: peer(truth, guess, labels=np.arange(CLASSES))


def torchmetrics_matrix(truth: NDArray[np.uint8], guess: NDArray[np.uint8]) -> Callable[[], Any]:
    import torch
    from torchmetrics.classification import MulticlassConfusionMatrix

    torch.set_num_threads(1)
    one, other = torch.from_numpy(truth).long(), torch.from_numpy(guess).long()

    def run() -> Any:
        metric = MulticlassConfusionMatrix(CLASSES)
        metric.update(other, one)
        return metric.compute().numpy()

    return run


def sample(side: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.tif"
        make_map(path, side, side)

        def read() -> None:
            with open_classes(path) as source:
                for top in range(0, side, 256):
                    source.dataset.read(1, window=Window(0, top, side, min(256, side - top)))

        def draw_points() -> None:
            with open_classes(path) as source:
                population = count_population(source, classes_as_strata)
                pixels = population.units
                points = allocate(POINTS, shares("proportional", pixels, pixels * 0.0), np.full(len(pixels), 2), pixels)
                draw(source, classes_as_strata, population, points, seed=(0, 1))

        draw_points()  # imports
        rounds = [(wall(read), wall(draw_points)) for _ in range(ROUNDS)]
        for kind in (0, 1):
            reading, drawing = (median(one[kind] for one in times) for times in zip(*rounds, strict=True))
            ratio = median(theirs[kind] / mine[kind] for mine, theirs in rounds)
            print(
                f"{side:,}² map, {('CPU', 'elapsed')[kind]} s: reading {reading:.2f}, {POINTS} points {drawing:.2f};"
                f" ratio {ratio:.2f}"
            )


def wall(work: Callable[[], Any]) -> tuple[float, float]:
    start = time.perf_counter()
    used = cpu(work)
    return used, time.perf_counter() - start


if __name__ == "__main__":
    choose_precisions()
    confusion()
    sample(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
