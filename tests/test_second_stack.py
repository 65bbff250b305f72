"""The commands of the README that run a second stack: in a file of its own, so that another worker runs them."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from local import ROOT
from local.stack import Stack
from tests.conftest import Strive
from tests.support.serving import NO_TLS
from tests.test_commands import blocks


@pytest.mark.embedded
def test_the_strive_commands_run_a_second_stack_beside_the_first(
    stack: Strive, tmp_path: Path, stack_at: Callable[..., Stack]
) -> None:
    (commands,) = [text for text in blocks("sh") if ".strive/second" in text]
    second = ROOT / ".strive/second"
    try:
        (ROOT / ".strive").mkdir(exist_ok=True)
        stack_at(second)  # tests/test_commands.py starts a new workdir
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=ROOT,
            env=os.environ | {"STRIVE_WORKDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        Stack(second).stop()
        shutil.rmtree(second, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert '"API_URL"' in done.stdout
    assert "Stopped." in done.stdout
    assert httpx.get(f"{stack.api_url}/health", verify=NO_TLS, timeout=60).status_code == 200
