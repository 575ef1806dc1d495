"""Compiled loops are kept once, and not for ever."""

import os
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = "from cwsam_cli.vectorize.polygonize import polygonize; import numpy as np; import cwsam_cli.regions.compiled"


def test_what_no_version_has_used_for_long_is_removed(tmp_path: Path) -> None:
    ours = tmp_path / "cwsam"
    long_ago = time.time() - 100 * 24 * 3600
    for name in ("0123456789abcdef", "fedcba9876543210", "somebody's"):
        (ours / name).mkdir(parents=True)
        (ours / name / "scan.nbi").write_bytes(b"machine code")
        os.utime(ours / name, (long_ago, long_ago))
    os.utime(ours / "fedcba9876543210")

    def run(*extra: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        environment |= {"XDG_CACHE_HOME": str(tmp_path)} | dict(pair.split("=") for pair in extra)
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True)

    run(f"NUMBA_CACHE_DIR={tmp_path / 'mine'}")
    assert len(list(ours.iterdir())) == 3  # who names a folder looks after it
    run()
    assert {path.name for path in ours.iterdir()} >= {"fedcba9876543210", "somebody's"}
    assert not (ours / "0123456789abcdef").exists()


def test_machine_code_that_cannot_be_kept_still_runs(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(
        "import errno, os\n"
        "from cwsam_cli.regions.compiled import compiled\n"
        "@compiled\n"
        "def twice(number):\n"
        "    return 2 * number\n"
        "def full(*_):\n"
        "    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.replace = full\n"
        "print(twice(21))\n"
    )
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, str(tmp_path / "loops.py")], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "42\n"
    assert not list((tmp_path / "cache").rglob("*.nbi"))
