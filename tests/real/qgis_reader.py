"""Says what QGIS shows of files. Runs in the system's Python, which has QGIS; reads a task and prints JSON.

Task: `layers` are paths, and `pictures` are lists of paths with `places` (x, y) in the first layer's CRS. The answer
describes each layer, and has the colours of each picture at its places.
"""

import json
import sys
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPointXY,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

SIZE = 900
"""Pixels per side of a picture."""


def open_layer(path: str) -> Any:
    layer = QgsRasterLayer(path, path) if path.endswith(".tif") else QgsVectorLayer(path, path)
    assert layer.isValid(), path
    return layer


def describe(layer: Any) -> dict[str, Any]:
    renderer = layer.renderer()
    told: dict[str, Any] = {"crs": layer.crs().authid(), "renderer": renderer.type()}
    if isinstance(layer, QgsRasterLayer):
        told["bands"] = [layer.bandName(band) for band in range(1, layer.bandCount() + 1)]
        told["legend"] = [[label, color.name()] for label, color in layer.legendSymbologyItems()]
        return told
    told["fields"] = [[field.name(), field.typeName()] for field in layer.fields()]
    told["count"] = layer.featureCount()
    told["first"] = [str(value) for value in next(layer.getFeatures()).attributes()]
    told["legend"] = [[item.label(), item.symbol().color().name()] for item in renderer.legendSymbolItems()]
    return told


def draw(layers: list[Any], places: list[list[float]]) -> list[str]:
    """Return the colour of a picture of layers, the uppermost first, at each place."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(layers[0].crs())
    settings.setOutputSize(QSize(SIZE, SIZE))
    settings.setBackgroundColor(QColor("white"))
    xs, ys = zip(*places, strict=True)
    settings.setExtent(QgsRectangle(min(xs), min(ys), max(xs), max(ys)).buffered(0.02 * (max(xs) - min(xs))))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    picture = job.renderedImage()
    to_pixel = settings.mapToPixel()
    pixels = [to_pixel.transform(QgsPointXY(x, y)) for x, y in places]
    return [picture.pixelColor(int(pixel.x()), int(pixel.y())).name() for pixel in pixels]


def main() -> None:
    task = json.load(sys.stdin)
    application = QgsApplication([], False)
    application.initQgis()
    answer = {
        "layers": {path: describe(open_layer(path)) for path in task["layers"]},
        "pictures": [draw([open_layer(path) for path in each["layers"]], each["places"]) for each in task["pictures"]],
    }
    application.exitQgis()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
