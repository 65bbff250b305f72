"""The functions as a process of their own on a database of the test's choice, with keys that the test holds."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from local import ROOT
from tests.support import forking
from tests.support.world import claims_of

PROJECT = "http://127.0.0.1:1"
PUBLISHABLE_KEY = "sb_publishable_of_the_tests_0000"
SECRET_KEY = "sb_secret_of_the_tests_00000000"
CRON_KEY = "sb_secret_of_the_cron_000000000"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would load all certificate authorities for every client
SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())
KID = "of-the-tests"
ENTRY = {"type": "USER_ACTION", "title": "Hello", "entity_type": "project", "entity_id": "1", "action": "created"}


COMMAND = [sys.executable, "-m", "functions"]
# Also serves the functions of another folder: one file adds one function.
_ADD = "import functions, runpy, sys; functions.__path__.append(sys.argv.pop())"
BESIDE = [sys.executable, "-c", f"{_ADD}; runpy.run_module('functions', run_name='__main__')"]


def public_jwk(key: ec.EllipticCurvePrivateKey = SIGNING_KEY, kid: str = KID) -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "ES256", "use": "sig"}


def token(
    person: str = "member", *, key: Any = SIGNING_KEY, algorithm: str = "ES256", kid: str = KID, **claims: Any
) -> str:
    """An access token of this person, as the auth service would sign it; claims given as None are left out."""
    now = int(time.time())
    usual = claims_of(person, iss=f"{PROJECT}/auth/v1", iat=now, exp=now + 3600)
    payload = {name: claim for name, claim in (usual | claims).items() if claim is not None}
    return jwt.encode(payload, key, algorithm, {"kid": kid})


def environment(database_url: str, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "OTEL_"))}
    return inherited | {
        "HOST": "127.0.0.1",
        "PORT": "0",
        "SUPABASE_URL": PROJECT,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_SECRET_KEYS": json.dumps({"default": SECRET_KEY, "cron": CRON_KEY}),
        "SUPABASE_JWKS": json.dumps({"keys": [public_jwk()]}),
        "SUPABASE_DB_URL": database_url,
        **more,
    }


@dataclass(frozen=True)
class Serving:
    process: subprocess.Popen[bytes] | forking.Forked
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def lines(self) -> list[dict[str, Any]]:
        written = self.log.read_text().rpartition("\n")[0]  # the last one may still be being written
        return [json.loads(line) for line in written.splitlines()]

    def client(self, person: str | None = "member", **headers: str) -> httpx.Client:
        signed_in = {"authorization": f"Bearer {token(person)}"} if person else {}
        return httpx.Client(base_url=self.url, headers=signed_in | headers, timeout=60, verify=NO_TLS)

    def record(self, body: Any = ENTRY, person: str = "member", **headers: str) -> httpx.Response:
        with self.client(person) as client:
            return client.post(RECORD, json=body, headers=headers)


RECORD = "/functions/v1/record-activity"


@contextmanager
def serving(folder: Path, variables: Mapping[str, str], words: list[str] | None = None) -> Iterator[Serving]:
    """A running server, once it has logged that it is ready."""
    log = folder / f"functions-{time.monotonic_ns()}.log"
    process: subprocess.Popen[bytes] | forking.Forked
    with log.open("wb") as output:
        if words is None and forking.parent:
            process = forking.parent.start(variables, log)
        else:
            process = subprocess.Popen(words or COMMAND, cwd=ROOT, env=dict(variables), stderr=output, stdout=output)
    try:
        yield Serving(process, _address(process, log), log)
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes] | forking.Forked, log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"ready"' in line:
                return str(json.loads(line)["address"])
        time.sleep(0.01)
    raise AssertionError(f"The functions did not start: {log.read_text()}")
