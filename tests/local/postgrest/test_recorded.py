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


# As PostgREST answers them, but for those that exceed a bound of ours.
OVERSIZED: list[tuple[str, str, dict[str, str], str, int]] = [
    ("GET", "/products?limit=" + "+" * 18_000, {}, "", 200),
    ("GET", "/products?limit=" + "(" * 18_000, {}, "", 200),
    ("GET", "/products", {"Prefer": f"max-affected={'9' * 5000}"}, "", 200),
    ("GET", "/products", {"Accept": ",".join(["a/b"] * 10_000)}, "", 406),
    ("GET", "/products?or=(" + ",".join(["id.eq.1"] * 6_000) + ")", {}, "", 400),
    ("GET", "/products?id=in.(" + ",".join(["1"] * 10_000) + ")", {}, "", 200),
    ("GET", "/" + "product" * 7_000, {}, "", 404),
    ("GET", "/rpc/" + "hello" * 9_000, {}, "", 404),
    ("GET", "/products?select=" + "maker" * 9_000 + "(id)", {}, "", 400),
    ("POST", "/rpc/hello", {}, json.dumps(dict.fromkeys(map(str, range(200_000)), 1)), 404),
    ("POST", "/categories", {}, '[{"name": "a", "id": ' + "9" * 5000 + "}]", 401),
    ("POST", "/categories", {}, '{"name": ' + "[" * 60_000 + "]" * 60_000 + "}", 400),
    ("POST", "/categories", {}, json.dumps([{"name": "\ud800" * 20_000}]), 400),
    ("POST", "/categories", {"Content-Type": "text/csv"}, "name\n" + "\r" * 250_000, 413),
    ("POST", "/rpc/hello", {"Content-Type": "application/x-www-form-urlencoded"}, "a=1&" * 250_000, 413),
]


@pytest.mark.embedded
@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), OVERSIZED, ids=range(len(OVERSIZED)))
def test_oversized_parts_are_answered(
    servers: Servers, method: str, path: str, headers: dict[str, str], body: str, status: int
) -> None:
    case = {"method": method, "path": path, "headers": {"Content-Type": "application/json"} | headers, "body": body}
    assert send(servers.rolling_back, case, None).status_code == status


@pytest.mark.embedded
def test_headers_of_functions_are_sent_unless_they_break_the_response(servers: Servers) -> None:
    headers = [
        {"X-Name": "Größe ✓"},
        {"X-Line": "a\r\nb: c"},
        {"Content-Length": "1"},
        {"Transfer-Encoding": "chunked"},
    ]
    response = servers.rolling_back.get("/rpc/set_headers", params={"headers": json.dumps(headers)})
    assert (response.status_code, response.headers["content-length"]) == (200, str(len(response.content)))
    assert response.headers["x-name"] == "Größe ✓"
    assert (response.headers["x-line"], "transfer-encoding" in response.headers) == ("a  b: c", False)


@pytest.mark.embedded
def test_code_of_an_error_adds_no_header(servers: Servers) -> None:
    message = json.dumps({"code": "a\r\nb: c", "message": "m"})
    detail = json.dumps({"status": 418, "headers": {"X-Name": "✓", "Content-Length": "1"}})
    response = servers.rolling_back.post("/rpc/fail_json", json={"message": message, "detail": detail})
    assert (response.status_code, response.json()["code"]) == (418, "a\r\nb: c")
    assert (response.headers["x-name"], "b" in response.headers) == ("✓", False)


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("query", "location"),
    [
        ("", "/makers"),
        ("select=id,name&id=gt.0&id=lt.9&order", "/makers?id=gt.0,lt.9&order=&select=id%2Cname"),
        ("name=eq.M%C3%BCnch", "/makers?name=eq.M%C3%83%C2%BCnch"),
    ],
)
def test_content_location_has_the_sorted_parameters(servers: Servers, query: str, location: str) -> None:
    case: Case = {"method": "GET", "path": f"/makers?{query}".removesuffix("?"), "headers": {}, "body": None}
    assert send(servers.rolling_back, case, None).headers["content-location"] == location


@pytest.mark.embedded
def test_resource_named_by_a_parameter_is_the_first_column(servers: Servers) -> None:
    path = "/products?select=id,makers(id),categories(id)&limit=1&order=id"
    for query, columns in (("", "id,makers,categories"), ("&categories.order=id", "id,categories,makers")):
        response = servers.rolling_back.get(path + query, headers={"Accept": "text/csv"})
        assert response.text.partition("\n")[0] == columns


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
