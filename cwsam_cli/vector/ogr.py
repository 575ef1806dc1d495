"""pyogrio alone.

It imports geopandas and pandas to learn their versions: 0.3 s and 45 MB of every run that only
writes. Here it finds the versions; the packages load when somebody uses them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any


class _Named(ModuleType):
    """A package of which only the version has been asked so far."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__version__ = version(name)

    def __getattr__(self, attribute: str) -> Any:
        _forget(self)
        return getattr(import_module(self.__name__), attribute)


def _forget(package: _Named) -> None:
    if sys.modules.get(package.__name__) is package:
        del sys.modules[package.__name__]


@contextmanager
def _named(*names: str) -> Iterator[None]:
    packages = [_Named(name) for name in names if name not in sys.modules]
    sys.modules.update({package.__name__: package for package in packages})
    try:
        yield
    finally:
        for package in packages:
            _forget(package)


with _named("geopandas", "pandas"):
    import pyogrio as pyogrio
