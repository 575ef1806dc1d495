"""Watch two long runs, and fail if they grow: `make soak`, or `python -m tests.soak.soak 600 [RUN]`.

Each run is one `cwsam` process: maps of many small scenes, or training with a validation after each epoch. It is
interrupted when its time is over.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.cli.conftest import SMALL, striped, succeed, write

BOUNDS = {"memory (MiB)": 4.0, "handles": 1.0, "threads": 1.0, "temporary files": 1.0}
"""Growth per 1,000 scenes or validations that is not a leak."""
WARM_UP = 0.25
"""Share of the samples before the growth is measured."""
SAMPLES = 400
GROUPS = 20
"""Of each group of samples the lowest one counts, because memory is higher while a scene is mapped."""


@dataclass(frozen=True, slots=True)
class Run:
    """A long run."""

    words: tuple[str, ...]
    """Arguments of `cwsam`."""
    output: Path
    count: Callable[[], int]
    """Returns how many scenes or validations are done."""
    kept: tuple[str, ...]
    """Endings of the outputs, whose number grows."""


def growth(counts: list[int], values: list[float]) -> float:
    """Return the growth per 1,000 scenes or validations after the warm-up: the slope of a line through the minima."""
    groups = np.array_split(np.arange(int(len(counts) * WARM_UP), len(counts)), GROUPS)
    lowest = [int(group[np.array(values)[group].argmin()]) for group in groups if len(group)]
    if len(set(np.array(counts)[lowest])) < 2:  # nothing was done meanwhile
        return 0.0
    return float(np.polyfit(np.array(counts)[lowest], np.array(values)[lowest], 1)[0]) * 1000


def grown(counts: list[int], samples: dict[str, list[float]]) -> list[str]:
    """Return the names of what grows beyond its bound. In fewer than 1,000 scenes, it must grow as much in all."""
    measured = min(1000, counts[-1] - counts[int(len(counts) * WARM_UP)])
    return [name for name, bound in BOUNDS.items() if growth(counts, samples[name]) * measured / 1000 > bound]


def _many_scenes(folder: Path, seconds: float) -> Run:
    _train(folder, folder / "save", 3)
    scenes, output = folder / "scenes", folder / "maps"
    scenes.mkdir()
    # More than are mapped in that time (2 per second in 2026); a file has at most 65,000 links.
    for number in range(min(int(seconds * 20), 60_000)):
        os.link(folder / "scene.tif", scenes / f"{number:06}.tif")
    model = folder / "save" / "model_epoch_best.pth"
    words = ("predict", str(scenes), "-c", str(model), "-o", str(output), "--confidence")
    return Run(words, output, lambda: len([*output.glob("*.confidence.tif")]), (".tif", ".xml", ".qml"))


def _many_validations(folder: Path, seconds: float) -> Run:
    words = _train_words(folder, folder / "long", 10**6)
    history = folder / "long" / "history.jsonl"
    return Run(words, history.parent, lambda: len(history.read_bytes().splitlines()) if history.exists() else 0, ())


RUNS = {"scenes": _many_scenes, "validations": _many_validations}


def _train_words(folder: Path, output: Path, epochs: int) -> tuple[str, ...]:
    options = ("--set", f"epoch_max={epochs}", "--set", "epoch_val=1")
    return ("train", *SMALL, "--data", str(folder / "dataset"), "-o", str(output), *options)


def _train(folder: Path, output: Path, epochs: int) -> None:
    succeed(*_train_words(folder, output, epochs))


def _make_dataset(folder: Path) -> None:
    image, codes = striped(64, 128)
    scene, labels = write(folder / "scene.tif", image), write(folder / "labels.tif", codes, nodata=255)
    succeed("tile", scene, "--labels", labels, "-o", folder / "dataset", "--size", 32, "--buffer", 0)


def _sample(process: psutil.Process, run: Run, temporary: Path) -> dict[str, float]:
    """Measure a process and its children."""
    family = [process, *process.children(recursive=True)]
    others = [path for path in run.output.rglob("*") if path.suffix not in run.kept] if run.output.exists() else []
    return {
        "memory (MiB)": sum(each.memory_full_info().pss for each in family) / 2**20,
        "handles": sum(each.num_fds() for each in family),
        "threads": sum(each.num_threads() for each in family),
        "temporary files": len(others) + len([*temporary.rglob("*")]),
    }


def _samples(run: Run, seconds: float, temporary: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Start a run, yield samples, and interrupt it when its time is over.

    Raises:
        RuntimeError: the run failed, or ended before its time.
    """
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(temporary.with_suffix(".torch"))  # torch makes it when it is imported
    words = [sys.executable, "-m", "cwsam_cli", "--quiet", *run.words]
    with open(temporary.with_suffix(".log"), "w+") as log, subprocess.Popen(words, env=environment, stderr=log) as it:
        process, end = psutil.Process(it.pid), time.monotonic() + seconds
        while it.poll() is None and time.monotonic() < end:
            time.sleep(seconds / SAMPLES)
            with suppress(psutil.Error, OSError):  # a child or a file has just gone
                yield run.count(), _sample(process, run, temporary)
        has_ended = it.poll() is not None
        it.send_signal(signal.SIGINT)
        if it.wait(600) not in (0, 130) or has_ended:
            log.seek(0)
            raise RuntimeError(f"exit code {it.returncode}: {log.read()[-2000:]}")


def soak(name: str, seconds: float) -> list[str]:
    """Watch one run, print its figures, and return the names of what grows."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _make_dataset(place)
        run = RUNS[name](place, seconds)
        counts, rows = zip(*_samples(run, seconds, place / "temporary"), strict=True)
        samples = {what: [row[what] for row in rows] for what in BOUNDS}
        left = [*(place / "temporary").rglob("*")]
    start = int(len(counts) * WARM_UP)
    print(f"{name}: {counts[-1]:,} in {seconds:,.0f} s, measured from {counts[start]:,}; growth per 1,000:")
    for what, values in samples.items():
        print(f"  {what}: {growth([*counts], values):+.3f} ({values[start]:,.1f} → {values[-1]:,.1f})", flush=True)
    return [*grown([*counts], samples), *(f"left in TMPDIR: {path.name}" for path in left)]


def main() -> None:
    """Watch all runs, or those named, in the same time each."""
    names = sys.argv[2:] or [*RUNS]
    seconds = float(sys.argv[1]) / len(names)
    bad = {name: found for name in names if (found := soak(name, seconds))}
    if bad:
        sys.exit(f"growing: {bad}")


if __name__ == "__main__":
    main()
