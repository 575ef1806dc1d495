"""The demo's scene: sam_tiny with experts against the same model with dense MLPs, three seeds, same steps.

    python tests/benchmarks/demo.py [--steps 200]

And with training labels shuffled between tiles, to see whether held-out ground leaks.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from cwsam_cli.assess.pipeline import evaluate
from cwsam_cli.assess.request import ModelRequest
from cwsam_cli.config.load import load_config
from cwsam_cli.demo.pipeline import SETTINGS, example_request
from cwsam_cli.metrics.confusion import compute_metrics, constant_matrix
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.train.pipeline import train
from cwsam_cli.train.run import BEST

MODELS = {"experts 2 × 4": (), "dense MLPs": ("model.args.encoder_mode.moe_num_expert_groups=0",)}


def run(
    dataset: Path, folder: Path, steps: int, seed: int, overrides: tuple[str, ...]
) -> tuple[float, float, int, float]:
    """Accuracy, mIoU and classes predicted on held-out ground, and CPU seconds of training."""
    batch = load_config("tiny", SETTINGS).train_dataset.batch_size
    per_epoch = -(-len(list((dataset / "images" / "train").iterdir())) // batch)
    epochs = -(-steps // per_epoch)
    schedule = (f"epoch_max={epochs}", f"epoch_val={max(1, epochs // 8)}", f"training_settings.seed={seed}")
    settings = [*SETTINGS, *schedule, *overrides]
    start = time.process_time()
    train(load_config("tiny", settings, data=[dataset]), folder)
    seconds = time.process_time() - start
    found = evaluate(ModelRequest(checkpoint=folder / BEST, data=(dataset,)))
    assert found is not None
    return found.metrics.accuracy or 0, found.metrics.mean_iou or 0, int((found.matrix.sum(axis=0) > 0).sum()), seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Path(temporary) / "dataset"
        tile_scenes(example_request(dataset, 128))
        for name, overrides in MODELS.items():
            rows = [run(dataset, Path(temporary) / f"{name}{seed}", steps, seed, overrides) for seed in range(3)]
            for seed, (accuracy, mean_iou, classes, seconds) in enumerate(rows):
                figures = f"accuracy {accuracy:.3f}, mIoU {mean_iou:.3f}, {classes} classes, {seconds:.0f} CPU s"
                print(f"{name} seed {seed}: {figures}")
            for column, what in ((0, "accuracy"), (1, "mIoU")):
                values = [row[column] for row in rows]
                print(f"{name}: {what} {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}", flush=True)
        found = evaluate(ModelRequest(checkpoint=Path(temporary) / "dense MLPs0" / BEST, data=(dataset,)))
        assert found is not None
        constant = compute_metrics(constant_matrix(found.matrix, int(found.matrix.sum(axis=1).argmax())))
        print(f"always the largest class: accuracy {constant.accuracy:.3f}, mIoU {constant.mean_iou:.3f}")
        shuffled = Path(temporary) / "shuffled"
        shutil.copytree(dataset, shuffled)
        files = sorted((shuffled / "labels" / "train").iterdir())
        contents = [path.read_bytes() for path in files]
        random.Random(0).shuffle(contents)
        for path, content in zip(files, contents, strict=True):
            path.write_bytes(content)
        accuracy, mean_iou, *_ = run(shuffled, Path(temporary) / "nonsense", steps, 0, ())
        print(f"labels shuffled between training tiles: accuracy {accuracy:.3f}, mIoU {mean_iou:.3f}")


if __name__ == "__main__":
    main()
