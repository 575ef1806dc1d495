"""The page in the wheel is the one that its sources and its lock file give, and it names the licences of its parts."""

import hashlib
import json
import re

from cwsam_cli.view.pipeline import ASSETS

PAGE = ASSETS.with_name("page")
LOCK = json.loads((PAGE / "package-lock.json").read_text())
BANNER = (ASSETS / "viewer.js").read_text(encoding="utf-8").partition("\n")[0]


def bundled() -> dict[str, str]:
    return dict(pair.rsplit(" ", 1) for pair in re.search(r"Contains (.*)\. See", BANNER)[1].split(", "))


def test_the_script_is_built_from_the_sources_that_are_here() -> None:
    names = ["package-lock.json", "build.js", *sorted(f"src/{path.name}" for path in (PAGE / "src").iterdir())]
    digest = hashlib.sha256(b"".join((PAGE / name).read_bytes() for name in names)).hexdigest()
    assert digest in BANNER, "call `make viewer`"


def test_the_script_names_the_versions_of_the_lock_file() -> None:
    versions = {name: LOCK["packages"][f"node_modules/{name}"]["version"] for name in bundled()}
    assert versions == bundled()
    assert {"ol", "geotiff", "flatgeobuf", "proj4"} <= bundled().keys()


def test_the_lock_file_has_hashes_and_no_addresses() -> None:
    packages = {name: entry for name, entry in LOCK["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert "://" not in json.dumps(LOCK)


def test_every_package_in_the_script_has_its_licence_text_beside_it() -> None:
    texts = (ASSETS / "licenses.txt").read_text(encoding="utf-8")
    for name, version in bundled().items():
        part = texts[texts.index(f"{name} {version} (") :]
        assert re.search(r"Copyright|\(c\)|Permission|Licen[cs]e", part[:2500].partition("=\n")[2])


def test_the_page_is_small_and_names_no_other_server() -> None:
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 1_500_000
    for name in ("index.html", "viewer.css"):
        assert "://" not in (ASSETS / name).read_text(encoding="utf-8")
