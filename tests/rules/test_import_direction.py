"""Imports point one way: webapp -> engine rules -> storage contract -> records. One table says it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "engine" / "resume_engine"
WEBAPP = ROOT / "webapp"

# Part of the engine -> parts it may import. The longest matching name decides which part a module belongs to.
ALLOWED = {
    "resume_engine": {"core", "storage"},
    "resume_engine.core": {"core"},
    "resume_engine.storage": {"core", "storage"},
    "resume_engine.adapters": {"core", "adapters"},
    "resume_engine.worker": {"core", "worker"},
    "resume_engine.conformance": {"core", "worker", "conformance"},
    "resume_engine.audit_verifier": set(),  # handed out as one file: nothing but the standard library
    "resume_engine.cli": {"core", "storage", "adapters", "worker", "cli", "audit_verifier"},
}
# The words the rest of the engine speaks in: they know nothing but each other.
RECORDS = {
    "actor",
    "clock",
    "codec",
    "decision",
    "errors",
    "idempotency",
    "payload",
    "permissions",
    "run",
    "step_record",
}
# Decided without a store, a clock or a random number in reach.
PURE_RULES = {
    "decision_end",
    "decision_request",
    "failure_classifier",
    "gate_standing",
    "judgement",
    "policy",
    "policy_words",
    "resume_gates",
    "run_summary",
}

# Third-party package -> the parts that may import it. What is not listed is for the web layer only.
FOREIGN = {
    "alembic": {"storage"},
    "click": {"cli"},
    "crewai": {"adapters"},
    "cryptography": {"storage"},
    "httpx": {"storage"},
    "langgraph": {"adapters"},
    "langchain_core": {"adapters"},
    "psycopg2": {"storage"},
    "pytest": {"conformance"},  # tests for others' stores; the library does not import them
    "sqlalchemy": {"storage"},
}
# Optional packages of the engine: a bare install does not have them, so they are imported when needed.
LAZY = {"crewai", "cryptography", "httpx", "langchain_core", "langgraph", "psycopg2"}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_vendor" not in path.parts)


def dotted(path: Path) -> str:
    base = ENGINE.parent if path.is_relative_to(ENGINE) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Name the row of ALLOWED that governs `module`."""
    return max((row for row in ALLOWED if module == row or module.startswith(f"{row}.")), key=len)


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    """Yield each module that `path` imports when it runs; what only a type checker sees does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: relative import"
            assert node.module is not None
            # `from package import module` names a module of the package.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        pending.extend(ast.iter_child_nodes(node))


def is_standard(package: str) -> bool:
    import sys

    return package in sys.stdlib_module_names


def identifier(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(ENGINE), ids=identifier)
def test_engine_module_imports_only_what_its_part_may(path: Path) -> None:
    module = dotted(path)
    part = part_of(module)
    inner = part.partition(".")[2]
    for imported, line in imports(path):
        where = f"{identifier(path)}:{line}: {part} must not import {imported}"
        package = imported.partition(".")[0]
        assert package != "webapp", where
        if package == "resume_engine":
            target = part_of(imported).partition(".")[2]
            # The package itself holds nothing but its version and the names it passes on.
            assert target in ALLOWED[part] or imported == "resume_engine.__version__", where
        elif not is_standard(package):
            assert inner in FOREIGN.get(package, set()), where


@pytest.mark.parametrize("name", sorted(RECORDS | PURE_RULES))
def test_records_and_pure_rules_stay_at_the_bottom(name: str) -> None:
    path = ENGINE / "core" / f"{name}.py"
    below = RECORDS if name in RECORDS else RECORDS | PURE_RULES
    for imported, line in imports(path):
        if imported.startswith("resume_engine."):
            target = imported.split(".")[2]
            assert target in below, f"{identifier(path)}:{line}: {name} must not import {imported}"


@pytest.mark.parametrize("name", sorted(PURE_RULES))
def test_pure_rules_have_no_source_of_change(name: str) -> None:
    forbidden = {"os", "random", "secrets", "time", "uuid", "resume_engine.core.clock"}
    path = ENGINE / "core" / f"{name}.py"
    for imported, line in imports(path):
        hit = {part for part in forbidden if imported == part or imported.startswith(f"{part}.")}
        assert not hit, f"{identifier(path)}:{line}: a pure rule must not import {imported}"


@pytest.mark.parametrize("path", modules(ENGINE), ids=identifier)
def test_optional_packages_are_imported_when_needed(path: Path) -> None:
    for imported, line in imports(path, top_level_only=True):
        package = imported.partition(".")[0]
        assert package not in LAZY, (
            f"{identifier(path)}:{line}: import {package} inside the function that needs it"
        )


@pytest.mark.parametrize("path", modules(WEBAPP), ids=identifier)
def test_web_layer_leaves_sql_to_its_stores(path: Path) -> None:
    """SQL of the web layer lives in the accounts store; pages ask the engine."""
    if "accounts" in path.parts and path.stem == "store":
        return
    for imported, line in imports(path):
        package = imported.partition(".")[0]
        assert package not in {"alembic", "psycopg2", "sqlite3"}, (
            f"{identifier(path)}:{line}: imports {package}"
        )
        if package == "sqlalchemy":
            assert "pages" not in path.parts, f"{identifier(path)}:{line}: a page must not hold SQL"
