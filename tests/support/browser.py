"""The Chromium that tests of pages use, and the packages that drive it, if this machine has them."""

import os
import shutil

import pytest

from local import ROOT

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
PACKAGES = ROOT / "examples/web/node_modules"
# CI on Linux has a browser; a test that is skipped there would go unnoticed.
IS_REQUIRED = os.environ.get("GITHUB_ACTIONS") == "true" and os.environ.get("RUNNER_OS") == "Linux"
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None and not IS_REQUIRED, reason="there is no Chromium on this machine")
NEEDS_PLAYWRIGHT = pytest.mark.skipif(
    not PACKAGES.exists() and not IS_REQUIRED,
    reason="the example's packages are not installed: make test installs them",
)
