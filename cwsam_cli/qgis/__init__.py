"""Make the plugin that runs `cwsam` from the Processing toolbox of QGIS."""
