"""Plugin of QGIS that runs `cwsam` from the Processing toolbox. It needs QGIS and its Python, 3.9 or newer, only."""


def classFactory(iface):
    """Return the plugin, as QGIS asks for it."""
    from .provider import Plugin

    return Plugin()
