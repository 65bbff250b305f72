"""The report script in examples/python."""

import os
import subprocess
import sys

from local import ROOT
from tests.conftest import Strive

REPORT = ROOT / "examples/python/report.py"


def test_report_prints_the_week_of_one_organization(stack: Strive) -> None:
    assert len(REPORT.read_text().splitlines()) <= 60
    environment = os.environ | {"API_URL": stack.api_url, "PUBLISHABLE_KEY": stack.publishable_key}
    done = subprocess.run(
        [sys.executable, REPORT], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Acme Realty")
    assert "NEGOTIATION" in done.stdout
    assert "Globex" not in done.stdout
