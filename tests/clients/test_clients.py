"""The typed clients are up to date, compile, and work as their READMEs show."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from local import NODE, ROOT
from local.schema import clients
from tests.conftest import Strive
from tests.support.world import Database

CLIENTS = ROOT / "clients"
MODULES = ROOT / "node_modules"


def snippet(package: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (CLIENTS / package / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def run(words: list[str | Path], home: Path, stack: Strive | None = None, **environment: str) -> str:
    values = {"API_URL": stack.api_url, "PUBLISHABLE_KEY": stack.publishable_key} if stack else {}
    done = subprocess.run(
        words, cwd=home, env=os.environ | values | environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_generated_clients_are_up_to_date(database: Database) -> None:
    generated = clients.files(database.url())
    drifted = [str(path.relative_to(ROOT)) for path, text in generated.items() if path.read_text() != text]
    assert drifted == [], "run: make schema"


def test_requests_of_the_collection_are_sent_as_written(stack: Strive) -> None:
    """Those written by hand; the bodies of the others come from the OpenAPI document."""
    text = (CLIENTS / "strive.http").read_text()
    values = dict(re.findall(r"^@(\w+) = (.*)$", text, re.MULTILINE))
    assert values["token"] == "{{login.response.body.$.access_token}}"
    values |= {"api": stack.api_url, "key": stack.publishable_key}
    for request in text.split("\n### ")[1:4]:
        head, _, body = re.sub(r"\{\{(\w+)\}\}", lambda name: values[name[1]], request).partition("\n\n")
        (line, *fields) = [line for line in head.splitlines()[1:] if not line.startswith("#")]
        headers = dict(field.split(": ", 1) for field in fields)
        response = httpx.request(*line.split(" ", 1), headers=headers, content=body)
        assert response.status_code == 200, response.text
        if "# @name login" in head:
            values["token"] = response.json()["access_token"]


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the built package installed."""
    home = tmp_path_factory.mktemp("typescript")
    package = home / "node_modules/@strive/client"
    shutil.copytree(CLIENTS / "typescript", package)
    for name in MODULES.iterdir():
        if not name.name.startswith("."):
            (home / "node_modules" / name.name).symlink_to(name)
    run([NODE, MODULES / "typescript/bin/tsc", "--project", package], home)
    return home


def test_typescript_readme_runs_and_is_typed(typescript: Path, stack: Strive) -> None:
    (typescript / "package.json").write_text('{"type": "module"}')
    (typescript / "example.ts").write_text(snippet("typescript", "ts"))
    assert run([NODE, "example.ts"], typescript, stack).split()[0].isdigit()
    strict = ["--strict", "--noEmit", "--skipLibCheck", "--target", "ES2022", "--module", "NodeNext", "--types", "node"]
    (typescript / "wrong.ts").write_text(
        "import { createStrive } from '@strive/client';\nconst strive = createStrive('', '');\n"
        "await strive.functions.POST('/evaluate-flag', { body: { flat: 'x' } });\n"
        "await strive.supabase.from('lads').select('id');\n"
    )
    done = subprocess.run(
        [NODE, MODULES / "typescript/bin/tsc", *strict[:-2], "wrong.ts"],
        cwd=typescript, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "flat" in done.stdout
    assert "lads" in done.stdout


def test_python_readme_runs(stack: Strive, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(snippet("python", "python"))
    assert run([sys.executable, script], tmp_path, stack, PYTHONPATH=str(CLIENTS / "python")).split()[0].isdigit()


def test_python_client_raises_the_error_of_the_function(stack: Strive, tmp_path: Path) -> None:
    script = tmp_path / "refused.py"
    script.write_text(
        "import os\nfrom strive_client import ApiError, Functions, operations\n"
        "functions = Functions(os.environ['API_URL'], os.environ['PUBLISHABLE_KEY'])\n"
        "try:\n    functions.call(operations.submit_order, {'order_id': '00000000-0000-0000-0000-000000000000'})\n"
        "except ApiError as error:\n    print(error.status, error.code)\n"
    )
    assert run([sys.executable, script], tmp_path, stack, PYTHONPATH=str(CLIENTS / "python")).split()[0] == "401"
