"""A running stack for drills, which `strive dev` repairs as on any day."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

import jwt

from local.stack import Stack


def sign(stack: Stack, who: str, organization: str) -> str:
    """An access token for an hour, as the auth service of this stack would sign it."""
    key, now = stack.keys.jwk, int(time.time())
    claims = {
        "sub": who, "role": "authenticated", "aud": "authenticated", "app_metadata": {"org_id": organization},
        "iss": f"{stack.values()['API_URL']}/auth/v1", "iat": now, "exp": now + 3600,
    }  # fmt: skip
    return jwt.encode(claims, jwt.PyJWK(key).key, "ES256", {"kid": key["kid"]})


@contextmanager
def running(home: Path) -> Iterator[Stack]:
    stack, shown = Stack(home / "stack"), home / "shown"
    command = [sys.executable, "-c", "from local.cli import main; main()", "dev", "--api-port", "0", "--db-port", "0"]
    with shown.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--workdir", str(stack.workdir)],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": "."},
        )
    try:
        while b"Strive runs at" not in shown.read_bytes():
            if process.poll() is not None:
                raise SystemExit(shown.read_text())
            time.sleep(0.05)
        yield stack
    finally:
        process.send_signal(SIGINT)
        process.wait(30)
