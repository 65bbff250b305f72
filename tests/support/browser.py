"""The Chromium that tests of pages use, if this machine has one."""

import shutil

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
