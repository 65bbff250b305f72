"""The pages of the stack in Chromium. With SCREENSHOTS=docs/pages it leaves pictures of some of them there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from local import NODE, ROOT
from tests.conftest import Strive
from tests.support.browser import BROWSER, NEEDS_BROWSER, NEEDS_PLAYWRIGHT


@pytest.mark.embedded  # hosted Supabase has a front page of its own
@NEEDS_BROWSER
@NEEDS_PLAYWRIGHT
def test_every_page_works_on_desk_and_phone(stack: Strive, tmp_path: Path) -> None:
    assert BROWSER
    environment = {"API_URL": stack.api_url, "STRIPE_API_BASE": stack.stripe_api_base, "CHROMIUM": BROWSER}
    done = subprocess.run(
        [NODE, "tests/pages.mjs"],
        cwd=ROOT,
        env=os.environ | environment | {"PICTURES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if folder := os.environ.get("SCREENSHOTS"):
        for name in ("landing", "reference"):
            shutil.copy(tmp_path / f"{name}.png", ROOT / folder / f"{name}.png")
