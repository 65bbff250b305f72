"""The layers of functions/ and shared/: who may import whom."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from local import ROOT


def modules() -> dict[str, Path]:
    paths = [path for folder in ("functions", "shared") for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path: Path, known: set[str]) -> set[str]:
    """All of them: also those inside of functions and under TYPE_CHECKING."""
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
