"""Rules for the whole checkout: pinned packages, no addresses, no traces of a machine."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from local import ROOT

LOCKS = ["requirements.lock", "requirements-dev.lock"]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize("name", LOCKS)
def test_every_python_package_is_pinned_with_hashes(name: str) -> None:
    lock = (ROOT / name).read_text()
    entries = re.split(r"\n(?=[a-zA-Z0-9])", lock.strip())
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[a-zA-Z0-9._-]+(\[[a-z,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in lock
    assert "--index-url" not in lock


@pytest.mark.parametrize("folder", [".", "examples/web"])
def test_every_npm_package_is_pinned_with_a_hash(folder: str) -> None:
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert not name or entry.get("integrity", "").startswith("sha512-"), name
    wanted = json.loads((ROOT / folder / "package.json").read_text())
    for kind in ("dependencies", "optionalDependencies", "devDependencies"):
        for name, version in wanted.get(kind, {}).items():
            assert re.fullmatch(r"(npm:@?[\w./-]+@)?\d[\w.-]*", version), f"{name} is not pinned exactly: {version}"


def test_no_file_contains_a_path_of_a_machine() -> None:
    for path in tracked():
        if path.suffix in {".lock", ".png"} or not path.is_file():
            continue
        found = re.search(r"(?<![\w.])/(root|work|Users|home)/\w+", path.read_text(errors="replace"))
        assert not found or path == Path(__file__), f"{path}: {found and found[0]}"


def test_a_deployment_keeps_the_settings_it_does_not_name() -> None:
    workflow = (ROOT / ".github/workflows/deploy.yml").read_text()
    assert "--update-secrets" in workflow
    assert "--set-" not in workflow


def test_generated_and_secret_files_are_not_tracked() -> None:
    names = {str(path.relative_to(ROOT)) for path in tracked()}
    assert not [
        name
        for name in names
        if re.search(r"(^|/)(\.venv|node_modules|\.strive|\.schemathesis|__pycache__|\.env)(/|$)", name)
    ]
    secret = re.compile(r"sb_secret_[A-Za-z0-9_-]{30,}|sk_(live|test)_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY")
    for path in tracked():
        if path.is_file() and path.suffix != ".png":
            assert not secret.search(path.read_text(errors="replace")), path
