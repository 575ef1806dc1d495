"""pyogrio comes without pandas, and pandas when it is wanted."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "use",
    [
        "import geopandas; geopandas.GeoSeries.from_wkt(['POINT (1 2)']).to_file('p.gpkg')",
        "import pandas.api.types as types; assert types.is_integer_dtype('int64')",
        "pyogrio._compat.pandas.DataFrame({'a': [1]})",
        "assert pyogrio._compat.geopandas.__version__ == __import__('geopandas').__version__",
    ],
)
def test_the_packages_load_when_they_are_used(use: str, tmp_path: Path) -> None:
    program = f"""
import sys
from cwsam_cli.vector.ogr import pyogrio
assert not {{"pandas", "geopandas"}} & sys.modules.keys()
{use}
import pandas
assert pandas.DataFrame is sys.modules["pandas"].DataFrame
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
