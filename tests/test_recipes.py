"""The recipes of docs/functions.md and tables.md, and `strive new`, pass the checks in a copy of the repository."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from local import ROOT

# What of `make check` concerns a new function, table or flag.
CHECKS = [
    "tests/test_docs.py",
    "tests/database/lint",
    "tests/database/test_lints.py",
    "tests/database/isolation",
    "tests/local/test_schema.py",
    "tests/functions/test_openapi.py",
    "tests/functions/test_ping_me.py",
    "tests/functions/test_flag_crm_offers.py",
    "tests/database/test_crm_price_lists.py",
]

# Of the isolation matrix, the cells of what the recipes add; of the lints, those of the schema. The suite itself sends
# generated requests, follows the tutorial, and proves for any tables that no diagrams overlap and that drift is found.
CONCERNED = (
    "not isolation and not planted and not undocumented and not covers and not tutorial and not drift or isolation and"
    " (escapes or definer or api_keys or offers or price_lists or rename_organization or ping_me)"
)


def block(page: Path, language: str) -> str:
    found = re.search(rf"^ *```{language}\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    if names.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    existing = b"\0".join(name for name in names.stdout.split(b"\0") if name and (ROOT / os.fsdecode(name)).exists())
    subprocess.run(["xargs", "-0", "cp", "--parents", "-t", tmp_path], cwd=ROOT, input=existing, check=True)
    for name in (".venv", "node_modules"):
        (tmp_path / name).symlink_to(ROOT / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def run(copy: Path, *words: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(copy)  # before the checkout that is installed in .venv
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def python(copy: Path, words: Sequence[str]) -> None:
    run(copy, sys.executable, "-m", *words)


def test_the_recipes_followed_to_the_letter_pass_the_checks(copy: Path) -> None:
    functions, tables = copy / "docs/functions.md", copy / "docs/tables.md"
    migrations, expected = copy / "supabase/migrations", copy / "tests/database/isolation/expected.toml"
    chapter = next(migrations.glob("*_organization_lifecycle.sql"))
    chapter.write_text(chapter.read_text() + block(functions, "sql"))
    (copy / "functions/rename_organization.py").write_text(block(functions, "python"))
    edit(expected, "\nmy_account()", f"\n{block(functions, 'text').strip()}\nmy_account()")
    edit(copy / "shared/app/openapi.py", '"Organizations": "', '"Organizations": "rename-organization ping-me ')

    (migrations / "20991231235959_crm_offers.sql").write_text(block(tables, "sql"))
    edit(copy / "docs/schema.md", "`crm_operations`", "`crm_offers`, `crm_operations`")
    assert "[class.business]" in tables.read_text()
    head, _, business = expected.read_text().partition("[class.business]")
    business = business.replace('tables = ["', 'tables = ["offers", "', 1)
    expected.write_text(f"{head}[class.business]{business}\n{block(tables, 'toml')}")

    for kind, name in (("function", "ping-me"), ("table", "crm_price_lists"), ("flag", "crm.offers")):
        run(copy, sys.executable, "-c", "from local.cli import main; raise SystemExit(main())", "new", kind, name)
    edit(
        copy / "docs/crm.md", "```python\n", '```python\nstrive.rpc("ping_me", {"request": {"name": "x"}}).execute()\n'
    )

    python(copy, ["local.schema"])
    for command in ("ruff format --check .", "ruff check .", "codespell"):
        name, *words = command.split()
        run(copy, str(copy / ".venv/bin" / name), *words)
    subprocess.run(["git", "add", "."], cwd=copy, check=True)
    python(copy, ["pytest", "-q", "-k", CONCERNED, *CHECKS])
