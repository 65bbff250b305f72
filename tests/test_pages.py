"""The pages of the stack and of the documentation, in Chromium. SCREENSHOTS=docs/pages leaves pictures of two there."""

import os
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from local import NODE, ROOT
from tests.conftest import Strive
from tests.support.browser import BROWSER, NEEDS_BROWSER, NEEDS_PLAYWRIGHT

# One of each kind: the first page, a guide with code, tables, a generated reference, measurements.
PAGES = ["", "build/lists/", "errors/", "reference/organizations/", "benchmarks/"]


def visit(script: str, **variables: str) -> None:
    assert BROWSER
    done = subprocess.run(
        [NODE, f"tests/{script}"],
        cwd=ROOT,
        env=os.environ | {"CHROMIUM": BROWSER} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.embedded  # hosted Supabase has a front page of its own
@NEEDS_BROWSER
@NEEDS_PLAYWRIGHT
def test_every_page_works_on_desk_and_phone(stack: Strive, tmp_path: Path) -> None:
    visit("pages.mjs", API_URL=stack.api_url, STRIPE_API_BASE=stack.stripe_api_base, PICTURES=str(tmp_path))
    if folder := os.environ.get("SCREENSHOTS"):
        for name in ("landing", "reference"):
            shutil.copy(tmp_path / f"{name}.png", ROOT / folder / f"{name}.png")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Requests of the test are not printed."""


@NEEDS_BROWSER
@NEEDS_PLAYWRIGHT
def test_the_documentation_site_is_accessible_and_works_offline(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True, timeout=300)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        visit("site.mjs", SITE_URL=f"http://127.0.0.1:{server.server_port}", PAGES=" ".join(PAGES))
        server.shutdown()
