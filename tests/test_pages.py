"""The pages, opened in a real browser. With SCREENSHOTS=docs/pages it leaves pictures of them there."""

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from local import ROOT
from tests.conftest import Strive
from tests.support.browser import BROWSER, NEEDS_BROWSER

pytestmark = [pytest.mark.embedded, NEEDS_BROWSER]  # hosted Supabase has a front page of its own


def opened(address: str, picture: Path, profile: Path, height: int = 900) -> str:
    """The page as it stands once its scripts have run; whatever they complain about fails the test."""
    done = browse(profile, f"--window-size=1200,{height}", f"--screenshot={picture}", address)
    assert not re.search(r"CONSOLE.*(error|Refused)", done.stderr, re.IGNORECASE), done.stderr
    return browse(profile, "--dump-dom", address).stdout


def browse(profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER
    usual = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    usual += ["--virtual-time-budget=8000", f"--user-data-dir={profile}"]
    return subprocess.run([BROWSER, *usual, *words], capture_output=True, text=True, timeout=90, check=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    wanted = os.environ.get("SCREENSHOTS")
    folder = ROOT / wanted if wanted else tmp_path
    folder.mkdir(exist_ok=True)
    return folder


def test_the_landing_page_says_what_runs(stack: Strive, pictures: Path, tmp_path: Path) -> None:
    page = opened(stack.api_url, pictures / "landing.png", tmp_path)
    assert page.count(">running<") == 3
    assert "owner@globex.test" in page
    assert "/functions/v1/submit-order" in page


def test_landing_page_shows_the_live_feed(stack: Strive, tmp_path: Path) -> None:
    page = opened(f"{stack.api_url}/#owner@acme.test", tmp_path / "feed.png", tmp_path)
    feed = re.search(r'<ol id="feed".*?</ol>', page)
    assert feed
    assert feed[0].count("<time>") == 5


def test_the_reference_page_shows_every_function(stack: Strive, pictures: Path, tmp_path: Path) -> None:
    paths = httpx.get(f"{stack.functions_url}/openapi.json").json()["paths"]
    page = opened(f"{stack.functions_url}/docs", pictures / "reference.png", tmp_path, 1100)
    shown = set(re.findall(r'<section id="([^"]+)"', page))
    assert shown == {methods["post"]["operationId"] for methods in paths.values()}
