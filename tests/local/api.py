"""The API alone, in front of one database of the worker's cluster."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import jwt

from local import ROOT
from local.keys import Keys, ensure_keys, load_keys
from local.stack import free_port
from supabase import Client, ClientOptions, create_client
from tests.support.serving import NO_TLS
from tests.support.world import Database

PASSWORD = "correct-horse-1"
HOOK = "pg-functions://postgres/private/custom_access_token_hook"

_serial = count(1)


@dataclass
class Api:
    url: str
    database: Database
    keys: Keys
    home: Path
    environment: dict[str, str] = field(repr=False)
    process: subprocess.Popen[bytes] = field(init=False)
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.home / "api.log").read_text()

    def http(self, key: str | None = None, token: str | None = None, **headers: str) -> httpx.Client:
        """A bare HTTP client with this API key (default: the publishable one) and token."""
        sent = {"apikey": key or self.keys.publishable_key} | ({"authorization": f"Bearer {token}"} if token else {})
        client = httpx.Client(base_url=self.url, headers=sent | headers, timeout=60, verify=NO_TLS)
        self.clients.append(client)
        return client

    @cached_property
    def plain(self) -> httpx.Client:
        """Without any key, and without the cost of a client for each request."""
        client = httpx.Client(timeout=60, verify=NO_TLS)
        self.clients.append(client)
        return client

    def admin(self, **headers: str) -> httpx.Client:
        return self.http(self.keys.secret_key, **headers)

    def supabase(self, key: str | None = None) -> Client:
        http = httpx.Client(timeout=60, verify=NO_TLS)
        self.clients.append(http)
        options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        return create_client(self.url, key or self.keys.publishable_key, options=options)

    def sql(self, statements: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run as `postgres`, who applies migrations."""
        with self.database.connect() as connection:
            cursor = connection.execute(statements, values or None)
            return cursor.fetchall() if cursor.description else []

    def sign_up(self, name: str = "reader", /, **data: Any) -> dict[str, Any]:
        """A new account's session."""
        email = f"{name}-{next(_serial)}@api.test"
        answer = self.http().post("/auth/v1/signup", json={"email": email, "password": PASSWORD, "data": data})
        assert answer.status_code == 200, answer.text
        session: dict[str, Any] = answer.json()
        return session

    def mint(self, **claims: Any) -> str:
        """An access token signed with the project's key, with any claims."""
        now = int(time.time())
        payload = {"iat": now, "exp": now + 3600, "role": "authenticated", "aud": "authenticated"} | claims
        key = jwt.PyJWK(self.keys.jwk)
        return jwt.encode(payload, key.key, "ES256", headers={"kid": self.keys.jwk["kid"]})

    def start(self) -> None:
        with (self.home / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local.api"], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        await_answer(self)

    def stop(self) -> int:
        for client in self.clients:
            client.close()
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def running(database: Database, home: Path, **environment: str) -> Iterator[Api]:
    home.mkdir(exist_ok=True)
    ensure_keys(home / "keys.json")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "API_URL": url,
        "DB_URL": database.url("authenticator"),
        "KEYS_FILE": str(home / "keys.json"),
        "STORAGE_DIR": str(home / "storage"),
        "ACCESS_TOKEN_HOOK": HOOK,
        "PASSWORD_MIN_LENGTH": "8",
    }
    api = Api(url, database, load_keys(home / "keys.json"), home, os.environ | settings | environment)
    try:
        api.start()
        yield api
    finally:
        api.stop()


def await_answer(api: Api) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and api.process.poll() is None:
        try:
            if httpx.get(f"{api.url}/health", verify=NO_TLS).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.01)
    raise AssertionError(f"The API did not answer.\n{api.log}")


def decoded(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code")
