"""A model in memory, and what it does with arrays, scenes and datasets.

# C bands, K classes, H rows, W columns
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from cwsam_cli.assess.pipeline import evaluate
from cwsam_cli.assess.request import ModelRequest
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.interface.class_map import NO_PLACE, ClassMap, read_array, write_array
from cwsam_cli.predict.choices import PrecisionChoice, Views
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Model
from cwsam_cli.predict.work import MapResult, map_scene
from cwsam_cli.raster.mapfile import beside
from cwsam_cli.raster.sources.uploads import place_output
from cwsam_cli.taxonomy import Taxonomy

if TYPE_CHECKING:
    from cwsam_cli.assess.evaluation import Evaluation
    from cwsam_cli.predict.pieces import ScoreWindows

_PIXELS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""Data types of images, as `predict` takes them."""
_OF_A_COMMAND = ("compile", "experts", "gpus", "scheduler", "part")
_OF_THE_CHECKPOINT = ("checkpoint", "device", "precision", "tta")


@dataclass(frozen=True, slots=True)
class Classifier:
    """A checkpoint whose weights are in memory. `open_checkpoint` makes one."""

    _model: Model
    _score: "ScoreWindows"
    _request: MapRequest

    @property
    def classes(self) -> Taxonomy:
        """The class table."""
        return self._model.trained.taxonomy

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the order in which `classify` takes them."""
        return tuple(band.name for band in self._model.trained.bands)

    @property
    def pixel_m(self) -> float | None:
        """Pixel size in metres on which the model was trained; None if it is not known."""
        return self._model.trained.gsd_m

    def classify(
        self,
        image: NDArray[Any],
        *,
        valid: NDArray[np.bool_] | None = None,
        crs: CRS | str | int | None = None,
        transform: Affine | None = None,
        probabilities: bool = False,
    ) -> ClassMap:
        """Classify an array. The result equals the map of a scene with the same pixels.

        The array and its map are written to a temporary folder for the time of the call.

        Args:
            image: pixels (C, H, W) in the scale of the training data, bands in the order of `bands`. A masked array
                hides pixels as the nodata value of a scene does. NaN and infinity are nodata.
            valid: False (H, W) where the image has no data; None if it has data everywhere.
            crs: the coordinate reference system, such as "EPSG:32617".
            transform: from column and row to coordinates, as in rasterio; needed with `crs`.
            probabilities: also return the probability of each class.

        Raises:
            DataError: the array has another shape or data type than the model needs.
            MachineError: the memory or the disk is not sufficient.
        """
        bands = len(self.bands)
        if image.ndim != 3 or image.shape[0] != bands or not image.size:
            raise DataError(
                f"the image has the shape {image.shape}, and the model needs (C, H, W) with C = {bands}",
                hint=f"its bands are {', '.join(self.bands)}",
            )
        if image.dtype.name not in _PIXELS:
            raise DataError(
                f"the image holds {image.dtype.name} values, which cannot be used", hint='image.astype("float32")'
            )
        if valid is not None and valid.shape != image.shape[1:]:
            raise DataError(
                f"`valid` has the shape {valid.shape}, and the image has {image.shape[1:]} rows and columns",
                hint="give one value per pixel",
            )
        if crs is not None and transform is None:
            raise DataError("the array has a `crs`, but no `transform`", hint="classify(image, crs=…, transform=…)")
        place, affine = _crs(crs), transform or NO_PLACE
        with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
            scene, target = Path(folder) / "array.tif", Path(folder) / "map.tif"
            write_array(
                scene,
                np.ma.getdata(image),
                crs=place,
                transform=affine,
                names=self.bands,
                valid=_valid(image, valid),
            )
            self._map(scene, target, {"probabilities": probabilities, "alpha": "ignore"}, is_array=place is None)
            shares = read_array(beside(target, "probabilities")) if probabilities else None
            return ClassMap(
                codes=read_array(target)[0], classes=self.classes, crs=place, transform=affine, probabilities=shares
            )

    def map_scene(self, scene: Path | str, output: Path | str, **options: Any) -> MapResult:
        """Classify a scene into a map file, as `cwsam predict` does.

        Args:
            scene: a path, a URL or one of GDAL's virtual paths.
            output: the map, a `.tif` on this disk or in an object store (`s3://`, `gs://`, `az://`).
            options: of `cwsam predict`, such as `confidence=True`, `format="COG"`, `bounds=(w, s, e, n)` or
                `overwrite=True`.

        Returns:
            Pixels and hectares by class name.

        Raises:
            UsageError: the output exists, or an option belongs to `open_checkpoint` or to the command line.
            DataError: the scene cannot be read, or lacks bands.
            MachineError: memory, disk or another process stands in the way.
        """
        for name in options:
            if name in _OF_THE_CHECKPOINT:
                raise UsageError(f"`{name}` holds for all maps", hint=f"open_checkpoint(path, {name}=…)")
            if name in _OF_A_COMMAND:
                option = name.replace("_", "-")
                raise UsageError(f"`{name}` is for the command line", hint=f"cwsam predict --{option} …")
        return self._map(scene, output, options)

    def assess(
        self,
        data: Path | str | Sequence[Path | str],
        *,
        split: str = "test",
        output: Path | str | None = None,
        overwrite: bool = False,
    ) -> "Evaluation":
        """Measure the accuracy on a dataset, as `cwsam eval --data` does.

        Args:
            data: a folder that `cwsam tile` wrote, or several.
            split: `train`, `val` or `test`.
            output: folder of the report; None writes no report.
            overwrite: replace an older report.

        Returns:
            Figures with 95 % intervals, 0 to 1; `.metrics.mean_iou`, for example.

        Raises:
            CheckpointError: the model's classes or bands differ from the dataset's.
            DataError: the dataset or the split is missing, or the split has no labels.
            UsageError: the report exists.
        """
        folders = [data] if isinstance(data, Path | str) else data
        result = evaluate(
            ModelRequest(
                checkpoint=self._request.checkpoint,
                data=tuple(map(Path, folders)),
                split=split,
                output=None if output is None else Path(output),
                overwrite=overwrite,
                batch_size=self._request.batch_size,
                device=self._request.device,
            )
        )
        assert result is not None  # only a process that a launcher started gets None
        return result

    def _map(
        self, scene: Path | str, output: Path | str, options: dict[str, Any], *, is_array: bool = False
    ) -> MapResult:
        target, upload = place_output(str(output))
        request = replace(self._request, scene=str(scene), output=target, upload=upload, **options)
        request.refuse_early()
        return map_scene(request, self._model, lambda: self._score, warns_of_crs=not is_array)


def open_checkpoint(
    path: Path | str,
    *,
    device: str = "auto",
    precision: PrecisionChoice = "auto",
    tta: Views = "none",
    overlap: float = 0.25,
    batch_size: int = 8,
) -> Classifier:
    """Open a trained model and read its weights.

    Args:
        path: a `model_epoch_*.pth`, or an `.onnx` that `cwsam export` wrote.
        device: `cpu`, `cuda`, `cuda:1` or `auto`.
        precision: `fp32`, `bf16` or `auto`, which is bf16 if the hardware computes in it.
        tta: average the scores of turned views: `none`, `flips` (4) or `d4` (8).
        overlap: share of a window that its neighbour also sees, 0 to 0.9.
        batch_size: largest number of windows per batch.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint of this program.
        MachineError: the device is missing or too small.
    """
    # oneDNN would keep 1,024 kernels, one for each number of rows that an expert met: 0.5 GB after many windows.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    request = MapRequest(
        checkpoint=Path(path), device=device, precision=precision, tta=tta, overlap=overlap, batch_size=batch_size
    )
    model = Model.open(request)
    return Classifier(model, model.scorer(request), request)


def _crs(crs: CRS | str | int | None) -> CRS | None:
    try:
        return None if crs is None else CRS.from_user_input(crs)
    except CRSError:
        raise DataError(f"`{crs}` is not a coordinate reference system", hint='say: crs="EPSG:32617"') from None


def _valid(image: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Where an array has data (H, W); None if it has data everywhere. The rule is that of `raster.pixels`."""
    if not isinstance(image, np.ma.MaskedArray):
        return valid
    mask = np.ma.getmaskarray(image)
    any_band = image.dtype.kind == "f" or image.fill_value < 0
    shown: NDArray[np.bool_] = np.logical_not(mask.any(axis=0) if any_band else mask.all(axis=0))
    return shown if valid is None else shown & valid
