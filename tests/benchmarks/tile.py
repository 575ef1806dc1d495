"""CPU seconds, wall, peak memory and bytes read of `cwsam tile` against `gdal_retile.py` and plain reading, in one run.

python tests/benchmarks/tile.py [--quick] [--side N] [--part NAME] [--folder DIR] [--repeats N] [--scenes N]

The scene is made here: 10,000 × 10,000 pixels of red, green and blue, deflate in blocks of 512 pixels, coloured by a
class raster of 33 classes with noise. `gdal_retile.py` (Debian's gdal-bin and python3-gdal) cuts the images only, with
deflate. The loop copies windows of scene and labels into files of our format with rasterio, and does nothing else. The
floor reads every pixel once. Every one runs as a process of its own, so its start counts.
`many` tiles N / 4 and N small scenes, with a limit of 64 open files. `workers` compares two processes with one, and
`reads` reads training samples from each format.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window
from vectorize import CLASSES, ROWS, make_map, measured, noise

from cwsam_cli.tile.request import TileFormat

OURS = (sys.executable, "-m", "cwsam_cli", "-q", "tile")
READ = """
import sys, rasterio
from rasterio.windows import Window
with rasterio.Env(GDAL_CACHEMAX=64 << 20):
    for path in sys.argv[1:]:
        with rasterio.open(path) as source:
            for top in range(0, source.height, 512):
                source.read(window=Window(0, top, source.width, min(512, source.height - top)))
"""
LOOP = """
import sys, rasterio
from rasterio.windows import Window, transform
scene, labels, folder = sys.argv[1:]
profile = {"driver": "GTiff", "compress": "zstd", "zstd_level": 1, "interleave": "band", "dtype": "uint8"}
profile |= {"width": 512, "height": 512, "blockysize": 512, "tiled": False}
with rasterio.Env(GDAL_CACHEMAX=128 << 20), rasterio.open(scene) as image, rasterio.open(labels) as codes:
    for top in range(0, image.height - 511, 512):
        for left in range(0, image.width - 511, 512):
            window = Window(left, top, 512, 512)
            profile |= {"crs": image.crs, "transform": transform(window, image.transform)}
            with rasterio.open(f"{folder}/{top}_{left}.tif", "w", count=3, predictor=2, **profile) as tile:
                tile.write(image.read(window=window))
            with rasterio.open(f"{folder}/{top}_{left}_label.tif", "w", count=1, nodata=255, **profile) as tile:
                tile.write(codes.read(window=window))
"""
IMPORTS = "import cwsam_cli.tile.pipeline"
OPEN_FILES = 64


def make_scene(path: Path, labels: Path, side: int) -> Path:
    """An image whose classes have colours of their own, with noise."""
    colors = np.random.default_rng(0).integers(40, 210, (CLASSES, 3)).astype(np.int16)
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2}
    with rasterio.open(labels) as source:
        place = {"crs": source.crs, "transform": source.transform, "width": side, "height": side}
        kind = {"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "RGB", "interleave": "pixel"}
        with rasterio.open(path, "w", **kind, **layout, **place) as target:
            for top in range(0, side, ROWS):
                window = Window(0, top, side, min(ROWS, side - top))
                smooth = noise(top, int(window.height), side, 5) * 40
                rough = np.random.default_rng([1, top]).integers(-4, 5, (3, int(window.height), side))
                image = colors[source.read(1, window=window)].transpose(2, 0, 1) + smooth + rough
                target.write(image.clip(1, 254).astype(np.uint8), window=window)
    return path


def bytes_read(*command: str) -> int:
    """Bytes that a process and its children read from files, also from the system's cache, without libraries."""
    script = (
        "import sys, cwsam_cli.tile.pipeline\n"
        "from cwsam_cli.main import app\n"
        "def count(): return int(open('/proc/self/io').read().split('rchar: ')[1].split()[0])\n"
        "before = count()\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def compare(scene: Path, labels: Path, folder: Path, repeats: int) -> None:
    retiled = folder / "retile"
    contestants: dict[str, Callable[[], tuple[str, ...]]] = {
        "ours": lambda: (*OURS, str(scene), "--labels", str(labels), "-o", str(folder / "ours")),
        "a loop in the same format": lambda: (sys.executable, "-c", LOOP, str(scene), str(labels), str(retiled)),
        "gdal_retile.py, images only": lambda: (
            *("gdal_retile.py", "-q", "-ps", "512", "512", "-co", "COMPRESS=DEFLATE"),
            *("-targetDir", str(retiled), str(scene)),
        ),
        "reading scene and labels once": lambda: (sys.executable, "-c", READ, str(scene), str(labels)),
        "imports of ours": lambda: (sys.executable, "-c", IMPORTS),
    }
    if not shutil.which("gdal_retile.py"):
        del contestants["gdal_retile.py, images only"]
    measured(sys.executable, "-c", "import cwsam_cli.commands.tile, cwsam_cli.tile.pipeline")  # compiles all modules
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, command in contestants.items():
            for made in (folder / "ours", retiled):
                shutil.rmtree(made, ignore_errors=True)
            retiled.mkdir()
            runs[name].append(measured(*command()))
    print(f"\n{scene.name}: CPU s, wall s, MB (medians of {repeats} runs in turn)")
    for name, own in runs.items():
        cpu, wall, memory = np.median(own, axis=0)
        ratio = np.median([ours[0] / other[0] for ours, other in zip(runs["ours"], own, strict=True)])
        print(f"  {name:30s} {cpu:6.2f} {wall:6.1f} {memory:6.0f}   ours is {ratio:.2f} of its CPU", flush=True)
    shutil.rmtree(folder / "ours", ignore_errors=True)
    count = bytes_read("-q", "tile", str(scene), "--labels", str(labels), "-o", str(folder / "ours"))
    image, label = scene.stat().st_size, labels.stat().st_size
    print(f"  bytes read: {count:,}; scene {image:,}, labels {label:,}: {(count - 2 * label) / image:.3f} × the scene")
    print(f"  if the labels are read twice; {(count - image) / label:.2f} × the labels if the scene is read once")


def report_workers(scene: Path, labels: Path, folder: Path, repeats: int) -> None:
    runs: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, own in runs.items():
            command = (*OURS, str(scene), "--labels", str(labels), "-o", str(folder / "ours"), "--overwrite")
            own.append(measured(*command, "--workers", str(workers)))
    print("\nworkers: CPU s, wall s, MB of the largest process")
    for workers, own in runs.items():
        print(f"  {workers} {' '.join(f'{value:7.1f}' for value in np.median(own, axis=0))}")
    ratio = np.median([one[1] / two[1] for one, two in zip(runs[1], runs[2], strict=True)])
    print(f"  two processes are {ratio:.2f} × as fast as one (wall; needs two idle cores)")


def report_reads(scene: Path, labels: Path, folder: Path, repeats: int) -> None:
    """Read training samples from each format."""
    from cwsam_cli.config.schema import FolderArgs
    from cwsam_cli.dataset.samples import TileDataset
    from cwsam_cli.tile.pipeline import tile_scenes
    from cwsam_cli.tile.request import TileRequest

    print("\ntraining reads: CPU ms per sample of 512 × 512 pixels, image and label")
    datasets: dict[str, TileDataset] = {}
    for kind in get_args(TileFormat):
        request = TileRequest(
            scenes=(str(scene),), labels=labels, output=folder / kind, shares=(1, 0, 0), format=kind, overwrite=True
        )
        manifest = tile_scenes(request)
        args = FolderArgs(
            root_path_1=str(folder / kind / "images" / "train"), root_path_2=str(folder / kind / "labels" / "train")
        )
        datasets[kind] = TileDataset(args, manifest.taxonomy, manifest.bands, 512, train=True)
    order = np.random.default_rng(0).permutation(len(datasets["gtiff"]))[:60].tolist()
    times: dict[str, list[float]] = {kind: [] for kind in datasets}
    for _ in range(repeats + 1):
        for kind, dataset in datasets.items():
            start = time.process_time()
            for number in order:
                dataset[number]
            times[kind].append((time.process_time() - start) / len(order) * 1e3)
    for kind, own in times.items():
        print(f"  {kind:8s} {np.median(own[1:]):6.1f}", flush=True)


def report_many(folder: Path, scenes: int) -> None:
    """Tile small scenes under a limit of open files."""
    image = np.random.default_rng(0).integers(1, 255, (3, 128, 128)).astype(np.uint8)
    codes = (np.arange(128)[None, :] // 8 % 3 + 1).repeat(128, axis=0).astype(np.uint8)
    for kind in ("images", "codes"):
        (folder / kind).mkdir()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(f"\nsmall scenes of 128 × 128 pixels, at most {OPEN_FILES} open files: CPU s, wall s, MB")
    for first, count in ((0, scenes // 4), (scenes // 4, scenes)):
        for number in range(first, count):
            x, y = 600_000 + number % 100 * 1280, 4_000_000 - number // 100 * 1280
            common = {"driver": "GTiff", "width": 128, "height": 128, "crs": "EPSG:32617"}
            common |= {"transform": from_origin(x, y, 10, 10), "dtype": "uint8"}
            with rasterio.open(folder / "images" / f"{number:05}.tif", "w", count=3, **common) as target:
                target.write(image)
            with rasterio.open(folder / "codes" / f"{number:05}.tif", "w", count=1, **common) as target:
                target.write(codes, 1)
        words = (str(folder / "images"), "--labels", str(folder / "codes"), "-o", str(folder / "many"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, most[1]))
        try:
            run = measured(*OURS, *words, "--size", "128", "--overwrite")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        print(f"  {count:6,} {' '.join(f'{value:7.1f}' for value in run)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a quarter of the width and height, once")
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=2_000, help="number of small scenes")
    parser.add_argument("--part", choices=("peers", "workers", "reads", "many"))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    side, repeats = (arguments.side // 4, 1) if arguments.quick else (arguments.side, arguments.repeats)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"rasterio {rasterio.__version__} (GDAL {rasterio.__gdal_version__})")
    if shutil.which("gdal_retile.py"):
        print("gdal_retile.py of", subprocess.getoutput("gdalinfo --version"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.part != "many":
            labels = make_map(folder / "labels.tif", side, side)
            scene = make_scene(folder / "scene.tif", labels, side)
            if arguments.part in (None, "peers"):
                compare(scene, labels, folder, repeats)
            if arguments.part in (None, "workers"):
                report_workers(scene, labels, folder, repeats)
            if arguments.part in (None, "reads"):
                report_reads(scene, labels, folder, repeats)
        if arguments.part in (None, "many"):
            report_many(folder, arguments.scenes)


if __name__ == "__main__":
    main()
