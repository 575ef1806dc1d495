"""Maps → one mosaic: request → plan → work."""

from dataclasses import replace

from cwsam_cli.console import log
from cwsam_cli.mosaic.plan import make_plan
from cwsam_cli.mosaic.request import MosaicRequest
from cwsam_cli.mosaic.result import MosaicResult, summarize
from cwsam_cli.mosaic.work import write_mosaic
from cwsam_cli.raster.mapfile import without_layers
from cwsam_cli.raster.sources.scenes import expand


def mosaic(request: MosaicRequest) -> MosaicResult:
    """Make one map of many.

    Raises:
        DataError: an input is not a map, class tables contradict each other, or no map touches the cutline.
        UsageError: a map is given twice, or an option does not fit the CRS.
        MachineError: another process is writing the output.
    """
    maps = without_layers(expand(request.maps)[0])
    request = replace(request, maps=tuple(maps))  # which also checks that no map is the output
    plan = make_plan(request)
    log.debug("%s: %s, %d maps, %d tiles", request.output, plan.grid, len(plan.maps), len(plan.tiles))
    tally, agreement, files = write_mosaic(plan)
    result = summarize(plan, tally, agreement, files)
    if not result.classes:
        log.warning("no map shows a class there, so `%s` holds only nodata", request.output)
    return result
