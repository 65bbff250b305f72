"""docs/errors.md lists every code of an error, and no other."""

import ast
import re
from collections.abc import Iterator

from local import ROOT
from shared.database.errors import CODES, MEANING

PAGE = (ROOT / "docs/errors.md").read_text()
DOCUMENTED = set(re.findall(r"^\| `([\w…]+)` \|", PAGE, re.MULTILINE))
CODE = re.compile(r"[a-z]+(_[a-z]+)*|PT\d{3}")


def constants(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def raised(tree: ast.Module) -> Iterator[str]:
    """The second argument of ApiError and ErrorResponse; of a function that passes its own parameter on, that one."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    codes = {"ApiError": 1, "ErrorResponse": 1}
    for definition in ast.walk(tree):
        if isinstance(definition, ast.FunctionDef):
            parameters = [each.arg for each in definition.args.args]
            for call in calls:
                code = call.args[1] if call.func.id in codes and len(call.args) > 1 else None  # type: ignore[attr-defined]
                if isinstance(code, ast.Name) and code.id in parameters and call in ast.walk(definition):
                    codes[definition.name] = parameters.index(code.id)
    for call in calls:
        position = codes.get(call.func.id)  # type: ignore[attr-defined]
        if position is not None and len(call.args) > position:
            yield from constants(call.args[position])


def test_every_code_of_the_functions_is_documented() -> None:
    found = {"client_gone"} | set(CODES.values())
    for path in (ROOT / "supabase/migrations").glob("*.sql"):
        found |= set(re.findall(r"private\.refuse_move\(\d+, '(organization_\w+)'", path.read_text()))
    for folder in ("functions", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(raised(ast.parse(path.read_text())))
    found.discard("code")  # the key of a body that the database composed
    documented = {code for code in DOCUMENTED if re.fullmatch(r"[a-z_]+", code)}
    assert {code for code in found if CODE.fullmatch(code) and not code.startswith("PT")} == documented


def test_every_code_of_the_database_is_documented() -> None:
    chapters = "".join(path.read_text() for path in (ROOT / "supabase/migrations").glob("*.sql"))
    raised_in_sql = set(re.findall(r"errcode = '(\w{5})'", chapters))
    to_clients = {state for state, meaning in MEANING.items() if isinstance(meaning, int)}
    documented = {code for code in DOCUMENTED if re.match(r"PT|\d|P0", code)}
    covered = {code.removesuffix("…") for code in documented}
    assert {code for code in raised_in_sql | to_clients if not code.startswith(tuple(covered | {"23"}))} == set()
    assert {code for code in covered if code.startswith("PT")} <= raised_in_sql | {"PT503"}
