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
        self._instrumented: dict[str, str | None] = {}
        self._versions: dict[str, str | None] = {}

    def apply(self, integration: Integration) -> None:
        """Patch now what is imported, and the rest when it is. Imports nothing, and does not look whether the library
        is there: reading a distribution's metadata takes a millisecond, and most programs use few."""
        self._instrumented[integration.library] = None
        for module, path in integration.targets:
            self._when_imported(integration, module, path, functools.partial(stainless.follow, integration))
        for method in integration.methods:
            follow = functools.partial(methods.follow, integration, method)
            self._when_imported(integration, method.module, method.path, follow, method.since)
        for other in integration.others:
            follow = functools.partial(_followed_otherwise, other.follow)
            self._when_imported(integration, other.module, other.path, follow, other.since)

    def _when_imported(
        self, integration: Integration, module: str, path: str, follow: Callable[..., Any], since: str = ""
    ) -> None:
        patch = functools.partial(self._patch, integration, path, follow, since)
        wrapt.register_post_import_hook(patch, module)

    def _patch(self, integration: Integration, path: str, follow: Callable[..., Any], since: str, module: Any) -> None:
        with self._lock, _PATCHING:
            installed = self._version_of(integration) if self._active else None
            if installed is None or (since and Version(installed) < Version(since)):
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
            self._instrumented[integration.library] = installed

    def _version_of(self, integration: Integration) -> str | None:
        """The version of a library of which a module was imported; asked for the first, and remembered."""
        library = integration.library
        if library not in self._versions:
            installed = self._versions[library] = _installed(library)
            supported = SpecifierSet(integration.versions, prereleases=True)
            if installed is not None and installed not in supported:
                # A newer version than was tested most often works, and never harms: every reader is guarded.
                log.warning("egisai: %s %s is outside the tested %s", library, installed, supported)
        return self._versions[library]

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
        return {library: instrumented or _waiting(library) for library, instrumented in self._instrumented.items()}

    def resolve(self) -> Tracer | None:
        """The tracer of now; None after `undo`."""
        if not self._active:
            return None
        tracer, final = self._find_tracer()
        if final:
            self.tracer = tracer
        return tracer


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _waiting(library: str) -> str:
    installed = _installed(library)
    return "not installed" if installed is None else f"{installed}, when imported"


def _followed_otherwise(follow: Callable[[Any, Any], Any], original: Any, tracing: Patches, _: bool) -> Any:
    return follow(original, tracing)


def _is_vendors(function: Any) -> bool:
    wrapper = getattr(function, "_self_wrapper", None)
    module = getattr(wrapper, "__module__", None) or type(wrapper).__module__
    return wrapper is not None and module.startswith(_VENDORS)
