"""Learn MAML, FOMAML and MAML++ by building them: the helper package of the course."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import *  # noqa: F403

__version__ = "0.2.0"


def __getattr__(name: str):
    """What stands in `api`, or a module of the package, imported when it is first asked for: `mamlcourse --help` needs
    none of it, and PyTorch takes seconds."""
    if name == "__all__":
        return _names()
    if name.startswith("__"):
        raise AttributeError(name)
    if find_spec(f"{__name__}.{name}"):
        return import_module(f".{name}", __name__)
    if name in _names():
        return _from_api(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_names()})


def _names() -> list[str]:
    return [name for name in vars(import_module(".api", __name__)) if not name.startswith("_")]


def _from_api(name: str):
    return getattr(import_module(".api", __name__), name)


class _Package(ModuleType):
    """Whoever imports the module `mamlcourse.learner` would put it in the place of the function of that name."""

    learner = property(lambda self: _from_api("learner"), lambda self, module: None)


sys.modules[__name__].__class__ = _Package
