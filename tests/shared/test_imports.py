"""The layers of functions/ and shared/: who may import whom."""

import ast
import re
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

from local import ROOT


def modules() -> dict[str, Path]:
    paths = [path for folder in ("functions", "shared") for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path: Path, known: set[str]) -> set[str]:
    """All imports, also those inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & known


def test_no_import_cycle() -> None:
    known = modules()
    graph = {name: imports(path, set(known)) - {name} for name, path in known.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_shared_never_imports_functions_and_functions_never_each_other() -> None:
    for name, path in modules().items():
        found = {each for each in imports(path, set(modules())) if each.startswith("functions")}
        if name.startswith("shared") or name not in {"functions", "functions.main", "functions.__main__"}:
            assert not found, name


def test_errors_module_imports_no_library() -> None:
    tree = ast.parse((ROOT / "shared/errors.py").read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found == {"collections.abc", "dataclasses", "typing"}


def test_dependencies_match_the_imports_of_the_product() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = declared["dependencies"] + declared["optional-dependencies"]["otel"]
    assert [name for name in names if not re.search(r">=[\d.]+,<\d", name)] == []
    distributions = {re.split(r"[\[><=;]", name)[0].replace("_", "-") for name in names}
    imported = set()
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
    imported -= sys.stdlib_module_names | {"functions", "shared", "local"}
    provided = metadata.packages_distributions()
    needed = {name for module in imported - {"opentelemetry"} for name in provided[module]}
    by_uvicorn = {"httptools", "uvloop"}
    otel = {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}
    assert {name.lower().replace("_", "-") for name in needed} | by_uvicorn | otel == distributions


def test_no_request_waits_for_an_import_of_another() -> None:
    """A coroutine imports what `load_modules()` or `load_stripe()` has imported in a thread before."""
    small = {"shared.app.forwarding"}
    found: dict[str, set[str | None]] = {}
    for name, path in modules().items():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef):
                parts = list(ast.walk(function))
                loaded = {
                    argument.value
                    for part in parts
                    if isinstance(part, ast.Call) and ast.unparse(part.func) in {"load_modules", "call.load_stripe"}
                    for argument in part.args
                    if isinstance(argument, ast.Constant)
                }
                late = {part.module for part in parts if isinstance(part, ast.ImportFrom)}
                late |= {each.name for part in parts if isinstance(part, ast.Import) for each in part.names}
                found |= {f"{name}.{function.name}": late - loaded - small} if late - loaded - small else {}
    # Modules that `services()`, `outgoing.client()` or the start of the process has loaded.
    assert found == {
        "shared.administration.services.delete_account": {"supabase"},
        "shared.auth.tokens._fetch": {"httpx"},
        "shared.app.runtime.open": {"shared.telemetry"},
    }
