"""The date of a scene decides its split."""

from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.dates import find_date


def scene_date(path: str) -> str:
    """Return the date of a scene as `YYYY-MM-DD`, or its year if only the year is known; see `find_date`.

    Raises:
        DataError: there is no date.
    """
    found = find_date(path)
    if not found:
        raise DataError(
            f"neither the name of `{path}` nor its tags hold a date, which --split-by date needs",
            hint="put the date into the file name, for example scene_20240115.tif",
        )
    return found[:10]
