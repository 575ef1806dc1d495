"""Which small model is right on ground it has not seen: sam_tiny, a pyramid, U-Net, boosting and forest.

    python tests/benchmarks/far_ground.py [--models sam_tiny unet] [--pairs zion_ns] [--seeds 0]
        [--budget 120] [--data DIR] [--output FILE.jsonl]

A pair is a ground to train on and a distant ground to test on. One loop trains all networks: same crops, augmentation,
class weights, schedule, averaged weights and best-on-validation rule. The budget is CPU seconds of training on one
thread; validation is not counted. The learning rate follows the share of the budget that is used, so that a fast model
takes more steps, not a shorter schedule. Forest and boosting see single pixels of the same ground, and their settings
are chosen on the same validation ground. Test ground is mapped once, by the best weights.

The mean IoU is that of classes with at least 1,000 pixels in both grounds: a class of a few pixels decides the mean of
all classes, and chance decides its IoU. `shifts` are the same test ground, changed as other seasons, light and sensors
change it, and mapped with the training data's statistics (`training`) and with the changed scene's own (`scene`).
"""

import argparse
import copy
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import rasterio
import torch
from hardware import choose_precisions
from numpy.typing import NDArray
from pyramid import Pyramid
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.config.load import load_config, load_taxonomy
from cwsam_cli.config.schema import RunConfig
from cwsam_cli.dataset.statistics import class_weights
from cwsam_cli.dataset.transforms import augment
from cwsam_cli.demo.pipeline import find_example
from cwsam_cli.errors import DataError
from cwsam_cli.learning.losses import loss_parts
from cwsam_cli.learning.optim import build_optimizer, learning_rate, local_shards
from cwsam_cli.metrics.confusion import compute_metrics, confusion_matrix
from cwsam_cli.model.experts import collect_routing
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.routing import routing_loss
from cwsam_cli.model.variants import architecture
from cwsam_cli.predict.blend import hann
from cwsam_cli.raster.grid import lattice
from cwsam_cli.taxonomy import IGNORE

SETTINGS = ("train_dataset.batch_size=4", "training_settings.ema=0.98")
"""What the networks change of the `tiny` configuration."""
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "landcover"
SIZE = 128  # pixels a side of a crop and of a window
CHECKS = 10  # validations in a run
CLOCK = 10_000  # parts that the budget is cut into for the schedule
ENOUGH = 1000  # pixels of a class, in the training and in the test ground

Build = Callable[[int, int], nn.Module]
Part = tuple[slice, slice]
ScoresOf = Callable[[Tensor], Tensor]
Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a scene's rows and columns train, choose the best weights, and test.

    At least 16 pixels lie between them; chips of aerial images lie apart anyway.
    """

    folder: str
    classes: str
    train: tuple[Part, ...]
    val: tuple[Part, ...]
    test: tuple[Part, ...]


ALL = slice(None)


def _chips(*numbers: int) -> tuple[Part, ...]:
    return tuple((slice(256 * number, 256 * (number + 1)), ALL) for number in numbers)


_RALEIGH = partial(Pair, "nc_landsat7_2002", "nc_landclass96")
_ZION = partial(Pair, "zion_landsat8_nlcd", "zion_nlcd")
PAIRS = {
    "raleigh_we": _RALEIGH(((ALL, slice(0, 256)),), ((ALL, slice(272, 340)),), ((ALL, slice(356, 526)),)),
    "raleigh_ew": _RALEIGH(((ALL, slice(270, 526)),), ((ALL, slice(186, 254)),), ((ALL, slice(0, 170)),)),
    "zion_ns": _ZION(  # validation in the middle of the north, where all the north's classes occur
        ((slice(0, 304), ALL), (slice(496, 920), ALL)), ((slice(320, 480), ALL),), ((slice(936, 1428), ALL),)
    ),
    "zion_sn": _ZION(
        ((slice(508, 932), ALL), (slice(1124, 1428), ALL)), ((slice(948, 1108), ALL),), ((slice(0, 492), ALL),)
    ),
    "zion_we": _ZION(
        ((slice(0, 600), slice(0, 360)), (slice(776, 1428), slice(0, 360))),
        ((slice(616, 760), slice(0, 360)),),
        ((ALL, slice(376, 736)),),
    ),
    "naip": Pair("naip_wv_1m_nogeo", "chesapeake", _chips(1, 2, 3, 4), _chips(0), _chips(5, 6, 7)),
}


@dataclass(frozen=True, slots=True)
class Ground:
    """A scene in memory, normalised by its training ground, and what a pair says about it."""

    pair: Pair
    pixels: Image
    """Values in the scene's units (C, H, W)."""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    image: Tensor
    """Normalised (C, H, W)."""
    label: Tensor
    """Class indices (H, W)."""
    counts: NDArray[np.int64]
    """Training pixels of each class (K,)."""

    @property
    def weights(self) -> list[float]:
        return class_weights(self.counts.tolist())

    def seen_as(self, pixels: Image, label: Tensor | None = None, *, own: bool) -> "Ground":
        """The same ground with other pixels, normalised by its training ground or by themselves."""
        label = self.label if label is None else label
        known = pixels[:, (label != IGNORE).numpy()]
        mean, std = (known.mean(axis=1), known.std(axis=1)) if own else (self.mean, self.std)
        return replace(self, image=_normalized(pixels, mean, std), label=label)


def _normalized(pixels: Image, mean: NDArray[Any], std: NDArray[Any]) -> Tensor:
    scaled = (pixels - mean[:, None, None]) / std[:, None, None]
    return torch.from_numpy(scaled.astype(np.float32)).clamp(-10, 10)


def read_ground(pair: Pair, data: Path) -> Ground:
    folder, taxonomy = data / pair.folder, load_taxonomy(pair.classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        if (folder / "images").is_dir():  # chips of one size, one below the other
            names = sorted(path.name for path in (folder / "images").glob("*.tif"))
            pixels = np.concatenate([_read(folder / "images" / name) for name in names], axis=1)
            codes = np.concatenate([_read(folder / "labels" / name)[0] for name in names])
        else:
            pixels, codes = _read(folder / "image.tif"), _read(folder / "label.tif")[0]
    if pair.folder.startswith("nc_"):
        pixels = pixels[:6]  # the scene of another year has no panchromatic band
    label = np.frombuffer(taxonomy.code_to_index(), np.uint8)[codes.astype(np.uint8)]
    counts = sum(np.bincount(label[part].ravel(), minlength=IGNORE + 1) for part in pair.train)[: len(taxonomy)]
    train = np.concatenate([pixels[:, *part].reshape(len(pixels), -1) for part in pair.train], axis=1)
    mean, std = train.mean(axis=1, dtype=np.float64), train.std(axis=1, dtype=np.float64)
    image = _normalized(pixels, mean, std)
    return Ground(pair, pixels, mean, std, image, torch.from_numpy(label.copy()), counts)


def _read(path: Path) -> Image:
    with rasterio.open(path) as source:
        return source.read().astype(np.float32)


def shifts(ground: Ground, data: Path) -> Iterator[tuple[str, Image, Tensor]]:
    """Yield names, pixels and labels of the same scene as another season, light or sensor shows it."""
    pixels, bands, label = ground.pixels, len(ground.pixels), ground.label
    std = ground.std[:, None, None]
    chance = np.random.default_rng(5)
    gains, offsets = chance.uniform(0.75, 1.25, bands), chance.normal(0, 0.5, bands)
    yield "gain and offset", pixels * gains[:, None, None] + offsets[:, None, None] * std, label
    infrared = np.zeros((bands, 1, 1))
    infrared[3] = 1.8
    yield "infrared -1.8 σ", np.maximum(pixels - infrared * std, 0), label
    share = np.linspace(1, 0.2, bands)[:, None, None]
    yield "haze", pixels * (1 - 0.35 * share) + 1.5 * std * share, label
    if ground.pair.folder.startswith("nc_") and (other := _other_year(data / ground.pair.folder)) is not None:
        known = torch.from_numpy((other > -1000).all(axis=0))
        yield "the year 2000", np.where(known, other, 0), label.masked_fill(~known, IGNORE)


def _other_year(folder: Path) -> Image | None:
    """Read bands of the year 2000 on the grid of the scene of 2002; None if the demo's wheel is not installed."""
    try:
        places = find_example()[0].parent
    except DataError:
        return None
    with rasterio.open(folder / "image.tif") as like:
        grid = {"crs": like.crs, "transform": like.transform, "width": like.width, "height": like.height}
    found = []
    for number in (1, 2, 3, 4, 5, 7):
        with (
            rasterio.open(places / f"lsat7_2000_{number}0.tif") as band,
            WarpedVRT(band, resampling=Resampling.bilinear, dtype="float32", **grid) as warped,
        ):
            found.append(warped.read(1))
    return np.stack(found)


def crop(top: int, left: int) -> Part:
    return slice(top, top + SIZE), slice(left, left + SIZE)


def crops(ground: Ground, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented crops of the training ground: images (count, C, S, S) and labels (count, S, S)."""
    parts = [(ground.image[:, *part], ground.label[part]) for part in ground.pair.train]
    free = torch.tensor([[side - SIZE + 1 for side in label.shape] for _, label in parts])
    drawn = []
    for part in torch.multinomial(free.prod(dim=1).double(), count, replacement=True, generator=generator).tolist():
        top, left = (int(torch.randint(places, (), generator=generator)) for places in free[part].tolist())
        area = crop(top, left)
        drawn.append(augment(parts[part][0][:, *area], parts[part][1][area], generator))
    images, labels = zip(*drawn, strict=True)
    return torch.stack(images), torch.stack(labels)


def measure(scores_of: ScoresOf, ground: Ground, parts: tuple[Part, ...]) -> NDArray[np.int64]:
    """Map parts of a ground by half-overlapping windows, blended as `cwsam predict` blends them, and count."""
    return sum(_measure(scores_of, ground, part) for part in parts)  # type: ignore[return-value]


def _measure(scores_of: ScoresOf, ground: Ground, part: Part) -> NDArray[np.int64]:
    """Ground narrower than a window is seen with its neighbourhood, as it would be in a map."""
    rows, cols = (own.indices(side) for own, side in zip(part, ground.label.shape, strict=True))
    top, left = max(0, min(rows[0], rows[1] - SIZE)), max(0, min(cols[0], cols[1] - SIZE))
    image, classes = ground.image[:, top : rows[1], left : cols[1]], len(ground.counts)
    edge = torch.from_numpy(hann(SIZE)).float()
    total = torch.zeros(classes, *image.shape[1:])
    with torch.inference_mode():
        for window in lattice(image.shape[2], image.shape[1], SIZE, SIZE // 2):
            area = crop(int(window.row_off), int(window.col_off))
            total[:, *area] += scores_of(image[None, :, *area])[0] * torch.outer(edge, edge)
    mapped = total.argmax(dim=0).to(torch.uint8).numpy()[rows[0] - top :, cols[0] - left :]
    return confusion_matrix(ground.label[part].numpy(), mapped, classes)


def figures(matrix: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, frequency-weighted IoU, mean IoU of the classes with enough pixels, and IoU and pixels by class."""
    hits, truth, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    iou = hits / np.maximum(truth + found - hits, 1)
    enough = (counts >= ENOUGH) & (truth >= ENOUGH)
    return {
        "accuracy": float(hits.sum() / truth.sum()),
        "weighted_iou": float(iou @ truth / truth.sum()),
        "miou": float(iou[enough].mean()),
        "iou": [round(float(value), 4) for value in iou],
        "pixels": truth.tolist(),
    }


class UNet(nn.Module):
    """Ronneberger et al. 2015, three levels, padded, with batch norm; 26 channels in the first level."""

    def __init__(self, bands: int, classes: int, width: int = 26) -> None:
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
    "unet": UNet,
    "pyramid_layer_norm": Pyramid,
    "pyramid_group_norm": partial(Pyramid, norm=partial(nn.GroupNorm, 4)),
    "pyramid_batch_norm": partial(Pyramid, norm=nn.BatchNorm2d, twice=True),
    "pyramid_without_classes": partial(Pyramid, width=24, norm=nn.BatchNorm2d, twice=True, has_classes=False),
}


def train_network(
    build: Build, config: RunConfig, ground: Ground, *, seed: int, budget: float
) -> tuple[ScoresOf, dict[str, Any]]:
    """Train until the budget is used, and come back with the weights that were best on validation."""
    args, settings = config.model.args, config.training_settings
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build(len(ground.image), len(ground.counts))
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = build_optimizer(model, local_shards(model), config.optimizer)
    rate = partial(learning_rate, steps=CLOCK, lr=config.optimizer.args.lr, lr_min=config.lr_min, warmup=CLOCK // 20)
    weights = torch.tensor(ground.weights)
    best, best_weights = {"val_miou": -1.0}, average.state_dict()
    spent, steps, checks = 0.0, 0, 0
    while spent < budget:
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = rate(int(spent / budget * CLOCK))
        image, label = crops(ground, config.train_dataset.batch_size, generator)
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
            found = _validate(partial(probabilities, average), ground)
            if found > best["val_miou"]:
                best, best_weights = {"val_miou": found, "best_check": checks}, copy.deepcopy(average.state_dict())
    average.load_state_dict(best_weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return partial(probabilities, average), best | {"steps": steps, "parameters": parameters}


def _validate(scores_of: ScoresOf, ground: Ground) -> float:
    """Mean IoU of all classes in the validation ground."""
    return compute_metrics(measure(scores_of, ground, ground.pair.val)).mean_iou or 0.0


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model; the statistics of batch norm are an average already."""
    for own, new in zip(average.parameters(), model.parameters(), strict=True):
        own.lerp_(new, 1 - decay)
    for own, new in zip(average.buffers(), model.buffers(), strict=True):
        own.copy_(new)


def probabilities(network: nn.Module, image: Tensor) -> Tensor:
    return network(image).softmax(dim=1)


def train_trees(kind: str, ground: Ground, *, seed: int, budget: float) -> tuple[ScoresOf, dict[str, Any]]:
    """Grow a forest, or boosted trees, with each of two settings in half of the budget; the better one counts."""
    x = torch.cat([ground.image[:, *part].flatten(1) for part in ground.pair.train], dim=1).T.numpy()
    y = torch.cat([ground.label[part].flatten() for part in ground.pair.train]).numpy()
    x, y = x[y != IGNORE], y[y != IGNORE]
    weights = np.array(ground.weights)[y]
    best, best_scores_of = {"val_miou": -1.0}, None
    for setting in _TREES[kind]:
        trees = 0
        start = time.process_time()
        while time.process_time() - start < budget / 2:
            trees += 1 if kind == "forest" else 20
            if kind == "forest":
                if trees == 1:
                    model = RandomForestClassifier(1, max_samples=0.5, warm_start=True, random_state=seed, **setting)
                model.n_estimators = trees
            else:
                if trees == 20:
                    model = HistGradientBoostingClassifier(
                        max_iter=20, warm_start=True, random_state=seed, early_stopping=False, **setting
                    )
                model.max_iter = trees
            model.fit(x, y, sample_weight=weights)
            if kind == "boosting" and trees >= 300:
                break
        scores_of = partial(tree_scores, model, len(ground.counts))
        found = _validate(scores_of, ground)
        if found > best["val_miou"]:
            best, best_scores_of = {"val_miou": found, "steps": trees} | setting, scores_of
    assert best_scores_of is not None
    return best_scores_of, best


_TREES: dict[str, list[dict[str, Any]]] = {
    "forest": [{"min_samples_leaf": 5}, {"min_samples_leaf": 20}],
    "boosting": [{"learning_rate": 0.1, "max_leaf_nodes": 31}, {"learning_rate": 0.05, "max_leaf_nodes": 63}],
}


def tree_scores(model: Any, classes: int, image: Tensor) -> Tensor:
    """(B, C, H, W) → class probabilities (B, K, H, W)."""
    pixels = image.movedim(1, -1)
    scores = torch.zeros(*pixels.shape[:-1], classes)
    found = torch.from_numpy(model.predict_proba(pixels.flatten(0, -2).numpy())).float()
    scores[..., model.classes_.tolist()] = found.view(*pixels.shape[:-1], -1)
    return scores.movedim(-1, 1)


def run(model: str, pair: str, data: Path, *, seed: int, budget: float, precision: str) -> dict[str, Any]:
    """Train one model on one ground and map the test ground once, and once for each shift and normalisation."""
    ground = read_ground(PAIRS[pair], data)
    if model in _TREES:
        scores_of, told = train_trees(model, ground, seed=seed, budget=budget)
    else:
        config = load_config("tiny", [*SETTINGS, f"training_settings.precision={precision}"])
        scores_of, told = train_network(NETWORKS[model], config, ground, seed=seed, budget=budget)
    start = time.process_time()
    found = figures(measure(scores_of, ground, ground.pair.test), ground.counts)
    told["mapping_s"] = time.process_time() - start
    told["shifts"] = {
        name: {
            normalize: figures(
                measure(scores_of, ground.seen_as(pixels, label, own=normalize == "scene"), ground.pair.test),
                ground.counts,
            )
            for normalize in ("training", "scene")
        }
        for name, pixels, label in shifts(ground, data)
    }
    return {"model": model, "pair": pair, "seed": seed, "budget": budget} | found | told


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and spread over the seeds, as Markdown: the test grounds, their means over pairs, and the shifts."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    keys = ("accuracy", "weighted_iou", "miou")
    yield "| pair | model | seeds | steps or trees | accuracy | weighted IoU | mean IoU |"
    yield "|---|---|---|---|---|---|---|"
    means: dict[str, list[list[float]]] = {model: [] for model in models}
    for pair in pairs:
        for model in models:
            own = [row for row in rows if (row["pair"], row["model"]) == (pair, model)]
            if own:
                means[model].append([statistics.mean(row[key] for row in own) for key in keys])
                cells = [_spread([row[key] for row in own]) for key in keys]
                effort = statistics.median(row["steps"] for row in own)
                yield f"| {pair} | {model} | {len(own)} | {effort:.0f} | {' | '.join(cells)} |"
    for model, found in means.items():
        cells = [f"{statistics.mean(column):.3f}" for column in zip(*found, strict=True)]
        yield f"| mean of {len(found)} pairs | {model} | | | {' | '.join(cells)} |"
    yield ""
    yield "| shift | pair | model | accuracy, training's statistics | accuracy, the scene's own |"
    yield "|---|---|---|---|---|"
    for shift in dict.fromkeys(name for row in rows for name in row["shifts"]):
        for pair, model in dict.fromkeys((row["pair"], row["model"]) for row in rows if shift in row["shifts"]):
            own = [row["shifts"][shift] for row in rows if (row["pair"], row["model"]) == (pair, model)]
            cells = [_spread([each[normalize]["accuracy"] for each in own]) for normalize in ("training", "scene")]
            yield f"| {shift} | {pair} | {model} | {' | '.join(cells)} |"


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    models = [*NETWORKS, *_TREES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, default=120, help="CPU seconds of training")
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
        for pair in asked.pairs:
            for model in asked.models:
                rows.append(run(model, pair, asked.data, seed=seed, budget=asked.budget, precision=precision))
                print(json.dumps(rows[-1]), flush=True)
                if asked.output:
                    with asked.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
