"""What this machine has: versions, processor, devices, memory, caches and disk."""

import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cwsam_cli import __version__
from cwsam_cli.console import size_text
from cwsam_cli.distributed.scheduler import count_cores
from cwsam_cli.distributed.world import choose_device, choose_precision
from cwsam_cli.errors import MachineError
from cwsam_cli.locking import locked

_LIBRARIES = ("torch", "numpy", "rasterio", "pyogrio", "shapely", "pyproj", "numba", "onnxruntime")
_SMALL_DISK = 2_000_000_000  # bytes; a journal, a map and its layers of a large scene need more


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This machine, as the program sees it."""

    facts: dict[str, str]
    """Name and value of each line."""
    oddities: tuple[str, ...]
    """Sentences on what may be slow or fail here."""


def examine_machine(folder: Path) -> Machine:
    """Examine this machine.

    Args:
        folder: where outputs would be written; its disk is measured.
    """
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    facts = {
        "cwsam": f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}",
        "libraries": ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name))),
        "geography": _geography(),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, bf16 {_bf16()}",
        "precision": f"--precision auto means {precision} on {device}",
        "threads": f"{torch.get_num_threads()} of {count_cores()} cores",
        "memory": _memory(),
    }
    facts |= _devices()
    oddities = []
    if precision == "fp32" and device.type == "cpu":
        oddities.append("bf16 is emulated on this processor and many times slower than fp32")
    if torch.get_num_threads() < count_cores():
        why = " (OMP_NUM_THREADS is set)" if "OMP_NUM_THREADS" in os.environ else ""
        oddities.append(f"torch computes with {torch.get_num_threads()} of {count_cores()} cores{why}")
    for name, path in _caches().items():
        facts[name] = str(path)
        if not _is_writable(path):
            oddities.append(f"the {name} `{path}` cannot be written")
    for name, path in (("disk", folder), ("temporary folder", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free
        facts[name] = f"{size_text(free)} free at {path.resolve()}"
        if free < _SMALL_DISK:
            oddities.append(f"only {size_text(free)} are free at `{path.resolve()}`")
    if not _is_writable(folder):
        oddities.append(f"`{folder.resolve()}` cannot be written")
    elif not _has_locks(folder):
        oddities.append(f"the disk of `{folder.resolve()}` has no locks, so no command can write there")
    return Machine(facts=facts, oddities=tuple(oddities))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra that is not installed
        return ""


def _geography() -> str:
    import pyogrio
    import pyproj
    import rasterio
    import shapely

    geos = ".".join(map(str, shapely.geos_version))
    vector = ".".join(map(str, pyogrio.__gdal_version__))
    gdal = f"GDAL {rasterio.__gdal_version__} (rasters) and {vector} (vectors)"
    return f"{gdal}, PROJ {pyproj.__proj_version__}, GEOS {geos}"


def _processor() -> str:
    """Return the processor's name; Linux has it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


def _bf16() -> str:
    return "in hardware" if choose_precision("auto", torch.device("cpu")) == "bf16" else "emulated"


def _memory() -> str:
    try:
        return size_text(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError):  # Windows
        return "not known"


def _devices() -> Mapping[str, str]:
    if not torch.cuda.is_available():
        return {"GPU": "none" if torch.version.cuda is None else f"none (torch is built for CUDA {torch.version.cuda})"}
    found = {}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        found[f"cuda:{number}"] = (
            f"{properties.name}, {size_text(properties.total_memory)}, {bf16}, CUDA {torch.version.cuda}"
        )
    return found


def _caches() -> Mapping[str, Path]:
    import cwsam_cli.regions.compiled  # noqa: F401 - it chooses the folder

    return {
        "cache of downloads": Path(torch.hub.get_dir()) / "checkpoints",
        "cache of compiled loops": Path(os.environ["NUMBA_CACHE_DIR"]),
    }


def _is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, or in the nearest folder above it that exists."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _has_locks(folder: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix=".cwsam-", dir=folder) as own:
        try:
            with locked(Path(own) / "lock", ""):
                return True
        except MachineError:
            return False
