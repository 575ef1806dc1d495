"""Maps by streaming against the accumulator of the whole scene that peers keep, and what a map costs.

python tests/benchmarks/predict.py [PART ...]     parts: stub large limit tiny read accelerator

A stub stands for the model, so that only reading, blending and writing count: 33 classes,
windows of 512 pixels, a quarter shared. The peer adds weighted logits into a float64 array
of the whole scene, divides by the weights' sum and takes the arg max. Each measurement is a
process of its own; its memory is the peak over that of a process that only loads the same
modules.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for modules of the tests

CLASSES, SIZE, OVERLAP, BATCH = 33, 512, 128, 4


def scene_file(folder: Path, height: int, width: int) -> Path:
    """A GeoTIFF of three bands that compresses as scenes do, with a nodata collar."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    path = folder / f"{height}x{width}.tif"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (3, 64, 64)).repeat(8, axis=1).repeat(8, axis=2)
    block = (coarse + rng.integers(0, 8, coarse.shape)).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", nodata=0, tiled=True,
        blockxsize=512, blockysize=512, compress="zstd", zstd_level=1, predictor=2, interleave="pixel",
        crs="EPSG:32617", transform=from_origin(600_000, 4_000_000, 10, 10), bigtiff="if_safer",
    ) as target:  # fmt: skip
        for top in range(0, height, 512):
            for left in range(0, width, 512):
                window = Window(left, top, min(512, width - left), min(512, height - top))
                values = block[:, : window.height, : window.width].copy()
                if top == left == 0:
                    values[:, :200, :300] = 0
                target.write(values, window=window)
    return path


def stub_scores():  # type: ignore[no-untyped-def]
    """Windows to logits at the cost of a copy, each window for itself."""
    import numpy as np
    import torch

    rng = np.random.default_rng(1)
    pool = [rng.normal(size=(CLASSES, SIZE, SIZE)).astype(np.float32) for _ in range(3)]

    def score(images):  # type: ignore[no-untyped-def]
        return torch.from_numpy(np.stack([pool[int(abs(float(image[0, 9, 9]) * 1000)) % 3] for image in images]))

    return score


def stub_plan(scene: Path, max_memory: int | None):  # type: ignore[no-untyped-def]
    import dataclasses

    import rasterio

    from cwsam_cli.dataset.manifest import Band
    from cwsam_cli.predict.memory import Needs, cut, resident_memory
    from cwsam_cli.predict.windows import MARGIN
    from cwsam_cli.raster.grid import Grid
    from cwsam_cli.raster.lattice import cuts
    from cwsam_cli.raster.scene import GDAL_CACHE
    from tests.predict_plans import plan_of

    with rasterio.open(scene) as dataset:
        grid = Grid.of(dataset)
    bands = tuple(Band(name=f"band_{n}", mean=120.0, std=40.0) for n in (1, 2, 3))
    plan = plan_of(scene, grid, classes=CLASSES, size=SIZE, overlap=OVERLAP, margin=MARGIN, bands=bands)
    plan = dataclasses.replace(plan, request=dataclasses.replace(plan.request, batch_size=BATCH))
    fixed = resident_memory() + 3 * CLASSES * SIZE**2 * 4 + GDAL_CACHE
    needs = Needs(
        lattice=plan.lattice, fixed=fixed, model=0, bands=3, image_bytes=1, classes=CLASSES, layers=1, block_height=512
    )
    columns, batch = cut(needs, grid.width, plan.request, limit=max_memory or 4_000_000_000)
    col_cuts = cuts(0, grid.width, columns)
    return dataclasses.replace(plan, batch=batch, group=needs.group(columns, batch), col_cuts=col_cuts)


def ours(scene: Path, output: Path, max_memory: int | None) -> None:
    import rasterio
    import torch

    from cwsam_cli.journal import journal
    from cwsam_cli.predict.mapfile import write_map
    from cwsam_cli.predict.pieces import make_pieces
    from cwsam_cli.raster.scene import GDAL_CACHE

    score = stub_scores()
    plan = stub_plan(scene, max_memory)
    with journal(output, {}, {}) as kept:
        make_pieces(plan, score, kept, device=torch.device("cpu"))
        kept.scan()
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
            write_map(output, plan, kept.read, scratch=kept.folder)


def peer(scene: Path, height: int, width: int, output: Path) -> None:
    """The full accumulator."""
    import numpy as np
    import rasterio
    import torch

    from cwsam_cli.dataset.manifest import Band
    from cwsam_cli.dataset.transforms import band_statistics, normalize
    from cwsam_cli.raster.lattice import Lattice
    from cwsam_cli.raster.scene import GDAL_CACHE, open_scene

    score = stub_scores()
    bands = [Band(name=f"band_{n}", mean=120.0, std=40.0) for n in (1, 2, 3)]
    statistics = band_statistics(bands)
    edge = np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2
    weight = np.outer(edge, edge)
    total, weights = np.zeros((CLASSES, height, width)), np.zeros((height, width))
    lattice = Lattice.over(width, height, SIZE, OVERLAP)
    places = [(row, col) for row in range(len(lattice.rows)) for col in range(len(lattice.cols))]
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), open_scene(scene) as opened:
        seen = np.zeros((height, width), bool)
        for start in range(0, len(places), BATCH):
            windows = [lattice.window(*place) for place in places[start : start + BATCH]]
            images = []
            for window in windows:
                image, valid = opened.read(window)
                seen[window.toslices()] = valid
                images.append(normalize(torch.from_numpy(image), torch.from_numpy(valid), *statistics))
            for window, logits in zip(windows, score(torch.stack(images)).numpy(), strict=True):
                total[:, *window.toslices()] += logits * weight
                weights[window.toslices()] += weight
        codes = np.full((height, width), 255, np.uint8)
        for top in range(0, height, 256):  # the whole at once would take its memory twice
            rows = slice(top, top + 256)
            total[:, rows] /= weights[rows]
            codes[rows] = np.where(seen[rows], total[:, rows].argmax(axis=0), 255)
        with rasterio.open(
            output, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", nodata=255, tiled=True,
            blockxsize=256, blockysize=256, compress="deflate", crs=opened.grid.crs, transform=opened.grid.transform,
        ) as target:  # fmt: skip
            target.write(codes, 1)


def child(arguments: list[str]) -> None:
    what, folder, height, width, limit = arguments
    shape = int(height), int(width)
    if what == "accelerator":
        count_travel(Path(folder), shape[0])
        return
    scene = scene_file(Path(folder), *shape)
    output = Path(folder) / f"{what}-{height}x{width}.tif"

    if what == "ours":
        ours(scene, output, int(limit) or None)
    elif what == "peer":
        peer(scene, *shape, output)


def measure(what: str, folder: Path, shape: tuple[int, int], limit: int = 0) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a process of its own."""
    command = [sys.executable, __file__, "child", what, str(folder), str(shape[0]), str(shape[1]), str(limit)]
    pid = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(pid.pid, 0)
    if status:
        raise SystemExit(f"{what} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def stub(folder: Path) -> None:
    """CPU and memory against the peer."""
    shape = (4096, 4096)
    scene_file(folder, *shape)
    base_cpu, base = measure("nothing", folder, shape)
    pairs = [(measure("ours", folder, shape), measure("peer", folder, shape)) for _ in range(3)]
    (ours_cpu, peer_cpu), (ours_mb, peer_mb) = (
        [statistics.median(pair[side][what] for pair in pairs) - less for side in (0, 1)]
        for what, less in ((0, base_cpu), (1, base))
    )
    print(f"4,096²: {ours_cpu:.1f} CPU s and {ours_mb:.0f} MB, peer {peer_cpu:.1f} CPU s and {peer_mb:.0f} MB")
    print(f"  × the peer: {ours_cpu / peer_cpu:.2f} CPU (target 0.4), {ours_mb / peer_mb:.2f} memory (target 0.2)")


def large(folder: Path) -> None:
    """Memory by height, and what the peer's arrays would take."""
    _, base = measure("nothing", folder, (512, 512))
    for shape in ((4000, 10_000), (20_000, 10_000)):
        scene_file(folder, *shape)
        cpu, memory = measure("ours", folder, shape)
        theirs = 8 * (CLASSES + 1) * shape[0] * shape[1] / 1e9
        print(f"{shape[0]:,} rows × {shape[1]:,}: {cpu:.0f} CPU s, {memory - base:.0f} MB; peer {theirs:.1f} GB")


def limit(folder: Path) -> None:
    """The whole process's memory under a limit."""
    shape = (20_000, 30_000)
    scene_file(folder, *shape)
    cpu, memory = measure("ours", folder, shape, 1_000_000_000)
    print(f"20,000 rows × 30,000 under 1 GB: {cpu:.0f} CPU s, {memory * 2**20 / 1e6:.0f} MB in all")


def untrained(path: Path, bands: tuple[str, ...], *settings: str) -> Path:
    """Write a checkpoint of `tiny` with random weights and seven classes."""
    import torch

    from cwsam_cli.config.load import load_config
    from cwsam_cli.model.network import ClassWiseSam
    from cwsam_cli.model.variants import architecture
    from tests.checkpoints import save_network

    torch.manual_seed(0)
    arch = architecture(load_config("tiny", list(settings)).model, num_bands=len(bands), num_classes=7)
    return save_network(ClassWiseSam(arch), path, bands)


def read(folder: Path) -> None:
    """Bytes of a scene that `cwsam predict` reads, by strace, as a multiple of the file."""
    import re
    import shutil

    import numpy as np
    import rasterio

    if shutil.which("strace") is None:
        print("bytes read: strace is not installed")
        return
    mode = "model.args.encoder_mode={embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], patch_size: 16, "
    mode += "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 0}"
    names = tuple(f"band_{n}" for n in range(1, 6))
    checkpoint = untrained(folder / "small.pth", names, "model.args.inp_size=512", mode)
    values = np.random.default_rng(0).integers(1, 255, (5, 4000, 4000), np.uint8)
    grid = {"width": 4000, "height": 4000, "count": 5, "dtype": "uint8", "nodata": 0, "crs": "EPSG:32617"}
    grid["transform"] = rasterio.Affine(10, 0, 600_000, 0, -10, 4_000_000)
    layouts: dict[str, dict[str, Any]] = {
        f"tiles of {side}": {"tiled": True, "blockxsize": side, "blockysize": side} for side in (256, 512)
    }
    for name, layout in (layouts | {"strips": {}}).items():
        scene, log = folder / "read.tif", folder / "strace.log"
        with rasterio.open(scene, "w", driver="GTiff", **grid, **layout) as target:
            target.write(values)
        line = ["strace", "-f", "-q", "-P", scene, "-e", "trace=read,pread64", "-o", log, sys.executable, "-m"]
        line += ["cwsam_cli", "-q", "predict", scene, "-c", checkpoint, "-o", folder / "read_map.tif", "--overwrite"]
        subprocess.run(list(map(str, line)), check=True, stdout=subprocess.DEVNULL)
        total = sum(int(count) for count in re.findall(r"(?:read|pread64|resumed>).* = (\d+)$", log.read_text(), re.M))
        print(f"4,000², five bands, {name}: {total / scene.stat().st_size:.2f} × the file is read (target 1.1)")


def accelerator(folder: Path) -> None:
    """What travels between the host and a pretended accelerator, and how often the host waits."""
    command = [sys.executable, __file__, "child", "accelerator", str(folder), "1024", "1024", "0"]
    subprocess.run(command, check=True)


def count_travel(folder: Path, side: int) -> None:
    import numpy as np
    import rasterio

    from cwsam_cli.distributed.world import World
    from cwsam_cli.predict.planning import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.network import Model
    from cwsam_cli.predict.work import make_map
    from tests.pretended_accelerator import COUNT, DEVICE, on

    bands = tuple(f"band_{n}" for n in range(1, 6))
    scene, checkpoint = folder / "five.tif", untrained(folder / "five.pth", bands)
    values = np.random.default_rng(0).integers(1, 255, (5, side, side), np.uint8)
    grid = {"width": side, "height": side, "count": 5, "dtype": "uint8", "nodata": 0, "crs": "EPSG:32617"}
    transform = rasterio.Affine(10, 0, 600_000, 0, -10, 4_000_000)
    with rasterio.open(scene, "w", driver="GTiff", transform=transform, **grid) as target:
        target.write(values)
    with on():
        request = MapRequest(
            scene=str(scene), checkpoint=checkpoint, output=folder / "five_map.tif", device=DEVICE, precision="fp32"
        )
        model = Model.open(request)
        plan, score = make_plan(request, model), model.scorer(request)
        weights = COUNT["up"]
        COUNT.clear()
        make_map(plan, score, World(model.device))
    pixels = side * side
    print(f"sam_tiny, {side:,}², five uint8 bands, seven classes: {COUNT['up'] / pixels:.2f} bytes per pixel go up")
    print(f"  besides {weights / 1e6:.0f} MB of weights; {COUNT['down'] / pixels:.2f} come down (targets 12 and 2)")
    print(f"  {COUNT['reads']} host reads, {COUNT['waits']} waits for earlier work, {COUNT['operations']:,} operations")


def tiny(folder: Path) -> None:
    """sam_tiny from end to end: where the time goes, whether the cut changes the map, and two processes."""
    import time
    from unittest.mock import patch

    import numpy as np
    import rasterio
    import torch
    from hardware import choose_precisions

    from cwsam_cli.predict import planning
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.scorer import Scorer
    from cwsam_cli.predict.workers.parts import predict_share as predict

    torch.set_num_threads(1)
    checkpoint = untrained(folder / "tiny.pth", ("red", "green", "blue"))
    scene = scene_file(folder, 1536, 1536)
    spent = [0.0]
    cut = planning.cut

    def narrow(*arguments: Any, **settings: Any) -> tuple[int, int]:
        return 1024, cut(*arguments, **settings)[1]

    call = Scorer.__call__

    def timed(self: Scorer, images: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        scores = call(self, images)
        spent[0] += time.perf_counter() - start
        return scores

    def run(name: str, **options: object) -> tuple[float, np.ndarray]:
        plain = {"device": "cpu", "precision": "fp32", "overwrite": True}
        request = MapRequest(scene=str(scene), checkpoint=checkpoint, output=folder / name, **plain | options)
        start = time.perf_counter()
        predict(request)
        seconds = time.perf_counter() - start
        with rasterio.open(folder / name) as dataset:
            return seconds, dataset.read(1)

    Scorer.__call__ = timed  # type: ignore[method-assign]
    for precision in choose_precisions():
        spent[0] = 0.0
        seconds, _ = run("warm.tif", precision=precision)
        share = spent[0] / seconds
        print(f"sam_tiny, {precision}, 1,536², one thread: {seconds:.1f} s, {share:.3f} in the model (target 0.85)")
    one_s, whole = run("one.tif")
    print(f"  the map shows {len(np.unique(whole))} classes")
    for label, options in (
        ("batches of 3", {"batch_size": 3}),
        ("columns of 1,024 pixels", {"batch_size": 8}),
        ("two processes", {"gpus": 2}),
    ):
        with patch.object(planning, "cut", narrow if "columns" in label else cut):
            seconds, other = run("other.tif", **options)
        same = 100 * (other == whole).mean()
        print(f"  {label}: {same:.4f} % of the pixels agree (target 99.99), {one_s / seconds:.2f} × the speed")


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
        return
    parts = {"stub": stub, "large": large, "limit": limit, "tiny": tiny, "read": read, "accelerator": accelerator}
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("part", nargs="*", choices=[*parts, []], default=list(parts))
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parse_args().part:
            parts[part](Path(folder))


if __name__ == "__main__":
    main()
