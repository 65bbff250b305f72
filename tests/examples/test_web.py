"""The example application compiles, and two people can use all of it in Chromium."""

import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local import NODE, ROOT
from tests.conftest import Strive
from tests.support.browser import BROWSER, NEEDS_BROWSER, NEEDS_PLAYWRIGHT

EXAMPLE = ROOT / "examples/web"
MODULES = EXAMPLE / "node_modules"

pytestmark = [
    pytest.mark.embedded,  # it pays at the Stripe double
    NEEDS_BROWSER,
    NEEDS_PLAYWRIGHT,
]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [NODE, *words],
        cwd=EXAMPLE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def connection(stack: Strive) -> dict[str, str]:
    names = ("api_url", "publishable_key", "stripe_api_base")
    return {name.upper(): getattr(stack, name) for name in names}


@pytest.fixture
def application(connection: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of the built application, on a server of static files."""
    run(MODULES / "vite/bin/vite.js", "build", "--outDir", tmp_path, "--logLevel", "error", **connection)
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_example_is_typed_strictly() -> None:
    run(MODULES / "typescript/bin/tsc")
    lines = sum(len(path.read_text().splitlines()) for path in (EXAMPLE / "src").rglob("*.*"))
    assert lines <= 2000


def test_two_people_use_the_whole_example(application: str, connection: dict[str, str], tmp_path: Path) -> None:
    """With SCREENSHOTS=docs/pages it leaves a picture there."""
    assert BROWSER
    assert "done" in run("tests/walk.mjs", APP=application, CHROMIUM=BROWSER, PICTURES=str(tmp_path), **connection)
    if folder := os.environ.get("SCREENSHOTS"):
        shutil.copy(tmp_path / "example.png", ROOT / folder / "example.png")
