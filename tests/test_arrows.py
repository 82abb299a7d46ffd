"""Dependencies point one way: instrumentation -> egisai <- platform; the exporter knows OpenTelemetry alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "egisai": ROOT / "src/egisai",
    "egisai_instrumentation": ROOT / "instrumentation/src/egisai_instrumentation",
    "egisai_exporter": ROOT / "exporter/src/egisai_exporter",
    "egisai_platform": ROOT / "platform/src/egisai_platform",
}
ALLOWED = {
    "egisai": set(),
    "egisai_instrumentation": {"egisai"},
    "egisai_exporter": set(),
    "egisai_platform": {"egisai"},
}
LIGHT = {"egisai", "egisai_instrumentation"}
HEAVY = {"pydantic", "requests", "httpx", "httpx2", "openai", "fastapi", "starlette", "uvicorn", "numpy", "aiohttp"}


def imported(source: Path) -> Iterator[tuple[Path, str]]:
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield path, node.module.split(".")[0]


@pytest.mark.parametrize("package", SOURCES)
def test_dependencies_point_one_way(package: str) -> None:
    """No package imports one of ours that it must not know, and the SDK side imports nothing heavy."""
    found = list(imported(SOURCES[package]))
    assert len(found) > 5
    forbidden = set(SOURCES) - ALLOWED[package] - {package}
    if package in LIGHT:
        forbidden |= HEAVY
    assert [(path.name, name) for path, name in found if name in forbidden] == []


def test_platform_folder_does_not_shadow_the_standard_library() -> None:
    """`platform/` is also a module of the standard library: our folder must never become a package."""
    assert not (ROOT / "platform/__init__.py").exists()


def test_attribute_names_live_in_one_file() -> None:
    """`gen_ai.*` and `egisai.*` attribute names of the SDK are written in semconv.py and nowhere else."""
    for package in ("egisai", "egisai_instrumentation"):
        for path in SOURCES[package].rglob("*.py"):
            if path.name == "semconv.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not node.value.startswith(("gen_ai.", "egisai.agent.", "egisai.prompt.")), (path, node.value)
