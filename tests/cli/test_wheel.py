"""What a user gets who installs the wheel rather than the checkout."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_virtual_environment(tmp_path):
    def run(*command: object, cwd: Path = tmp_path) -> str:
        done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("cwsam-*.whl")
    assert wheel.stat().st_size < 3_000_000
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", wheel)
    assert "vectorize" in run(python, "-m", "cwsam_cli", "--help")
    shipped = run(
        python,
        "-c",
        "from cwsam_cli.config.load import load_config, load_taxonomy;"
        "from cwsam_cli.report import page;"
        "print(load_config('tiny').model.name, len(load_taxonomy('land_cover_33')));"
        "print(sorted(path.name for path in page.TEMPLATE.iterdir()));"
        "print(sorted(path.name for path in page.TEMPLATE.parents[1].glob('*/*.js')));"
        "print(sorted(path.name for path in page.TEMPLATE.parents[1].glob('view/*/*')))",
    )
    assert shipped.splitlines() == [
        "sam_tiny 33",
        "['page.css', 'page.html', 'shared.js']",
        "['map.js', 'page.js', 'sample.js']",
        "['index.html', 'licenses.txt', 'viewer.css', 'viewer.js']",
    ]
