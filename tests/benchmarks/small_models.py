"""What two minutes on two cores teach: sam_tiny against two U-Nets and a random forest on real scenes.

    python tests/benchmarks/small_models.py [--models sam_tiny unet_small] [--scenes nc] [--seeds 0]
        [--budget 240] [--data DIR] [--output FILE.jsonl]

One loop trains all three networks: same ground, crops, augmentation, class weights, schedule
and best-on-validation rule. The budget is CPU seconds of training on one thread (240 = two
minutes on two cores), so that other work on the machine costs nobody steps; validation is not
counted. The learning rate follows the share of the budget that is used, so that a fast model
takes more steps, not a shorter schedule. Test ground is mapped once, by the best weights.
"""

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from hardware import choose_precisions
from numpy.typing import NDArray
from rasterio.windows import Window
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.config.load import load_config, load_taxonomy
from cwsam_cli.config.schema import RunConfig
from cwsam_cli.dataset.statistics import RunningStats, class_weights
from cwsam_cli.dataset.transforms import augment, band_statistics, normalize
from cwsam_cli.learning.losses import loss_parts
from cwsam_cli.learning.optim import build_optimizer, learning_rate, local_shards
from cwsam_cli.metrics.confusion import compute_metrics, confusion_matrix
from cwsam_cli.model.experts import collect_routing
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.routing import routing_loss
from cwsam_cli.model.variants import architecture
from cwsam_cli.predict.blend import hann
from cwsam_cli.raster.grid import lattice
from cwsam_cli.raster.scene import open_raster, open_scene
from cwsam_cli.taxonomy import IGNORE

SETTINGS = ("train_dataset.batch_size=4", "training_settings.ema=0.98")
"""What the networks change of the `tiny` configuration. In bf16 their steps are 1.5 to 2 × as fast."""
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "landcover"
SIZE = 128  # pixels a side of a crop and of a window
CHECKS = 10  # validations in a run
CLOCK = 10_000  # parts that the budget is cut into for the schedule

Build = Callable[[int, int], nn.Module]
Ground = tuple[slice, slice]
ScoresOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Split:
    """Where a scene's rows and columns train, choose the best weights, and test; 16 pixels lie between."""

    folder: str
    classes: str
    train: tuple[Ground, ...]
    val: Ground
    test: Ground


ALL = slice(None)
SPLITS = {
    "nc": Split(
        folder="nc_landsat7_2002",
        classes="nc_landclass96",
        train=((ALL, slice(0, 256)),),
        val=(ALL, slice(272, 340)),
        test=(ALL, slice(356, 526)),
    ),
    "zion": Split(  # validation in the middle of the north, where all the north's classes occur
        folder="zion_landsat8_nlcd",
        classes="zion_nlcd",
        train=((slice(0, 304), ALL), (slice(496, 920), ALL)),
        val=(slice(320, 480), ALL),
        test=(slice(936, 1428), ALL),
    ),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene in memory: image (C, H, W) normalised and classes (K,) weighted by its training ground."""

    split: Split
    image: Tensor
    label: Tensor
    weights: list[float]


def read_scene(folder: Path, split: Split) -> Scene:
    taxonomy = load_taxonomy(split.classes)
    with open_scene(folder / "image.tif") as scene, open_raster(folder / "label.tif") as codes:
        image, valid = scene.read(Window(0, 0, scene.grid.width, scene.grid.height))
        names = scene.band_names
        label = np.frombuffer(taxonomy.code_to_index(), np.uint8)[codes.read(1)]
    stats, pixels = RunningStats(), np.zeros(IGNORE + 1, np.int64)
    for ground in split.train:
        stats.add(image[:, *ground], valid[ground])
        pixels += np.bincount(label[ground].ravel(), minlength=IGNORE + 1)
    weights = class_weights(pixels[: len(taxonomy)].tolist())
    image = normalize(torch.from_numpy(image), torch.from_numpy(valid), *band_statistics(stats.bands(names)))
    return Scene(split, image, torch.from_numpy(label), weights)


def crop(top: int, left: int) -> Ground:
    return slice(top, top + SIZE), slice(left, left + SIZE)


def crops(scene: Scene, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented crops of the training ground: images (count, C, S, S) and labels (count, S, S)."""
    parts = [(scene.image[:, *ground], scene.label[ground]) for ground in scene.split.train]
    free = torch.tensor([[side - SIZE + 1 for side in label.shape] for _, label in parts])
    drawn = []
    for part in torch.multinomial(free.prod(dim=1).double(), count, replacement=True, generator=generator).tolist():
        top, left = (int(torch.randint(places, (), generator=generator)) for places in free[part].tolist())
        area = crop(top, left)
        drawn.append(augment(parts[part][0][:, *area], parts[part][1][area], generator))
    images, labels = zip(*drawn, strict=True)
    return torch.stack(images), torch.stack(labels)


def measure(scores_of: ScoresOf, scene: Scene, ground: Ground) -> NDArray[np.int64]:
    """Map a ground by half-overlapping windows, blended as `cwsam predict` blends them, and count.

    Ground narrower than a window is seen with its neighbourhood, as it would be in a map.
    """
    rows, cols = (part.indices(side) for part, side in zip(ground, scene.label.shape, strict=True))
    top, left = max(0, min(rows[0], rows[1] - SIZE)), max(0, min(cols[0], cols[1] - SIZE))
    image = scene.image[:, top : rows[1], left : cols[1]]

    edge = torch.from_numpy(hann(SIZE)).float()
    total = torch.zeros(len(scene.weights), *image.shape[1:])
    with torch.inference_mode():
        for window in lattice(image.shape[2], image.shape[1], SIZE, SIZE // 2):
            area = crop(int(window.row_off), int(window.col_off))
            total[:, *area] += scores_of(image[None, :, *area])[0] * torch.outer(edge, edge)
    mapped = total.argmax(dim=0).to(torch.uint8).numpy()
    inner = mapped[rows[0] - top :, cols[0] - left :]
    return confusion_matrix(scene.label[ground].numpy(), inner, len(scene.weights))


class UNet(nn.Module):
    """Ronneberger et al. 2015, three levels, padded, with batch norm; `width` channels in the first level."""

    def __init__(self, bands: int, classes: int, width: int) -> None:
        super().__init__()
        self.down1, self.down2 = _double(bands, width), _double(width, 2 * width)
        self.bottom = _double(2 * width, 4 * width)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2), _double(4 * width, 2 * width)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2), _double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.to(memory_format=torch.channels_last)  # 1.3 times as fast

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) → logits (B, K, S, S)."""
        fine = self.down1(x)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.join2(torch.cat([middle, self.up2(coarse)], dim=1))
        return self.head(self.join1(torch.cat([fine, self.up1(middle)], dim=1)))


def _double(channels: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for into in (channels, out):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def sam_tiny(bands: int, classes: int) -> nn.Module:
    return ClassWiseSam(architecture(load_config("tiny").model, num_bands=bands, num_classes=classes))


NETWORKS: dict[str, Build] = {
    "sam_tiny": sam_tiny,
    "unet_small": partial(UNet, width=26),
    "unet_large": partial(UNet, width=130),
}


def train_network(
    build: Build, config: RunConfig, scene: Scene, *, seed: int, budget: float
) -> tuple[ScoresOf, dict[str, Any]]:
    """Train until the budget is used, and come back with the weights that were best on validation."""
    args, settings = config.model.args, config.training_settings
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build(len(scene.image), len(scene.weights))
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = build_optimizer(model, local_shards(model), config.optimizer)
    rate = partial(learning_rate, steps=CLOCK, lr=config.optimizer.args.lr, lr_min=config.lr_min, warmup=CLOCK // 20)
    weights = torch.tensor(scene.weights)
    best: dict[str, Any] = {"val_miou": -1.0}
    best_weights: dict[str, Tensor] = {}
    spent, steps, checks = 0.0, 0, 0
    while spent < budget:
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = rate(int(spent / budget * CLOCK))
        image, label = crops(scene, config.train_dataset.batch_size, generator)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16")
        with collect_routing(model) as routing, autocast:
            logits = model(image)
        loss = torch.stack([*loss_parts(logits.float(), label, args.loss, weights).values()]).sum()
        if routing:
            loss = loss + routing_loss(routing, balance=args.balance_loss, z=args.router_z_loss)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        follow(average, model, min(settings.ema or 0.0, steps / (steps + 10)))
        spent += time.process_time() - start
        if spent >= budget * (checks + 1) / CHECKS:
            checks += 1
            found = compute_metrics(measure(partial(probabilities, average), scene, scene.split.val))
            if (found.mean_iou or 0.0) > best["val_miou"]:
                best = {"val_miou": found.mean_iou, "val_f1": found.mean_f1, "val_accuracy": found.accuracy}
                best |= {"best_check": checks}
                best_weights = copy.deepcopy(average.state_dict())
    average.load_state_dict(best_weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return partial(probabilities, average), best | {"steps": steps, "parameters": parameters}


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model; the statistics of batch norm are an average already."""
    for own, new in zip(average.parameters(), model.parameters(), strict=True):
        own.lerp_(new, 1 - decay)
    for own, new in zip(average.buffers(), model.buffers(), strict=True):
        own.copy_(new)


def probabilities(network: nn.Module, image: Tensor) -> Tensor:
    return network(image).softmax(dim=1)


def train_forest(scene: Scene, *, seed: int, budget: float) -> tuple[ScoresOf, dict[str, Any]]:
    """Grow a forest per setting, each for its share of the budget; the best on validation counts."""
    plain = [(scene.image[:, *ground], scene.label[ground]) for ground in scene.split.train]
    count = sum(label.numel() for _, label in plain) // SIZE**2
    augmented = list(zip(*crops(scene, count, torch.Generator().manual_seed(seed)), strict=True))
    weights, best, best_scores_of = np.array(scene.weights), {"val_miou": -1.0}, None
    settings = [(leaf, kind) for kind in ("plain", "augmented") for leaf in (5, 20)]
    for leaf, kind in settings:
        ground = plain if kind == "plain" else augmented
        x = torch.cat([image.flatten(1) for image, _ in ground], dim=1).T.numpy()
        y = torch.cat([label.flatten() for _, label in ground]).numpy()
        x, y = x[y != IGNORE], y[y != IGNORE]
        forest = RandomForestClassifier(0, min_samples_leaf=leaf, max_samples=0.5, warm_start=True, random_state=seed)
        start = time.process_time()
        while time.process_time() - start < budget / len(settings):
            forest.n_estimators += 1
            forest.fit(x, y, sample_weight=weights[y])
        scores_of = partial(forest_scores, forest, len(weights))
        found = compute_metrics(measure(scores_of, scene, scene.split.val))
        if (found.mean_iou or 0.0) > best["val_miou"]:
            best = {"val_miou": found.mean_iou, "trees": forest.n_estimators, "leaf": leaf, "pixels": kind}
            best_scores_of = scores_of
    return best_scores_of, best


def forest_scores(forest: RandomForestClassifier, classes: int, image: Tensor) -> Tensor:
    """(B, C, H, W) → class probabilities (B, K, H, W)."""
    pixels = image.movedim(1, -1)
    scores = torch.zeros(*pixels.shape[:-1], classes)
    found = torch.from_numpy(forest.predict_proba(pixels.flatten(0, -2).numpy())).float()
    scores[..., forest.classes_.tolist()] = found.view(*pixels.shape[:-1], -1)
    return scores.movedim(-1, 1)


def run(model: str, place: str, data: Path, *, seed: int, budget: float, precision: str) -> dict[str, Any]:
    """Train one model on one scene and map the test ground once."""
    scene = read_scene(data / SPLITS[place].folder, SPLITS[place])
    if model == "forest":
        scores_of, told = train_forest(scene, seed=seed, budget=budget)
    else:
        config = load_config("tiny", [*SETTINGS, f"training_settings.precision={precision}"])
        scores_of, told = train_network(NETWORKS[model], config, scene, seed=seed, budget=budget)
    found = compute_metrics(measure(scores_of, scene, scene.split.test))
    figures = {"miou": found.mean_iou, "f1": found.mean_f1, "accuracy": found.accuracy}
    return {"model": model, "scene": place, "seed": seed, "budget": budget} | figures | told


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and spread over the seeds, as Markdown."""
    yield "| scene | model | parameters | steps or trees | mIoU | mean F1 | accuracy |"
    yield "|---|---|---|---|---|---|---|"
    for place, model in dict.fromkeys((row["scene"], row["model"]) for row in rows):
        own = [row for row in rows if (row["scene"], row["model"]) == (place, model)]
        size = f"{own[0]['parameters'] / 1e6:.2f} M" if "parameters" in own[0] else ""
        effort = statistics.median(row.get("steps") or row["trees"] for row in own)
        means = []
        for key in ("miou", "f1", "accuracy"):
            values = [row[key] for row in own]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            means.append(f"{statistics.mean(values):.3f}{spread}")
        yield f"| {place} | {model} | {size} | {effort:.0f} | {' | '.join(means)} |"


def main() -> None:
    models = [*NETWORKS, "forest"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--scenes", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=240, help="CPU seconds of training")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the scenes' folders")
    parser.add_argument("--output", type=Path, help="append each run to this file as a line of JSON")
    asked = parser.parse_args()
    if not asked.data.is_dir():
        print(f"skipped: there are no scenes in {asked.data}; see --data")
        return
    torch.set_num_threads(1)
    precision = choose_precisions()[-1]
    rows = []
    for seed in asked.seeds:  # seeds outermost, so that other work on the machine meets all models alike
        for place in asked.scenes:
            for model in asked.models:
                rows.append(run(model, place, asked.data, seed=seed, budget=asked.budget, precision=precision))
                print(json.dumps(rows[-1]), flush=True)
                if asked.output:
                    with asked.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
