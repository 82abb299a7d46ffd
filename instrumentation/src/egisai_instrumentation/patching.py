"""Puts integrations into place when their libraries are imported, and takes them out again."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import wrapt
from opentelemetry.trace import Tracer
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from egisai.guard import Guard

from . import methods, stainless
from .integration import Integration

log: Final = logging.getLogger("egisai")
_PATCHING: Final = Guard("instrumenting a library")

_VENDORS: Final = ("opentelemetry.instrumentation.", "openinference.", "openlit.", "langfuse.", "logfire.")
"""Modules of instrumentors that make an OpenTelemetry span of their own for each call."""


@dataclass(frozen=True, slots=True)
class _Patch:
    owner: Any
    name: str
    original: Any
    ours: Any
    inherited: bool


class Patches:
    """What is patched, for one instrumentor."""

    def __init__(self, find_tracer: Callable[[], tuple[Tracer, bool]]) -> None:
        """`find_tracer` returns a tracer, and whether it is the one to stay with."""
        self.tracer: Tracer | None = None
        self._find_tracer = find_tracer
        self._lock = threading.Lock()
        self._active = True
        self._patches: list[_Patch] = []
        self._state: dict[str, str] = {}

    def apply(self, integration: Integration) -> None:
        """Patch now what is imported, and the rest when it is. Imports nothing."""
        try:
            installed = version(integration.library)
        except PackageNotFoundError:
            self._state[integration.library] = "not installed"
            return
        supported = SpecifierSet(integration.versions, prereleases=True)
        if installed not in supported:
            # A newer version than was tested most often works, and never harms: every reader is guarded.
            log.warning("egisai: %s %s is outside the tested %s", integration.library, installed, supported)
        self._state[integration.library] = f"{installed}, when imported"
        for module, path in integration.targets:
            follow = functools.partial(stainless.follow, integration)
            self._when_imported(module, path, integration.library, installed, follow)
        for method in integration.methods:
            if not method.since or Version(installed) >= Version(method.since):
                follow = functools.partial(methods.follow, integration, method)
                self._when_imported(method.module, method.path, integration.library, installed, follow)

        for other in integration.others:
            if not other.since or Version(installed) >= Version(other.since):
                follow = functools.partial(_followed_otherwise, other.follow)
                self._when_imported(other.module, other.path, integration.library, installed, follow)

    def _when_imported(self, module: str, path: str, library: str, installed: str, follow: Callable[..., Any]) -> None:
        wrapt.register_post_import_hook(functools.partial(self._patch, path, library, installed, follow), module)

    def _patch(self, path: str, library: str, installed: str, follow: Callable[..., Any], module: Any) -> None:
        with self._lock, _PATCHING:
            if not self._active:
                return
            *owners, name = path.split(".")
            owner: Any = functools.reduce(getattr, owners, module)
            original = getattr(owner, name)
            alias = next((patch for patch in self._patches if patch.ours is original), None)
            if alias is not None:  # another name of what is followed already, taken since
                original, ours = alias.original, alias.ours
            else:
                ours = follow(original, self, _is_vendors(original))
            self._patches.append(_Patch(owner, name, original, ours, inherited=name not in owner.__dict__))
            setattr(owner, name, ours)
            self._state[library] = installed

    def undo(self) -> None:
        """Restore every original. Where somebody has patched on top of us, our layer stays and does nothing."""
        with self._lock:
            self._active = False
            self.tracer = None
            for patch in reversed(self._patches):
                if patch.owner.__dict__.get(patch.name) is not patch.ours:
                    continue
                if patch.inherited:
                    delattr(patch.owner, patch.name)
                else:
                    setattr(patch.owner, patch.name, patch.original)
            self._patches.clear()

    def state(self) -> dict[str, str]:
        """Library to what became of it."""
        return dict(self._state)

    def resolve(self) -> Tracer | None:
        """The tracer of now; None after `undo`."""
        if not self._active:
            return None
        tracer, final = self._find_tracer()
        if final:
            self.tracer = tracer
        return tracer


def _followed_otherwise(follow: Callable[[Any, Any], Any], original: Any, tracing: Patches, _: bool) -> Any:
    return follow(original, tracing)


def _is_vendors(function: Any) -> bool:
    wrapper = getattr(function, "_self_wrapper", None)
    module = getattr(wrapper, "__module__", None) or type(wrapper).__module__
    return wrapper is not None and module.startswith(_VENDORS)
