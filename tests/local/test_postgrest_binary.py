"""POSTGREST_BIN: a real PostgREST behind the gateway; without one, a program in its place."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local import ROOT, StackError
from local.config import postgrest_environment
from local.keys import ensure_keys, load_keys
from local.stack import free_port, postgrest_binary
from tests.local.api import Api, error_of, running
from tests.local.conftest import LIBRARY
from tests.support.world import Database

STAND_IN = Path(__file__).parent / "postgrest" / "stand_in.py"
BINARY = os.environ.get("POSTGREST_BIN")


@pytest.fixture(scope="module")
def library(database: Database) -> Database:
    with database.connect() as connection:
        connection.execute(LIBRARY.read_bytes())
    return database


@pytest.fixture(scope="module", params=["stand-in", "real"])
def passing_on(
    request: pytest.FixtureRequest, library: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    if request.param == "real" and not BINARY:
        pytest.skip("POSTGREST_BIN names no PostgREST")
    words: list[str | Path] = [BINARY] if request.param == "real" and BINARY else [sys.executable, STAND_IN]
    home, port = tmp_path_factory.mktemp("api"), free_port()
    ensure_keys(home / "keys.json")
    settings = postgrest_environment(library.url("authenticator"), port, load_keys(home / "keys.json"))
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | settings)
    try:
        with running(library, home, POSTGREST_URL=f"http://127.0.0.1:{port}") as api:
            _await(port)
            yield api
    finally:
        process.terminate()
        process.wait(60)


def _await(port: int) -> None:
    transport = httpx.HTTPTransport(retries=8)
    with httpx.Client(transport=transport, timeout=30) as client:
        client.get(f"http://127.0.0.1:{port}/authors?limit=1")


@pytest.mark.embedded
def test_requests_reach_the_binary_with_the_right_role(passing_on: Api) -> None:
    anon = passing_on.http()
    assert anon.get("/rest/v1/authors?select=name&id=eq.1").json() == [{"name": "Ada"}]
    token = passing_on.mint(sub="a0000000-0000-4000-8000-000000000001")
    shown = {"prefer": "return=representation, count=exact"}
    answer = passing_on.http(token=token).post("/rest/v1/authors?select=name", json={"name": "Zoë"}, headers=shown)
    assert (answer.status_code, answer.json(), answer.headers["content-range"]) == (201, [{"name": "Zoë"}], "*/1")
    counted = passing_on.admin().head("/rest/v1/authors", headers={"prefer": "count=exact"})
    assert counted.headers["content-range"].startswith("0-")
    assert error_of(anon.get("/rest/v1/authors?select=nothing")) == (400, "42703")
    assert error_of(anon.get("/rest/v1/nowhere")) == (404, "PGRST205")


@pytest.mark.embedded
def test_gateway_requires_an_api_key(passing_on: Api) -> None:
    assert passing_on.plain.get(f"{passing_on.url}/rest/v1/authors").status_code == 401


def test_a_binary_that_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGREST_BIN", "/nowhere/postgrest")
    with pytest.raises(StackError, match="POSTGREST_BIN is '/nowhere/postgrest'"):
        postgrest_binary()
