"""The one URL: keys and tokens, functions behind it, the start page, and unavailable parts."""

import asyncio
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psutil
import pytest
import uvloop

from local import NODE, ROOT
from local.api.server import OneWrite
from local.keys import ensure_keys
from local.stack import free_port
from tests.local.api import PASSWORD, Api, error_of, running
from tests.support.world import Database

# Keys and tokens -----------------------------------------------------------------------------------------------------

DOORS = ("/rest/v1/books", "/auth/v1/settings", "/storage/v1/bucket")


@pytest.mark.parametrize("path", DOORS)
def test_missing_or_wrong_key_is_rejected(api: Api, path: str) -> None:
    answer = api.plain.get(api.url + path)
    assert (answer.status_code, answer.json()["message"]) == (401, "No API key found in request")
    answer = api.http("sb_publishable_" + "x" * 32).get(path)
    assert (answer.status_code, answer.json()["message"]) == (401, "Invalid API key")
    token_alone = api.plain.get(api.url + path, headers={"authorization": f"Bearer {api.keys.secret_key}"})
    assert token_alone.status_code == 401


def test_key_is_accepted_as_query_parameter(api: Api) -> None:
    assert api.plain.get(f"{api.url}/rest/v1/books?select=id&id=eq.1&apikey={api.keys.publishable_key}").json() == [
        {"id": 1}
    ]


def test_key_selects_the_role_and_token_the_user(api: Api) -> None:
    def role(key: str, token: str | None) -> Any:
        return api.http(key, token).post("/rest/v1/rpc/whoami", json={}).json()["current"]

    publishable, secret = api.keys.publishable_key, api.keys.secret_key
    assert role(publishable, None) == role(publishable, publishable) == "anon"
    assert role(secret, None) == role(secret, secret) == "service_role"
    user = api.mint(sub=str(uuid4()))
    assert role(publishable, user) == role(secret, user) == "authenticated"


def test_another_key_in_the_authorization_header_is_no_token(api: Api) -> None:
    answer = api.http(token=api.keys.secret_key).get("/rest/v1/books")
    assert error_of(answer) == (401, "PGRST301")


def test_tokens_signed_with_the_projects_secret_count_as_before(api: Api) -> None:
    legacy = jwt.encode({"role": "authenticated", "sub": str(uuid4())}, api.keys.jwt_secret, "HS256")
    assert api.http(token=legacy).post("/rest/v1/rpc/whoami", json={}).json()["current"] == "authenticated"
    anon_key = jwt.encode({"role": "anon", "iss": "supabase"}, api.keys.jwt_secret, "HS256")
    assert api.http(anon_key, anon_key).get("/rest/v1/books?select=id&id=eq.1").json() == [{"id": 1}]
    user_as_key = jwt.encode({"role": "service_role", "sub": "x"}, api.keys.jwt_secret, "HS256")
    assert api.http(user_as_key).get("/rest/v1/books").status_code == 401


def forged(api: Api) -> dict[str, tuple[str, str]]:
    now = int(time.time())
    claims = {"role": "service_role", "sub": str(uuid4()), "exp": now + 60}
    head, _, signature = api.mint(sub=str(uuid4())).split(".")
    other_body = jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()
    nothing = jwt.utils.base64url_encode(b'{"alg":"none","typ":"JWT"}').decode()
    public = json.dumps({name: value for name, value in api.keys.jwk.items() if name != "d"})
    return {
        "words": ("not-a-token", "PGRST301"),
        "empty": ("", "PGRST301"),
        "two parts": ("a.b", "PGRST301"),
        "rubbish": ("a.b.c", "PGRST301"),
        "changed claims": (f"{head}.{other_body}.{signature}", "PGRST301"),
        "no algorithm": (f"{nothing}.{other_body}.", "PGRST301"),
        "foreign secret": (jwt.encode(claims, "x" * 48, "HS256"), "PGRST301"),
        "public key as secret": (signed_with(public, claims), "PGRST301"),
        "expired": (api.mint(exp=now - 60), "PGRST303"),
        "not yet": (api.mint(nbf=now + 600), "PGRST303"),
        "from the future": (api.mint(iat=now + 600), "PGRST303"),
        "odd expiry": (api.mint(exp="soon"), "PGRST303"),
    }


def signed_with(secret: str, claims: dict[str, Any]) -> str:
    """By hand: the library refuses a public key as secret."""
    encode = jwt.utils.base64url_encode
    text = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    return (text + b"." + encode(hmac.digest(secret.encode(), text, "sha256"))).decode()


@pytest.mark.parametrize(
    "kind",
    [
        "words",
        "empty",
        "two parts",
        "rubbish",
        "changed claims",
        "no algorithm",
        "foreign secret",
        "public key as secret",
        "expired",
        "not yet",
        "from the future",
        "odd expiry",
    ],
)
def test_a_token_that_is_wrong_never_makes_its_sender_anonymous(api: Api, kind: str) -> None:
    token, code = forged(api)[kind]
    answer = api.plain.get(
        f"{api.url}/rest/v1/books", headers={"apikey": api.keys.secret_key, "authorization": f"Bearer {token}".strip()}
    )
    assert error_of(answer) == (401, code)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_cached_token_expires(api: Api) -> None:
    token = api.mint(exp=int(time.time()) - 27)  # still within the tolerated clock skew for some seconds
    client = api.http(token=token)
    assert client.get("/rest/v1/books?limit=1").status_code == 200
    deadline = time.monotonic() + 60
    while (status := client.get("/rest/v1/books?limit=1").status_code) == 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 401


def test_a_role_that_the_project_does_not_know_gets_nowhere(api: Api) -> None:
    for role in ("supabase_admin", "postgres", "supabase_auth_admin", "no_such_role", 'anon"; reset role; --'):
        answer = api.http(token=api.mint(role=role)).get("/rest/v1/books")
        assert answer.status_code in {401, 403}, (role, answer.text)


def test_the_secret_key_does_not_work_in_browsers(api: Api) -> None:
    answer = api.admin(**{"user-agent": "Mozilla/5.0 (X11; Linux)"}).get("/rest/v1/books")
    assert answer.status_code == 401


# Requests at large ---------------------------------------------------------------------------------------------------


def test_browsers_of_other_origins_may_call(api: Api) -> None:
    request_headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    request_headers["access-control-request-headers"] = "authorization,x-org-id,x-anything"
    for path in DOORS:
        preflight = api.plain.options(api.url + path, headers=request_headers)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "x-anything" in preflight.headers["access-control-allow-headers"]
        refused = api.plain.get(api.url + path)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    shown = api.http().get("/rest/v1/books?limit=1").headers["access-control-expose-headers"]
    assert "Content-Range" in shown


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /rest/v1/%zz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /rest/v1/%ff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET // HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"GET /rest/v1/books HTTP/1.1\r\nhost: x\r\nx-big: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /rest/v1/books HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /auth/v1/signup HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"GET /rest/v2/books HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"GET /constructor/v1/x HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"GET /realtime/v1/websocket HTTP/1.1\r\nhost: x\r\n\r\n", 426),
        (b"GET /graphql/v1 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        # Neither is a WebSocket handshake.
        (b"POST /realtime/v1/websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
        (
            b"GET /realtime/v1/websocket HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            + b"a: b\r\n" * 200
            + b"\r\n",
            400,
        ),
    ],
)
def test_a_malformed_request_gets_a_clear_answer(api: Api, raw: bytes, status: int) -> None:
    address = httpx.URL(api.url)
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
        connection.sendall(raw)
        answer = connection.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["message"]


def test_response_to_a_lost_connection_is_dropped() -> None:
    async def respond() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        transport.abort()
        await asyncio.sleep(0)
        responses = OneWrite(transport)
        responses.write(b"HTTP/1.1 200 OK\r\n\r\n")
        responses.write(b"body")  # uvloop would raise RuntimeError
        responses.close()

    uvloop.run(respond())


def test_a_body_beyond_the_limit_is_refused_with_an_answer(api: Api) -> None:
    answer = api.admin().post("/rest/v1/books", content=b"[" + b" " * 11_000_000 + b"]")
    assert answer.status_code == 413
    assert api.admin().get("/rest/v1/books?limit=1").status_code == 200


def test_log_contains_no_tracebacks(api: Api) -> None:
    """Invalid requests never write a stack trace."""
    api.http().get("/rest/v1/books?id=eq.x")
    api.http().post("/auth/v1/signup", content="{")
    api.http().get("/storage/v1/object/none/none")
    assert "Traceback" not in api.log


# Functions -----------------------------------------------------------------------------------------------------------


class Upstream(BaseHTTPRequestHandler):
    """A function server that returns the request it received."""

    protocol_version = "HTTP/1.1"
    disconnected = threading.Event()
    stuck = threading.Event()

    def answer(self) -> None:
        if self.path.endswith("/openapi.json"):
            paths = {"/greet": {"post": {"summary": "Says <hello>"}}}
            self.write(json.dumps({"paths": paths}).encode())
        elif self.path.endswith("/slow"):
            self.stay()
        elif self.path.endswith("/stream"):
            self.stream()
        else:
            self.describe()

    def describe(self) -> None:
        length = self.headers.get("content-length")
        body = (
            self.chunked() if self.headers.get("transfer-encoding") == "chunked" else self.rfile.read(int(length or 0))
        )
        received = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode("latin-1"),
        }
        self.write(json.dumps(received).encode(), status=207)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def do_HEAD(self) -> None:
        self.write(b"")

    def write(self, body: bytes, status: int = 200) -> None:
        self.send_response(status, "As You Wish")
        self.send_header("content-type", "application/json")
        self.send_header("set-cookie", "a=1")
        self.send_header("set-cookie", "b=2")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in (b"one", b"two"):
            self.wfile.write(b"3\r\n" + word + b"\r\n")
            self.wfile.flush()
            if word == b"one":
                assert self.stuck.wait(60)
        self.wfile.write(b"0\r\n\r\n")

    def stay(self) -> None:
        self.disconnected.clear()
        self.connection.settimeout(60)
        if self.connection.recv(1) == b"":
            self.disconnected.set()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gateway(api: Api, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(api.database, tmp_path_factory.mktemp("gateway"), FUNCTIONS_URL=upstream) as gateway:
        yield gateway


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_function_receives_the_request_unchanged(gateway: Api, method: str) -> None:
    body = b"\x00\xffbody" if method not in {"GET", "OPTIONS"} else b""
    answer = gateway.plain.request(
        method,
        f"{gateway.url}/functions/v1/some-name/deeper?a=1&a=%20x",
        content=body or None,
        headers={
            "authorization": "Bearer x",
            "x-forwarded-for": "10.0.0.9",
            "connection": "keep-alive, x-private",
            "x-private": "1",
        },
    )
    received = answer.json()
    assert (answer.status_code, received["method"], received["path"]) == (
        207,
        method,
        "/functions/v1/some-name/deeper?a=1&a=%20x",
    )
    assert received["body"].encode("latin-1") == body
    headers = received["headers"]
    assert headers["authorization"] == "Bearer x"
    assert headers["host"] == headers["x-forwarded-host"] == gateway.url.removeprefix("http://")
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("10.0.0.9, 127.0.0.1", "http")
    assert "x-private" not in headers
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_bodies_stream_both_ways(gateway: Api) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a" * 70_000
        yield b"b" * 70_000

    received = gateway.plain.post(f"{gateway.url}/functions/v1/take", content=pieces()).json()
    assert received["body"] == "a" * 70_000 + "b" * 70_000
    Upstream.stuck.clear()
    with gateway.plain.stream("GET", f"{gateway.url}/functions/v1/stream") as answer:
        words = answer.iter_raw()
        assert next(words) == b"one"  # while the function is still at work
        Upstream.stuck.set()
        assert next(words) == b"two"


def test_client_disconnect_cancels_its_query(gateway: Api) -> None:
    with pytest.raises(httpx.ReadTimeout):
        gateway.plain.get(f"{gateway.url}/functions/v1/slow", timeout=0.3)
    assert Upstream.disconnected.wait(60)


def test_a_head_request_has_no_body(gateway: Api) -> None:
    answer = gateway.plain.head(f"{gateway.url}/functions/v1/x")
    assert (answer.status_code, answer.content) == (200, b"")


def test_no_function_server_means_try_again_later(api: Api, tmp_path: Path) -> None:
    answer = api.plain.post(f"{api.url}/functions/v1/x")
    assert (answer.status_code, answer.json()["hint"]) == (503, "Set FUNCTIONS_URL.")
    assert answer.headers["access-control-allow-origin"] == "*"
    with running(api.database, tmp_path / "api", FUNCTIONS_URL=f"http://127.0.0.1:{free_port()}") as lonely:
        answer = lonely.plain.post(f"{lonely.url}/functions/v1/x", content=b"x" * 100_000)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# The page ------------------------------------------------------------------------------------------------------------


def test_start_page_lists_services_without_network(gateway: Api, api: Api) -> None:
    page = api.plain.get(f"{gateway.url}/")
    assert page.headers["content-type"].startswith("text/html")
    assert "/functions/v1/greet" in page.text
    assert "Says &lt;hello&gt;" in page.text
    assert gateway.keys.publishable_key in page.text
    assert gateway.keys.secret_key not in page.text
    assert "owner@strive.test" in page.text
    loaded = re.findall(r'(?:\bsrc|<link[^>]* href)="([^"]+)"', page.text)
    assert [address for address in loaded if not address.startswith(("/", "data:"))] == []
    assert "No function server answers yet." in api.plain.get(f"{api.url}/").text


# Coming and going ----------------------------------------------------------------------------------------------------


def test_api_reconnects_after_lost_connections(database: Database, api: Api) -> None:
    with api.database.connect("supabase_admin") as superuser:
        superuser.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'api%'")
    assert api.http().get("/rest/v1/books?select=id&id=eq.1").json() == [{"id": 1}]
    assert api.sign_up()
    # The ear for schema changes is back as well.
    api.sql("create table public.after_return (id int); grant select on public.after_return to anon")
    await_table(api, "after_return", api.http())
    assert database.name == api.database.name


def await_table(api: Api, name: str, client: httpx.Client) -> None:
    """The API reads the schema again after it has reconnected."""
    deadline = time.monotonic() + 60
    while (answer := client.get(f"/rest/v1/{name}")).status_code == 404 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answer.json() == [], api.log


def test_a_connection_that_breaks_while_in_use_costs_one_request(api: Api) -> None:
    client = api.admin()
    with ThreadPoolExecutor(1) as pool, api.database.connect("supabase_admin") as superuser:
        for _ in range(3):
            slow = pool.submit(client.post, "/rest/v1/rpc/slow", json={"seconds": 20})
            await_sleeper(api)
            superuser.execute("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
            assert slow.result(10).status_code == 503
            assert client.get("/rest/v1/books?select=id&id=eq.1").json() == [{"id": 1}]


def await_sleeper(api: Api) -> None:
    probe = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    deadline = time.monotonic() + 60
    while api.sql(probe) == [(0,)] and time.monotonic() < deadline:
        time.sleep(0.02)


def test_api_reconnects_after_a_database_crash(api: Api) -> None:
    cluster = api.database.cluster
    session = api.sign_up()
    with cluster.connect("supabase_admin", "template1") as superuser:
        superuser.execute("checkpoint")  # a test's cluster does not wait for the disk
    postmaster = cluster.process()
    assert postmaster
    postmaster.kill()
    try:
        client = api.http(token=session["access_token"])
        for path in ("/health", "/rest/v1/books", "/auth/v1/user", "/storage/v1/bucket"):
            answer = client.get(path)
            assert answer.status_code == 503, (path, answer.text)
            assert answer.headers["retry-after"] == "1"
        assert "The database does not answer yet." in api.plain.get(f"{api.url}/").text
    finally:
        cluster.start()
    assert api.plain.get(f"{api.url}/health").status_code == 200
    assert client.get("/auth/v1/user").json()["id"] == session["user"]["id"]
    api.sql("create table public.after_crash (id int); grant select on public.after_crash to authenticated")
    await_table(api, "after_crash", client)


def start_alone(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    ensure_keys(tmp_path / "keys.json")
    settings = {
        "PORT": str(free_port()),
        "KEYS_FILE": str(tmp_path / "keys.json"),
        "STORAGE_DIR": str(tmp_path),
        "DB_URL": f"postgresql://authenticator:x@127.0.0.1:{free_port()}/postgres",
    }
    return subprocess.run(
        [sys.executable, "-m", "local.api"],
        cwd=ROOT,
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_failed_start_explains_why(tmp_path: Path, api: Api) -> None:
    disconnected = start_alone(tmp_path)
    assert disconnected.returncode == 1
    assert "Connection refused" in disconnected.stderr
    assert "x@" not in disconnected.stderr  # the password
    for name, value in (
        ("PORT", "many"),
        ("API_URL", "nowhere"),
        ("STORAGE_FILE_SIZE_LIMIT", "huge"),
        ("ACCESS_TOKEN_HOOK", "public.hook"),
        ("DB_URL", ""),
    ):
        wrong = start_alone(tmp_path, **{name: value})
        assert (wrong.returncode, name in wrong.stderr) == (1, True), wrong.stderr
    second = start_alone(tmp_path, DB_URL=api.database.url("authenticator"), PORT=str(httpx.URL(api.url).port))
    assert "address already in use" in second.stderr


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_stop_finishes_running_requests(api: Api, tmp_path: Path, ending: signal.Signals) -> None:
    with running(api.database, tmp_path / "api") as other, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(other.admin().post, "/rest/v1/rpc/slow", json={"seconds": 1})
        await_sleeper(api)
        other.process.send_signal(ending)
        assert slow.result(10).status_code == 204
        assert other.process.wait(60) == 0
        with pytest.raises(httpx.TransportError):
            other.plain.get(f"{other.url}/health")


def test_api_connects_only_to_the_database(api: Api, gateway: Api, upstream: str) -> None:
    for each in (api, gateway):
        each.http().get("/rest/v1/books?limit=1")
        each.sign_up()
        allowed = {each.database.cluster.port, httpx.URL(each.url).port, httpx.URL(upstream).port}
        process = psutil.Process(each.process.pid)
        for connection in process.net_connections("all"):
            if connection.raddr and connection.family in {socket.AF_INET, socket.AF_INET6}:
                assert connection.raddr[0] in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
                assert connection.raddr[1] in allowed or connection.laddr[1] in allowed


def test_api_imports_little(api: Api) -> None:
    assert psutil.Process(api.process.pid).memory_info().rss < 80 * 1024 * 1024


def test_concurrent_callers_keep_their_identity(api: Api) -> None:
    clients = [(who, api.http(token=api.mint(sub=who))) for who in (str(uuid4()) for _ in range(8))]

    def is_themselves(n: int) -> bool:
        who, client = clients[n % len(clients)]
        return bool(client.post("/rest/v1/rpc/whoami", json={}).json()["uid"] == who)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(is_themselves, range(200)))


# supabase-js --------------------------------------------------------------------------------------------------------


def test_supabase_js_signs_in_reads_stores_and_invokes(gateway: Api) -> None:
    bucket = f"js-{uuid4()}"
    gateway.admin().post("/storage/v1/bucket", json={"name": bucket})
    gateway.sql(f"""
        create policy js on storage.objects for all to authenticated
          using (bucket_id = '{bucket}' and (storage.foldername(name))[1] = (select auth.uid())::text)
    """)
    settings = {
        "API_URL": gateway.url,
        "PUBLISHABLE_KEY": gateway.keys.publishable_key,
        "EMAIL": f"{uuid4()}@api.test",
        "PASSWORD": PASSWORD,
        "BUCKET": bucket,
        "FUNCTION": "greet",
    }
    ran = subprocess.run(
        [NODE, ROOT / "tests/local/client.mjs"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert (seen["sameUser"], seen["claims"], seen["count"], seen["sum"], seen["none"]) == (True, True, 3, 42, None)
    assert seen["books"][0] == {"title": "Notes", "author": {"name": "Ada"}}
    assert seen["inserted"] == [{"text": "one"}, {"text": "two"}]
    assert seen["refused"] == "42501"
    assert (seen["file"], seen["signed"], seen["metadata"], seen["list"]) == (
        "from js",
        "from js",
        {"by": "js"},
        ["notes.txt"],
    )
    assert (seen["uploaded"], seen["removed"], seen["after"]) == (True, [True], None)
    assert seen["invoked"]["body"] == '{"hello":"function"}'
    assert seen["invoked"]["headers"]["authorization"].startswith("Bearer eyJ")


def test_every_setting_is_documented() -> None:
    source = (ROOT / "local/api/settings.py").read_text()
    names = set(re.findall(r"[(\[]\"([A-Z][A-Z_]+)\"", source))
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "local/api/README.md").read_text()))
    assert names == documented
