"""Land-cover maps with Segment Anything, from laptop to cluster.

The names of the Python interface, package `interface`, are here too. They are imported at their first use, because
torch and rasterio are slow to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cwsam_cli.interface import (
        Classifier,
        ClassMap,
        assess_map,
        assess_sample,
        open_checkpoint,
        polygons,
        vectorize_map,
    )

__version__ = "0.1.0"

__all__ = [
    "ClassMap",
    "Classifier",
    "assess_map",
    "assess_sample",
    "open_checkpoint",
    "polygons",
    "vectorize_map",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module("cwsam_cli.interface"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
