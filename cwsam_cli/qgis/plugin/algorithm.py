"""An algorithm of the toolbox: the parameters that `algorithms.json` describes, and the command line made of them."""

import html
from pathlib import Path

from qgis.core import (
    QgsMapLayerType,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingOutputHtml,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterCrs,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProcessingParameterVectorLayer,
)

from .program import Failure, run, split

OTHER, REPORT = "OTHER", "REPORT"
VECTOR_FILES = ["gpkg", "fgb", "shp", "geojson"]
"""Formats of layers that `cwsam` reads. Of any other layer, QGIS gives it a copy."""
NUMBER = QgsProcessingParameterNumber
KINDS = {
    "raster": QgsProcessingParameterRasterLayer,
    "rasters": lambda *words: QgsProcessingParameterMultipleLayers(*words[:2], QgsProcessing.TypeRaster, *words[2:]),
    "vector": lambda *words: QgsProcessingParameterVectorLayer(
        *words[:2], [QgsProcessing.TypeVectorAnyGeometry], *words[2:]
    ),
    "layer": QgsProcessingParameterMapLayer,
    "file": lambda *words: QgsProcessingParameterFile(*words[:2], QgsProcessingParameterFile.File, "", *words[2:]),
    "folder": lambda *words: QgsProcessingParameterFile(*words[:2], QgsProcessingParameterFile.Folder, "", *words[2:]),
    "crs": QgsProcessingParameterCrs,
    "boolean": QgsProcessingParameterBoolean,
    "integer": lambda *words: NUMBER(*words[:2], NUMBER.Integer, *words[2:]),
    "number": lambda *words: NUMBER(*words[:2], NUMBER.Double, *words[2:]),
    "text": lambda *words: QgsProcessingParameterString(*words[:3], False, *words[3:]),
    "raster_output": QgsProcessingParameterRasterDestination,
    "vector_output": lambda *words: QgsProcessingParameterVectorDestination(
        *words[:2], QgsProcessing.TypeVectorAnyGeometry, *words[2:]
    ),
    "folder_output": QgsProcessingParameterFolderDestination,
}
"""Makers of parameters by kind. Each takes name, label, default and whether it is optional."""


class CommandAlgorithm(QgsProcessingAlgorithm):
    """A command of `cwsam`.

    Args:
        described: an entry of `algorithms.json`.
        program: returns the path of the program.
    """

    def __init__(self, described, program):
        super().__init__()
        self.described = described
        self.program = program

    def createInstance(self):
        """Return another one of its kind, as QGIS asks for it."""
        return CommandAlgorithm(self.described, self.program)

    def name(self):
        """Return the second part of the id."""
        return self.described["id"]

    def displayName(self):
        """Return the name in the toolbox."""
        return self.described["title"]

    def icon(self):
        """Return the icon of the provider."""
        return self.provider().icon()

    def shortHelpString(self):
        """Return the help of the command."""
        return "".join(f"<p>{html.escape(part)}</p>" for part in self.described["help"])

    def initAlgorithm(self, configuration=None):
        """Add the parameters."""
        for described in self.described["parameters"]:
            self.addParameter(make_parameter(described))
        other = QgsProcessingParameterString(OTHER, "Other options, as on the command line", "", False, True)
        other.setFlags(other.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(other)
        if self.described["report"]:
            self.addOutput(QgsProcessingOutputHtml(REPORT, "Report"))

    def processAlgorithm(self, parameters, context, feedback):
        """Run the command, and return its outputs."""
        options, positional, results = [], [], {}
        for described in self.described["parameters"]:
            name, option, kind = described["name"], described["option"], described["kind"]
            if kind == "boolean":
                options += [option] * self.parameterAsBool(parameters, name, context)
                continue
            values = self.values_of(name, kind, parameters, context, feedback)
            if option:  # `--option=value`, because a value can begin with a minus
                options += [f"{option}={value}" for value in values]
            else:
                positional += values
            if kind.endswith("_output"):
                results[name] = values[0]
        if self.described["overwrites"]:
            options.append("--overwrite")
        options += split(self.parameterAsString(parameters, OTHER, context))
        command = [self.program(), self.described["command"], *options, "--", *positional]
        try:
            run(command, feedback)
        except Failure as failure:
            raise QgsProcessingException(str(failure)) from None
        if feedback.isCanceled():
            return {}
        if self.described["report"]:
            results[REPORT] = str(Path(next(iter(results.values())), self.described["report"]))
        return results

    def values_of(self, name, kind, parameters, context, feedback):
        """Return the values of a parameter as words, none if it has no value."""
        if kind == "folder_output":
            return [self.parameterAsString(parameters, name, context)]
        if kind.endswith("_output"):
            return [self.parameterAsOutputLayer(parameters, name, context)]
        if parameters.get(name, self.parameterDefinition(name).defaultValue()) in (None, ""):
            return []
        if kind == "rasters":
            return [layer.source() for layer in self.parameterAsLayerList(parameters, name, context)]
        if kind in ("raster", "vector", "layer"):
            return [self.path_of(name, parameters, context, feedback)]
        if kind == "integer":
            return [str(self.parameterAsInt(parameters, name, context))]
        if kind == "number":
            return [str(self.parameterAsDouble(parameters, name, context))]
        if kind == "choice":
            return [self.parameterAsEnumString(parameters, name, context)]
        if kind == "crs":
            crs = self.parameterAsCrs(parameters, name, context)
            return [crs.authid() or crs.toWkt()]
        return [self.parameterAsString(parameters, name, context)]

    def path_of(self, name, parameters, context, feedback):
        """Return the path of a layer's file."""
        layer = self.parameterAsLayer(parameters, name, context)
        if layer is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, name))
        if layer.type() == QgsMapLayerType.RasterLayer:
            return layer.source()
        formats = [] if layer.dataProvider().subLayerCount() > 1 else VECTOR_FILES  # a path names no layer of a file
        return self.parameterAsCompatibleSourceLayerPath(parameters, name, context, formats, VECTOR_FILES[0], feedback)


def make_parameter(described):
    """Return a parameter of QGIS."""
    name, label, kind, default = (described[key] for key in ("name", "label", "kind", "default"))
    if kind == "choice":
        made = QgsProcessingParameterEnum(
            name, label, described["choices"], False, default, described["optional"], usesStaticStrings=True
        )
    else:
        made = KINDS[kind](name, label, default, described["optional"])
    if kind in ("integer", "number"):
        for value, change in ((described["minimum"], made.setMinimum), (described["maximum"], made.setMaximum)):
            if value is not None:
                change(value)
    made.setHelp(described["help"])
    if described["advanced"]:
        made.setFlags(made.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
    return made
