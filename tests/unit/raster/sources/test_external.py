"""With `--no-external`, a raster reads nothing outside its own folder."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio.shutil
import shapely
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.scene import open_raster, open_scene
from cwsam_cli.raster.sources.external import refuse_external, refuse_unusable_layer
from cwsam_cli.raster.sources.network import NO_EXTERNAL
from cwsam_cli.raster.sources.views import make_views

MakeRaster = Callable[..., Path]
VALUES = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.fixture
def secret(make_raster: MakeRaster) -> Path:
    """A raster outside the folder of the scenes."""
    return make_raster("secret.tif", VALUES)


def virtual(folder: Path, source: str, *, attributes: str = 'relativeToVRT="1"', tag: str = "SourceFilename") -> Path:
    """A virtual raster of one source."""
    path = folder / "scene.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<{tag} {attributes}>{source}</{tag}><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def test_rasters_and_virtual_rasters_of_one_folder_are_read(make_raster: MakeRaster, tmp_path: Path) -> None:
    inside = make_raster("in/parts/a.tif", VALUES)
    for path in (inside, virtual(tmp_path / "in", "parts/a.tif")):
        refuse_external(str(path))
    (tmp_path / "in" / "outer.vrt").write_text(
        (tmp_path / "in/scene.vrt").read_text().replace("parts/a.tif", "scene.vrt")
    )
    refuse_external(str(tmp_path / "in" / "outer.vrt"))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("../secret.tif", {}),
        ("{secret}", {"attributes": 'relativeToVRT="0"'}),
        ("../secret.tif", {"tag": "sourcefilename"}),
        ("../secret.tif", {"tag": "SourceDataset"}),
        ("", {"attributes": 'SourceFilename="../secret.tif"', "tag": "Nothing"}),
        ("/vsicurl/http://127.0.0.1:9/a.tif", {"attributes": 'relativeToVRT="0"'}),
        ("http://127.0.0.1:9/a.tif", {}),
        ("vrt://{secret}", {"attributes": 'relativeToVRT="0"'}),
        ("GTIFF_DIR:1:{secret}", {"attributes": 'relativeToVRT="0"'}),
        ("&lt;VRTDataset/&gt;", {}),
        ("gone.tif", {}),
        ("", {}),
        ("a.tif<!-- x -->", {}),
        ("link.tif", {}),
        ("wms.tif", {}),
    ],
)
def test_a_source_elsewhere_is_refused(
    make_raster: MakeRaster, secret: Path, source: str, named: dict[str, str]
) -> None:
    folder = make_raster("in/a.tif", VALUES).parent
    (folder / "link.tif").symlink_to(secret)
    (folder / "wms.tif").write_text("<GDAL_WMS><Service/></GDAL_WMS>")
    path = virtual(folder, source.format(secret=secret), **named)
    with pytest.raises(DataError, match=r"scene\.vrt|wms\.tif") as caught:
        refuse_external(str(path))
    assert caught.value.hint


@pytest.mark.parametrize("change", ['subClass="VRTProcessedDataset" ', 'subClass="VRTPansharpenedDataset" '])
def test_other_kinds_of_virtual_rasters_are_refused(make_raster: MakeRaster, change: str) -> None:
    path = virtual(make_raster("in/a.tif", VALUES).parent, "a.tif")
    path.write_text(path.read_text().replace("<VRTDataset ", f"<VRTDataset {change}"))
    with pytest.raises(DataError, match="than --no-external can tell"):
        refuse_external(str(path))


def test_the_real_path_of_a_linked_scene_and_of_its_sidecars_counts(make_raster: MakeRaster, secret: Path) -> None:
    inside = make_raster("in/a.tif", VALUES)
    link = inside.with_name("link.tif")
    link.symlink_to(secret)
    with pytest.raises(DataError, match="outside its folder"):
        refuse_external(str(link))
    inside.with_name("a.tif.msk").symlink_to(secret)
    with pytest.raises(DataError, match="outside its folder"):
        refuse_external(str(inside))


def test_virtual_rasters_that_name_each_other_end_the_search(make_raster: MakeRaster) -> None:
    path = virtual(make_raster("in/a.tif", VALUES).parent, "scene.vrt")
    refuse_external(str(path))  # GDAL refuses it when it reads pixels


def test_overviews_in_another_file_are_refused(make_raster: MakeRaster, secret: Path) -> None:
    inside = make_raster("in/a.tif", VALUES)
    with rasterio.open(inside, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secret))
    with pytest.raises(DataError, match="outside its folder"):
        refuse_external(str(inside))


@pytest.mark.parametrize("name", ["https://example.org/a.tif", "/vsizip/a.zip/a.tif", "s3://bucket/a.tif"])
def test_what_is_not_a_file_is_refused_before_it_is_asked_for(name: str) -> None:
    with pytest.raises(DataError, match="not a file on this disk"):
        refuse_external(name)


def test_a_virtual_raster_that_gdal_wrote_is_read(make_raster: MakeRaster, tmp_path: Path) -> None:
    inside = make_raster("in/a.tif", VALUES)
    with rasterio.open(inside) as dataset:
        rasterio.shutil.copy(dataset, inside.with_suffix(".vrt"), driver="VRT")
    assert ElementTree.parse(inside.with_suffix(".vrt")).getroot().tag == "VRTDataset"
    refuse_external(str(inside.with_suffix(".vrt")))


def test_the_environment_forbids_it_wherever_a_raster_is_opened(
    make_raster: MakeRaster, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = [make_raster(f"in/s_{name}.tif", VALUES) for name in ("red", "green")]
    path = virtual(tmp_path / "in", "../secret.tif")
    (view,) = make_views([str(band) for band in bands], stack="{scene}_{band}.tif")
    open_raster(path).close()
    monkeypatch.setenv(NO_EXTERNAL, "1")
    with pytest.raises(DataError, match="outside its folder"):
        open_raster(path)
    with open_scene(view) as scene:  # a view is made of files that were checked
        assert (scene.read(Window(0, 0, 8, 8))[0] == VALUES).all()
    bands[0].with_name("t_red.tif").symlink_to(secret)
    (linked,) = make_views([str(bands[0].with_name("t_red.tif"))], stack="{scene}_{band}.tif")
    with pytest.raises(DataError, match="outside its folder"), open_scene(linked):
        pass


@pytest.mark.parametrize("suffix", [".ovr", ".msk", ".MSK"])
@pytest.mark.parametrize("name", ["a.tif", "scene.vrt"])
@pytest.mark.parametrize(
    "source", ["{folder}/secret.tif", "/vsizip/{folder}/s.zip/secret.tif", "/vsicurl/http://x/a.tif"]
)
def test_a_virtual_raster_as_sidecar_is_refused(
    make_raster: MakeRaster, secret: Path, source: str, name: str, suffix: str
) -> None:
    folder = make_raster("in/a.tif", VALUES).parent
    with zipfile.ZipFile(secret.with_name("s.zip"), "w") as archive:
        archive.write(secret, secret.name)
    virtual(folder, "a.tif")
    refuse_external(str(folder / name))
    sidecar = virtual(folder.parent, source.format(folder=secret.parent), attributes="")
    sidecar.rename(folder / f"{name}{suffix}")
    with pytest.raises(DataError, match=r"is not one file|lies outside") as caught:
        refuse_external(str(folder / name))
    assert caught.value.hint


@pytest.mark.parametrize("mark", ["VRTDataset", "GDALTileIndexDataset", "Table_of_Contents"])
def test_a_text_that_is_a_grid_and_another_format_is_refused(make_raster: MakeRaster, secret: Path, mark: str) -> None:
    path = make_raster("in/a.tif", VALUES).with_name("grid.asc")
    header = "ncols 8\nnrows 8\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
    path.write_text(header + "\n".join(" ".join(map(str, row)) for row in VALUES.tolist()))
    refuse_external(str(path))
    path.write_text(header + virtual(path.parent, str(secret)).read_text().replace("VRTDataset", mark))
    with pytest.raises(DataError, match=r"grid\.asc"):
        refuse_external(str(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<SourceSRS>.*?</SourceSRS>", "<SourceSRS>http://127.0.0.1:9/crs</SourceSRS>"),
        ("<BaseTransformer>", "<BaseTransformer><DEMPath>../secret.tif</DEMPath>"),
        ("<BaseTransformer>", '<BaseTransformer><MDI key="X_DATASET">../secret.tif</MDI>'),
        ("<WorkingDataType>", '<OOI key="ROOT_PATH">/</OOI><WorkingDataType>'),
        ("<WorkingDataType>", "<?x <SourceDataset>../secret.tif</SourceDataset>?><WorkingDataType>"),
    ],
)
def test_a_warped_raster_reads_only_its_source(make_raster: MakeRaster, old: str, new: str) -> None:
    inside = make_raster("in/a.tif", VALUES)
    path = inside.with_name("warped.vrt")
    with rasterio.open(inside) as dataset, WarpedVRT(dataset, crs="EPSG:3857") as warped:
        rasterio.shutil.copy(warped, path, driver="VRT")
    refuse_external(str(path))
    text = path.read_text()
    path.write_text(re.sub(old, new, text))
    assert path.read_text() != text
    with pytest.raises(DataError, match="than --no-external can tell"):
        refuse_external(str(path))


@pytest.mark.parametrize("driver", ["GPKG", "ESRI Shapefile", "FlatGeobuf", "GeoJSON", "GeoJSONSeq"])
def test_common_layers_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    suffix = {"GPKG": ".gpkg", "ESRI Shapefile": ".shp", "FlatGeobuf": ".fgb"}.get(driver, ".geojson")
    path = tmp_path / f"a{suffix}"
    geopandas.GeoDataFrame({"name": ["<a>"]}, geometry=[shapely.Point(1, 2)], crs=4326).to_file(path, driver=driver)
    monkeypatch.setenv(NO_EXTERNAL, "1")
    refuse_unusable_layer(path)


@pytest.mark.parametrize("before", ["", "\ufeff", "text ", '{"type": "FeatureCollection"} '])
def test_a_virtual_layer_is_refused_whatever_stands_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    path = tmp_path / "layer.gpkg"
    path.write_text(f"{before}<OGRVRTDataSource></OGRVRTDataSource>", encoding="utf-8")
    refuse_unusable_layer(path)
    monkeypatch.setenv(NO_EXTERNAL, "1")
    with pytest.raises(DataError, match=r"layer\.gpkg"):
        refuse_unusable_layer(path)


def test_a_pipeline_and_a_linked_part_of_a_shapefile_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NO_EXTERNAL, "1")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.gpkg").write_text('{"type": "gdal_streamed_alg", "command_line": "gdal vector convert x y"}')
    frame = geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.Point(1, 2)], crs=4326)
    frame.to_file(folder / "b.shp")
    (folder / "b.dbf").rename(tmp_path / "b.dbf")
    (folder / "b.dbf").symlink_to(tmp_path / "b.dbf")
    for name in ("a.gpkg", "b.shp", "gone.gpkg"):
        with pytest.raises(DataError):
            refuse_unusable_layer(folder / name)
