"""Find the date of a scene: its STAC item's, or one in its file name or its tags."""

import re
from datetime import date, timedelta

from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.sources.network import VIEW
from cwsam_cli.raster.sources.scenes import file_name
from cwsam_cli.raster.sources.views import View

_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
_DAY_OF_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)([0-3]\d\d)(?!\d)")
_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?!\d)")


def find_date(path: str) -> str:
    """Return the time of a STAC item, the date of a scene as `YYYY-MM-DD`, its year if only that is known, or nothing.

    The first date in the file name counts, as `20240115`, `2024-01-15` or `2024015` (day of the year). Then the tags
    of the raster follow (such as TIFFTAG_DATETIME), and last a year in the file name.
    """
    if path.startswith(VIEW) and (told := View.from_text(path).date):
        return told
    name = file_name(path)
    found = _read(name)
    if found is None:
        with open_raster(path) as dataset:
            tags = [value for key, value in sorted(dataset.tags().items()) if "DATE" in key.upper()]
        found = next((day for value in tags if (day := _read(value.replace(":", "-"))) is not None), None)
    if found is not None:
        return found
    years = [year for year in _YEAR.findall(name) if int(year) <= date.today().year]
    return str(years[0]) if years else ""


def _read(text: str) -> str | None:
    for year, _, month, day in _DAY.findall(text):
        try:
            return date(int(year), int(month), int(day)).isoformat()
        except ValueError:  # 31 April
            continue
    for year, number in _DAY_OF_YEAR.findall(text):
        if 1 <= int(number) <= 366:
            return (date(int(year), 1, 1) + timedelta(days=int(number) - 1)).isoformat()
    return None
