"""A map → polygons of its classes: request → plan → work."""

import json
from dataclasses import asdict

from cwsam_cli.console import log
from cwsam_cli.vectorize.plan import make_plan
from cwsam_cli.vectorize.request import VectorizeRequest
from cwsam_cli.vectorize.result import VectorizeResult
from cwsam_cli.vectorize.work import write_polygons


def vectorize(request: VectorizeRequest) -> VectorizeResult:
    """Turn a class raster into polygons along its pixel edges.

    Raises:
        DataError: the raster is not a class raster, the polygons are not a coverage, or they overlap those of
            the layer that they are added to.
        MissingCRS: the raster has no CRS, so areas would have no unit.
        MachineError: another process is writing the output.
    """
    plan = make_plan(request)
    log.debug("plan: %s", json.dumps(asdict(plan), default=str, ensure_ascii=False))
    return write_polygons(plan)
