"""The group of algorithms, and the setting that names the program."""

import json
from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import CommandAlgorithm

HERE = Path(__file__).parent
PROGRAM = "CWSAM_PROGRAM"


class Plugin:
    """The plugin, which adds and removes the provider."""

    def __init__(self):
        self.provider = None

    def initProcessing(self):
        """Add the provider; `qgis_process` calls only this."""
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        """Begin, when QGIS starts or the plugin is switched on."""
        self.initProcessing()

    def unload(self):
        """End, when the plugin is switched off."""
        QgsApplication.processingRegistry().removeProvider(self.provider)


class Provider(QgsProcessingProvider):
    """All algorithms of `cwsam`."""

    def __init__(self):
        super().__init__()
        self.told = json.loads((HERE / "algorithms.json").read_text(encoding="utf-8"))

    def load(self):
        """Add the setting."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        setting = Setting(self.name(), PROGRAM, "Program cwsam", self.told["program"], valuetype=Setting.FILE)
        ProcessingConfig.addSetting(setting)
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        """Remove the setting."""
        ProcessingConfig.removeSetting(PROGRAM)

    def loadAlgorithms(self):
        """Add the algorithms that `cwsam qgis` described."""
        for described in self.told["algorithms"]:
            self.addAlgorithm(CommandAlgorithm(described, self.program))

    @staticmethod
    def program():
        """Return the path of the program."""
        return ProcessingConfig.getSetting(PROGRAM)

    def id(self):
        """Return the first part of the algorithms' ids."""
        return "cwsam"

    def name(self):
        """Return the name in the toolbox."""
        return "cwsam"

    def icon(self):
        """Return the icon in the toolbox."""
        return QIcon(str(HERE / "icon.svg"))

    def supportedOutputRasterLayerExtensions(self):
        """Return the formats of maps."""
        return ["tif"]

    def supportedOutputVectorLayerExtensions(self):
        """Return the formats of polygons, the default first."""
        return ["gpkg", "fgb", "shp", "geojson", "parquet"]

    def isSupportedOutputValue(self, outputValue, parameter, context):
        """Accept any output: the program checks it."""
        return True, ""
