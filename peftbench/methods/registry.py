"""Method names to classes. A method is found by its module's name, so adding one changes nothing here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from peftbench import methods
from peftbench.errors import ConfigurationError
from peftbench.methods.base import Method
from peftbench.strict import did_you_mean

_CLASSES: dict[str, type[Method]] = {}
_M = TypeVar("_M", bound=type[Method])


def register(name: str) -> Callable[[_M], _M]:
    """Class decorator: `name` in the configuration means this class. It stands in the module of the same name."""

    def decorate(cls: _M) -> _M:
        cls.name = name
        _CLASSES[name] = cls
        return cls

    return decorate


def method_class(name: Any) -> type[Method]:
    """The class registered as `name`.

    Raises:
        ConfigurationError: no such method.
    """
    modules = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    if isinstance(name, str) and name in modules:
        importlib.import_module(f"{methods.__name__}.{name}")
    if not isinstance(name, str) or name not in _CLASSES:
        for module in modules:
            importlib.import_module(f"{methods.__name__}.{module}")
        known = sorted(_CLASSES)
        raise ConfigurationError(
            f"method.name: {name!r} is not a method{did_you_mean(str(name), known)} (known: {', '.join(known)})"
        )
    return _CLASSES[name]
