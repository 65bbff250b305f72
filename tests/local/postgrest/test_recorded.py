"""The data API answers as a real PostgREST did, request by request."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from local.api.http import SMALL_BODY
from local.keys import Keys, ensure_keys, load_keys
from local.postgres import SUPERUSER, Cluster
from local.stack import free_port
from tests.local.postgrest.closeness import DOCUMENT, with_counts
from tests.local.postgrest.replay import FIXTURE, Case, Signer, differences, recorded, send

CLASSES = recorded()
# These see earlier commits; all others are rolled back, which is faster than restoring rows.
COMMITTED = {"group", "tx"}


@dataclass(frozen=True)
class Servers:
    rolling_back: httpx.Client
    committing: httpx.Client
    signer: Signer
    connection: psycopg.Connection


@pytest.fixture(scope="module")
def servers(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    keys_file = tmp_path_factory.mktemp("postgrest") / "keys.json"
    ensure_keys(keys_file)
    keys: Keys = load_keys(keys_file)
    with cluster.connect(SUPERUSER, "template1") as connection:
        connection.execute("create database shop owner postgres")
    with ExitStack() as stack:
        connection = stack.enter_context(cluster.connect(database="shop"))
        connection.execute(FIXTURE.read_bytes())
        url = cluster.url(database="shop")
        rolling_back = stack.enter_context(_serving(url, keys_file, "rollback-allow-override"))
        committing = stack.enter_context(_serving(url, keys_file, "commit-allow-override"))
        _await(rolling_back)
        _await(committing)
        yield Servers(rolling_back, committing, Signer(keys.jwt_secret, keys.jwk), connection)
    with cluster.connect(SUPERUSER, "template1") as connection:
        connection.execute("drop database shop with (force)")


@contextmanager
def _serving(url: str, keys_file: Path, tx_end: str) -> Iterator[httpx.Client]:
    port = free_port()
    settings = {
        "DB_URL": url,
        "DB_SCHEMAS": "shop,shop_b",
        "DB_MAX_ROWS": "100",
        "DB_TX_END": tx_end,
        "KEYS_FILE": str(keys_file),
        "PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "local.api.rest"], env={**os.environ, **settings})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def _await(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client.get("/categories?limit=1").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("The data API did not start.")


@pytest.mark.embedded
@pytest.mark.parametrize("name", CLASSES)
def test_recorded_answers_are_equal(servers: Servers, name: str) -> None:
    found = [text for case in CLASSES[name] if (text := _replayed(servers, case))]
    if name in COMMITTED:
        servers.connection.execute("select shop_saved.restore()")
    assert not found, f"{len(found)} of {len(CLASSES[name])} answers differ:\n" + "\n".join(found)


def _replayed(servers: Servers, case: Case) -> str | None:
    kind = case["id"].rpartition("-")[0]
    if kind == "tx":
        servers.connection.execute("select shop_saved.restore()")
    client = servers.committing if kind in COMMITTED else servers.rolling_back
    response = send(client, case, servers.signer.token(case["as"]))
    if kind not in COMMITTED and case["method"] not in {"GET", "HEAD", "OPTIONS"}:
        # A rollback leaves the sequences where they are.
        servers.connection.execute("select setval(name, last_value) from shop_saved.sequences")
    wrong = list(differences(case, response))
    request = f"{case['id']} {case['method']} {case['path']} as {case['as']} {json.dumps(case['headers'])}"
    return "\n  ".join([request, *wrong]) if wrong else None


# As PostgREST 14.17's source has it; these were not recorded.
UNRECORDED: list[tuple[str, str, dict[str, str], str, int, str, str | None]] = [
    ("GET", "/a/b", {"Accept-Profile": "nowhere"}, "", 404, "PGRST125", None),
    ("GET", "/?select=id,", {"Accept": "application/json"}, "", 400, "PGRST100", None),
    ("OPTIONS", "/products?select=id,", {}, "", 400, "PGRST100", None),
    ("OPTIONS", "/products?limit=-1", {}, "", 416, "PGRST103", "Limit should be greater than or equal to zero."),
    (
        "OPTIONS",
        "/rpc/add_pair?a=1",
        {},
        "",
        400,
        "PGRST100",
        'unexpected "1" expecting "not" or operator (eq, gt, ...)',
    ),
    ("GET", "/products", {"Range": "99999999999999999999-"}, "", 400, "22003", None),
    ("GET", "/products?missing.id=eq.1&other.id=eq.2", {}, "", 400, "PGRST108", None),
    (
        "GET",
        "/products?select=id,attributes->a(",
        {},
        "",
        400,
        "PGRST100",
        'unexpected \'(\' expecting "-", "->>", "->", "::", ".", ")", "," or end of input',
    ),
    (
        "GET",
        "/products?select=id,makers(name",
        {},
        "",
        400,
        "PGRST100",
        'unexpected end of input expecting letter, digit, "-", "->>", "->", "::", ".", ")", "," or end of input',
    ),
    ("POST", "/categories", {}, '{"name": "\\ud800"}', 400, "PGRST102", None),
    ("POST", "/categories", {}, '[{"name": "\\ud800"}]', 400, "PGRST102", None),
    ("POST", "/categories", {}, '[{"name": "a"},]', 400, "PGRST102", None),
    ("POST", "/categories", {}, '[{"name": "a"} {"name": "b"}]', 400, "PGRST102", None),
    ("POST", "/categories", {}, '[{"name": "a"}] []', 400, "PGRST102", None),
    ("POST", "/categories", {}, '[{"name": "a"}', 400, "PGRST102", None),
    ("POST", "/categories", {}, '[{"name": "a"}, {"id": 1}, 1', 400, "PGRST102", None),
    ("POST", "/rpc/raw_json", {}, "", 400, "22P02", "The input string ended unexpectedly."),
]


@pytest.mark.embedded
@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "code", "details"), UNRECORDED)
def test_unrecorded_errors_are_equal(
    servers: Servers,
    method: str,
    path: str,
    headers: dict[str, str],
    body: str,
    status: int,
    code: str,
    details: str | None,
) -> None:
    response = servers.rolling_back.request(method, path, headers=headers, content=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert details is None or response.json()["details"] == details


CSV = {"Content-Type": "text/csv"}


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name", 'parse error (not enough input) at ""'),
        ('name\na"b\n', 'parse error (Failed reading: satisfy) at "\\"b\\n"'),
        ('name\n"a"b', 'parse error (Failed reading: satisfy) at "b"'),
        ('"name" ,id\n', 'parse error (Failed reading: satisfy) at " ,id\\n"'),
    ],
)
def test_broken_csv_is_rejected(servers: Servers, text: str, message: str) -> None:
    response = servers.rolling_back.post("/categories", headers=CSV, content=text)
    assert (response.status_code, response.json()["message"]) == (400, message)


ROWS = 5_000


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("content", "body"),
    [
        ("application/json", json.dumps([{"name": f"Name of {number:010}"} for number in range(ROWS)])),
        ("text/csv", "name\n" + "\n".join(f"Name of {number:010}" for number in range(ROWS))),
    ],
)
def test_large_body_is_inserted(servers: Servers, content: str, body: str) -> None:
    authorization = f"Bearer {servers.signer.token('member')}"
    headers = {"Content-Type": content, "Prefer": "count=exact", "Authorization": authorization}
    response = servers.rolling_back.post("/categories", headers=headers, content=body)
    assert len(body) > SMALL_BODY
    assert (response.status_code, response.headers["content-range"]) == (201, f"*/{ROWS}")


def test_documented_counts_are_current() -> None:
    text = DOCUMENT.read_text()
    assert text == with_counts(text), "Run: python -m tests.local.postgrest.closeness"
