"""The Python interface: arrays in, arrays or files out, for notebooks and scripts.

Every function calls the pipeline of a command. A classified array therefore equals the map of a scene with the same
pixels. Options have the names and values that they have on the command line, with `_` for `-`.

Errors that a user can correct are subclasses of `cwsam_cli.errors.CwsamError`; `error.hint` says what to do.

# C bands, K classes, H rows, W columns
"""

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError, NotGeoreferencedWarning

from cwsam_cli.assess.pipeline import evaluate
from cwsam_cli.assess.request import ModelRequest
from cwsam_cli.errors import DataError, MissingCRS, UsageError
from cwsam_cli.files import staged
from cwsam_cli.predict.choices import PrecisionChoice, Views
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Model
from cwsam_cli.predict.work import MapResult, map_scene
from cwsam_cli.raster.mapfile import GTIFF_CREATION, beside
from cwsam_cli.raster.scene import open_raster, writing
from cwsam_cli.raster.sources.uploads import place_output
from cwsam_cli.raster.style import tag_classes, write_sidecar, write_style
from cwsam_cli.taxonomy import IGNORE, Taxonomy
from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.request import VectorizeRequest
from cwsam_cli.vectorize.result import VectorizeResult
from cwsam_cli.verify.mapped import MapAssessment
from cwsam_cli.verify.mapped import assess_map as assess_map_file
from cwsam_cli.verify.sampled import assess_sample

if TYPE_CHECKING:
    from cwsam_cli.assess.evaluation import Evaluation
    from cwsam_cli.predict.pieces import ScoreWindows

__all__ = [
    "ClassMap",
    "Classifier",
    "assess_map",
    "assess_sample",
    "open_checkpoint",
    "polygons",
    "vectorize_map",
]

_NO_PLACE = Affine.identity()
_PIXELS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""Data types of images, as `predict` takes them."""
_OF_A_COMMAND = ("compile", "experts", "gpus", "scheduler", "part")
_OF_THE_CHECKPOINT = ("checkpoint", "device", "precision", "tta")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """A classified array with its classes and its place on the ground."""

    codes: NDArray[np.uint8]
    """Class codes (H, W), 0-254; 255 is nodata."""
    classes: Taxonomy
    """The class table: `classes.names` and `classes.codes` are in the same order."""
    crs: CRS | None = None
    """The coordinate reference system; None if it is not known."""
    transform: Affine = _NO_PLACE
    """From column and row to coordinates, as in rasterio."""
    probabilities: NDArray[np.uint8] | None = None
    """Per cent (K, H, W) in the order of `classes`, 255 is nodata; None unless they were asked for."""

    def write(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the codes as a GeoTIFF with colours and class names.

        Args:
            path: the file, a `.tif`.
            overwrite: replace an existing file.

        Raises:
            UsageError: the file exists.
            MachineError: the file could not be written.
        """
        with staged(Path(path), overwrite=overwrite) as target:
            _write(target, self.codes, crs=self.crs, transform=self.transform, nodata=IGNORE, classes=self.classes)


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
        place, affine = _crs(crs), transform or _NO_PLACE
        with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
            scene, target = Path(folder) / "array.tif", Path(folder) / "map.tif"
            _write(
                scene,
                np.ma.getdata(image),
                crs=place,
                transform=affine,
                names=self.bands,
                valid=_valid(image, valid),
            )
            self._map(scene, target, {"probabilities": probabilities, "alpha": "ignore"}, is_array=place is None)
            shares = _read(beside(target, "probabilities")) if probabilities else None
            return ClassMap(
                codes=_read(target)[0], classes=self.classes, crs=place, transform=affine, probabilities=shares
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


def vectorize_map(source: ClassMap | Path | str, output: Path | str, **options: Any) -> VectorizeResult:
    """Write the polygons of a map, as `cwsam vectorize` does.

    Args:
        source: a classified array, or the path of any raster of class codes.
        output: the layer: `.gpkg`, `.shp`, `.fgb`, `.geojson`, `.geojsonl` or `.parquet`.
        options: of `cwsam vectorize`, such as `min_area="1ha"`, `simplify="15m"` or `overwrite=True`.

    Raises:
        UsageError: the output exists, or a size has no unit.
        MissingCRS: the map has no CRS, so areas would have no unit.
        DataError: the raster is not a class raster.
    """
    with _as_file(source) as path:
        return vectorize(VectorizeRequest(map_path=path, output=Path(output), **options))


def polygons(source: ClassMap | Path | str, **options: Any) -> geopandas.GeoDataFrame:
    """Return the polygons of a map, with the fields that `cwsam vectorize` writes.

    Args:
        source: a classified array, or the path of any raster of class codes.
        options: of `cwsam vectorize`, such as `min_area="1ha"` or `simplify="15m"`.

    Returns:
        One row per polygon: `code`, `name`, `area_m2`, `area_ha`, `perim_m`, `pixels` and `geometry`.

    Raises:
        UsageError: a size has no unit.
        MissingCRS: the map has no CRS, so areas would have no unit.
        DataError: the raster is not a class raster.
    """
    with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        target = Path(folder) / "polygons.gpkg"
        vectorize_map(source, target, layer="polygons", **options)
        return geopandas.read_file(target, layer="polygons")


def assess_map(
    source: ClassMap | Path | str,
    reference: NDArray[Any] | Path | str,
    *,
    class_field: str | None = None,
    crosswalk: Path | str | None = None,
    band: int | None = None,
) -> MapAssessment:
    """Compare a map with a reference, as `cwsam eval --map --reference` does.

    Args:
        source: a classified array, or the path of any raster of class codes.
        reference: class codes (H, W) on the map's pixels, 255 is "no label"; or the path of a raster on any grid, of
            polygons or of points.
        class_field: the field of a vector reference with the class code or name.
        crosswalk: a table of common classes, if map and reference have other legends.
        band: the band of a map file, counted from 1; None if there is only one.

    Returns:
        The confusion matrix (rows: reference, columns: map) and accuracies, 0 to 1; `.metrics.accuracy`, for example.

    Raises:
        DataError: a file cannot be read or placed, the legends do not match, or nothing is in both.
        UsageError: a vector reference is given without `class_field`.
    """
    with _as_file(source, needs_crs=False) as path, tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        if isinstance(reference, np.ndarray):
            codes, reference = reference, Path(folder) / "reference.tif"
            if codes.dtype.kind not in "iuf":
                raise DataError(f"the reference holds {codes.dtype.name} values", hint='reference.astype("uint8")')
            with open_raster(path) as grid:
                if codes.shape != grid.shape:
                    raise DataError(
                        f"the reference has the shape {codes.shape}, and the map has {grid.shape}",
                        hint="give one code per pixel of the map",
                    )
                _write(reference, codes, crs=grid.crs, transform=grid.transform, nodata=IGNORE)
        return assess_map_file(
            path,
            Path(reference),
            class_field=class_field,
            crosswalk=None if crosswalk is None else Path(crosswalk),
            band=band,
        )


@contextmanager
def _as_file(source: ClassMap | Path | str, *, needs_crs: bool = True) -> Iterator[Path]:
    """The path of a map; a temporary file for a classified array."""
    if not isinstance(source, ClassMap):
        yield Path(source)
        return
    if needs_crs and source.crs is None:
        raise MissingCRS("the array", "so areas have no unit", hint="classify(image, crs=…, transform=…)")
    with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        path = Path(folder) / "array.tif"
        source.write(path)
        yield path


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


def _read(path: Path) -> NDArray[np.uint8]:
    with open_raster(path) as dataset:
        return np.asarray(dataset.read())


def _write(
    path: Path,
    values: NDArray[Any],
    *,
    crs: CRS | None,
    transform: Affine,
    nodata: int | None = None,
    names: Sequence[str] = (),
    valid: NDArray[np.bool_] | None = None,
    classes: Taxonomy | None = None,
) -> None:
    """Write an array (H, W) or (C, H, W) as a GeoTIFF."""
    bands = values if values.ndim == 3 else values[None]
    bands = bands.astype(bands.dtype.newbyteorder("="), copy=False)  # files of other programs have other byte orders
    creation = GTIFF_CREATION | ({} if classes else {"photometric": "minisblack"})
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        writing(path),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=bands.shape[2],
            height=bands.shape[1],
            count=len(bands),
            dtype=bands.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            **creation,
        ) as dataset,
    ):
        dataset.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(bands) - 1)]
        dataset.write(bands)
        if names:
            dataset.descriptions = tuple(names)
        if valid is not None:
            dataset.write_mask(valid)
        if classes is not None:
            tag_classes(dataset, classes)
    if classes is not None:
        write_sidecar(path, classes)
        write_style(path, classes)
