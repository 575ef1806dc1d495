"""CPU seconds, wall and peak memory of `cwsam vectorize` against three peers, in one run.

python tests/benchmarks/vectorize.py [--quick] [--side N] [--part NAME] [--folder DIR]

The rasters are made here: fractal noise of 33 classes on 10,000 × 10,000 pixels (smooth, about
100,000 polygons), the same on 40,000 rows, and one with a share of its pixels replaced at
random (millions of polygons). Peers: (a) what people write, `rasterio.features.shapes` into a
GeoDataFrame; (b) GDALPolygonize of the libgdal inside rasterio's wheel, by ctypes; (c) Debian's
gdal_polygonize.py where it is installed. Every one runs as a process of its own, so its start
counts. `--quick` takes a quarter of the width and height and leaves out the speckled raster.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

CLASSES, BANDS, FINEST, OCTAVES, ROWS = 33, 6, 16, 4, 512

OURS = (sys.executable, "-m", "cwsam_cli", "-q", "vectorize")


def noise(top: int, rows: int, width: int, seed: int) -> NDArray[np.float32]:
    """Rows of fractal value noise (rows, width), 0 to 1, the same whatever the rows are cut into."""
    total = np.zeros((rows, width), np.float32)
    for octave in range(OCTAVES):
        cell = FINEST * 2**octave
        y, x = np.arange(top, top + rows) / cell, np.arange(width) / cell
        y0, x0 = y.astype(int), x.astype(int)
        fy, fx = ((3 - 2 * f) * f * f for f in ((y - y0).astype(np.float32), (x - x0).astype(np.float32)))
        lattice = np.stack(
            [
                np.random.default_rng([seed, octave, row]).random(x0[-1] + 2, dtype=np.float32)
                for row in range(y0[0], y0[-1] + 2)
            ]
        )
        along = lattice[:, x0] * (1 - fx) + lattice[:, x0 + 1] * fx
        at = y0 - y0[0]
        total += 2 ** (1.5 * octave) * (along[at] * (1 - fy)[:, None] + along[at + 1] * fy[:, None])
    return total / sum(2 ** (1.5 * octave) for octave in range(OCTAVES))


def make_map(path: Path, height: int, width: int, speckle: float = 0) -> Path:
    """A map of 33 classes: two fields of noise, cut into six levels each."""
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "crs": "EPSG:32617"}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "zstd"}
    place = {"height": height, "width": width, "transform": from_origin(600_000, 4_000_000, 10, 10)}
    with rasterio.open(path, "w", **profile, **layout, **place) as target:
        for top in range(0, height, ROWS):
            rows = min(ROWS, height - top)
            levels = [
                ((noise(top, rows, width, seed) - 0.25) / 0.5 * BANDS).clip(0, BANDS - 1).astype(int) for seed in (0, 1)
            ]
            codes = ((levels[0] * BANDS + levels[1]) * 7 % CLASSES).astype(np.uint8)
            if speckle:
                rng = np.random.default_rng([9, top])
                random = rng.random(codes.shape) < speckle
                codes[random] = rng.integers(0, CLASSES, random.sum())
            target.write(codes, 1, window=Window(0, top, width, rows))
    return path


def shapes_and_geopandas(source: str, target: str) -> None:
    """(a)"""
    import geopandas
    from rasterio.features import shapes
    from shapely.geometry import shape

    with rasterio.open(source) as dataset:
        codes, valid = dataset.read(1), dataset.read_masks(1) > 0
        pairs = [
            (shape(rings), int(code))
            for rings, code in shapes(codes, mask=valid, connectivity=4, transform=dataset.transform)
        ]
        frame = geopandas.GeoDataFrame(
            {"code": [code for _, code in pairs]}, geometry=[geometry for geometry, _ in pairs], crs=dataset.crs
        )
    frame["area_m2"] = frame.area
    frame.to_file(target, driver="GPKG")


def gdal_polygonize(source: str, target: str) -> None:
    """(b)"""
    library = next((Path(rasterio.__file__).parents[1] / "rasterio.libs").glob("libgdal*"))
    gdal = ctypes.CDLL(str(library))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int

    def call(name: str, result: object, *arguments: tuple[object, object]) -> object:
        function = getattr(gdal, name)
        function.restype, function.argtypes = result, [kind for kind, _ in arguments]
        return function(*(value for _, value in arguments))

    call("GDALAllRegister", None)
    dataset = call("GDALOpen", pointer, (text, source.encode()), (number, 0))
    band = call("GDALGetRasterBand", pointer, (pointer, dataset), (number, 1))
    mask = call("GDALGetMaskBand", pointer, (pointer, band))
    driver = call("GDALGetDriverByName", pointer, (text, b"GPKG"))
    sizes = [(number, 0)] * 4
    output = call("GDALCreate", pointer, (pointer, driver), (text, target.encode()), *sizes, (pointer, None))
    srs = call("GDALGetSpatialRef", pointer, (pointer, dataset))
    layer = call(
        "GDALDatasetCreateLayer",
        pointer,
        *((pointer, output), (text, b"polygons"), (pointer, srs), (number, 3), (pointer, None)),
    )
    field = call("OGR_Fld_Create", pointer, (text, b"code"), (number, 0))
    call("OGR_L_CreateField", number, (pointer, layer), (pointer, field), (number, 1))
    call("GDALDatasetStartTransaction", number, (pointer, output), (number, 0))
    nothing = [(pointer, None)] * 3
    call("GDALPolygonize", number, (pointer, band), (pointer, mask), (pointer, layer), (number, 0), *nothing)
    call("GDALDatasetCommitTransaction", number, (pointer, output))
    call("GDALClose", None, (pointer, output))


def simplify_each(source: str, target: str) -> None:
    """Simplify polygons one by one: what `--simplify` is compared with."""
    import geopandas
    import shapely

    from cwsam_cli.vectorize.coverage import Coverage

    frame = geopandas.read_file(source, layer=Path(source).stem)
    start = time.process_time()
    simple = frame.geometry.simplify(15, preserve_topology=True)
    seconds = time.process_time() - start
    coverage = Coverage()
    xy, (rings, _) = shapely.to_ragged_array(simple.to_numpy())[1:]
    coverage.add_rings(xy, rings.astype(np.int64))
    lost = 1 - simple.area.sum() / frame.area.sum()
    Path(target).write_text(
        json.dumps({"seconds": seconds, "unmatched": coverage.unmatched, "edges": coverage.edges, "lost": lost})
    )


def measured(*command: str) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak MB of a process of its own."""
    script = (
        "import os, resource, subprocess, sys, time; t = time.time(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(u.ru_utime + u.ru_stime, time.time() - t, u.ru_maxrss / 1024)"
    )
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/cwsam_bytecode",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once, not in each process
    done = subprocess.run(
        [sys.executable, "-c", script, *command], env=environment, check=True, capture_output=True, text=True
    )
    cpu, wall, memory = map(float, done.stdout.split())
    return cpu, wall, memory


def contestants(source: Path, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    me, python = str(Path(__file__).resolve()), sys.executable
    yield "ours", (*OURS, str(source), str(folder / "ours.gpkg"), "--overwrite")
    yield "(a) shapes + GeoDataFrame", (python, me, "--peer", "a", str(source), str(folder / "a.gpkg"))
    yield "(b) GDALPolygonize", (python, me, "--peer", "b", str(source), str(folder / "b.gpkg"))
    if shutil.which("gdal_polygonize.py") and "speckle" not in source.name:
        yield "(c) gdal_polygonize.py", ("gdal_polygonize.py", "-q", str(source), str(folder / "c.gpkg"))


def compare(source: Path, folder: Path, repeats: int) -> None:
    print(f"\n{source.name}: CPU s, wall s, MB (median of {repeats})")
    first = None
    for name, command in contestants(source, folder):
        runs = []
        for _ in range(repeats):
            for stale in folder.glob("[abc].gpkg*"):
                stale.unlink()
            runs.append(measured(*command))
        cpu, wall, memory = np.median(runs, axis=0)
        first = first or (cpu, memory)
        ratio = f"ours is {first[0] / cpu:.2f} of its CPU, {first[1] / memory:.2f} of its memory"
        print(f"  {name:28s} {cpu:7.1f} {wall:7.1f} {memory:7.0f}   {ratio}", flush=True)


def report_simplify(source: Path, folder: Path) -> None:
    exact, simple = folder / "ours.gpkg", folder / "simple.gpkg"
    plain = measured(*OURS, str(source), str(exact), "--overwrite")[0]
    cpu = measured(*OURS, str(source), str(simple), "--overwrite", "--simplify", "15m")[0]
    command = [*OURS, str(source), str(simple), "--overwrite", "--simplify", "15m", "--check", "--json"]
    checked = json.loads(subprocess.check_output(command))
    measured(sys.executable, __file__, "--peer", "simplify", str(exact), str(folder / "each.json"))
    each = json.loads((folder / "each.json").read_text())
    print("\n--simplify 15m")
    print(f"  ours: {cpu:.1f} CPU s, {plain:.1f} without: {cpu - plain:.1f} more; {checked['check']}")
    print(f"  each polygon alone: {each['seconds']:.1f} CPU s in simplify() alone; {each}")


def report_rows(smooth: Path, folder: Path, side: int) -> None:
    tall = make_map(folder / "tall.tif", 4 * side, side)
    print("\nfour times the rows: CPU s, wall s, MB")
    for extra in ((), ("--simplify", "15m"), ("--min-area", "1ha")):
        for source in (smooth, tall):
            cpu, wall, memory = measured(*OURS, str(source), str(folder / "tall.gpkg"), "--overwrite", *extra)
            print(f"  {source.name:12s} {' '.join(extra):16s} {cpu:7.1f} {wall:7.1f} {memory:7.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--part", choices=("peers", "simplify", "rows", "speckle"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peer", nargs=3)
    arguments = parser.parse_args()
    if arguments.peer:
        peer, source, target = arguments.peer
        {"a": shapes_and_geopandas, "b": gdal_polygonize, "simplify": simplify_each}[peer](source, target)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        side, repeats = (arguments.side // 4, 1) if arguments.quick else (arguments.side, 3)
        print(f"rasterio {rasterio.__version__} (GDAL {rasterio.__gdal_version__})")
        if shutil.which("gdal_polygonize.py"):
            print("gdal_polygonize.py of", subprocess.getoutput("gdalinfo --version"))
        smooth = make_map(folder / "smooth.tif", side, side)
        warm = ("--simplify", "15m", "--min-area", "1ha", "--check")
        measured(*OURS, str(make_map(folder / "small.tif", 200, 200)), str(folder / "warm.gpkg"), *warm)
        parts = (arguments.part,) if arguments.part else ("peers", "simplify", "rows", "speckle")
        if "peers" in parts:
            compare(smooth, folder, repeats)
        if "simplify" in parts:
            report_simplify(smooth, folder)
        if "rows" in parts:
            report_rows(smooth, folder, side)
        if "speckle" in parts and not arguments.quick:
            compare(make_map(folder / "speckle.tif", side, side, speckle=0.03), folder, 1)


if __name__ == "__main__":
    main()
