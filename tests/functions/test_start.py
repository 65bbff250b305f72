"""How a process of functions starts, reports that it is ready, and ends."""

import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from functions import names
from local import ROOT
from local.stack import free_port
from shared.schema import JOBS
from tests.support.responses import refused
from tests.support.serving import COMMAND, ENTRY, NO_TLS, RECORD, Serving, environment, serving, token
from tests.support.world import Database

FRAMEWORK = Path(sys.executable).parent / "functions-framework"


def run(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = words or (sys.executable, "-m", "functions")
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("SUPABASE_DB_URL", "mysql://user:hidden-word@host/db", "'mysql'"),
        ("PORT", "http", "'http'"),
        ("FUNCTION_TARGET", "record_nothing", "record_nothing"),
    ],
)
def test_invalid_setting_stops_the_process(database_url: str, variable: str, value: str, found: str) -> None:
    """tests/shared/test_settings.py has every invalid value."""
    stopped = run(environment(database_url, **{variable: value}))
    assert stopped.returncode == 1
    (line,) = stopped.stderr.strip().splitlines()
    assert variable in line
    assert found in line
    assert "expected" in line
    assert "hidden-word" not in line


def test_functions_framework_stops_on_an_invalid_setting(database_url: str) -> None:
    words = (str(FRAMEWORK), "--asgi", "--target", "strive", "--source", "functions/main.py")
    stopped = run(environment(database_url, SUPABASE_URL="strive.test"), *words)
    assert stopped.returncode == 1
    assert "SUPABASE_URL: found 'strive.test'" in stopped.stderr


def test_function_deployed_alone_serves_its_own_path(tmp_path: Path, database_url: str) -> None:
    variables = environment(database_url, FUNCTION_TARGET="record_activity")
    with serving(tmp_path, variables, COMMAND) as functions, functions.client() as client:
        for path in ("/", RECORD):
            assert client.post(path, json=ENTRY).status_code == 201
        refused(client.post("/functions/v1/another", json={}), 404, "unknown_function")
        assert list(client.get("/functions/v1/openapi.json").json()["paths"]) == ["/record-activity"]


def test_functions_framework_serves_a_target_by_its_name(tmp_path: Path, database_url: str) -> None:
    """As on Cloud Run and Cloud Functions: their own command, a forking server, no log line at the start."""
    port = free_port()
    words = [str(FRAMEWORK), "--target", "record_activity", "--source", str(ROOT / "functions/main.py")]
    log = tmp_path / "framework.log"
    variables = environment(database_url, PORT=str(port))
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=tmp_path, env=variables, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = httpx.post(
                    f"http://127.0.0.1:{port}/",
                    json=ENTRY,
                    headers={"authorization": f"Bearer {token()}"},
                    verify=NO_TLS,
                )
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
        assert answer.status_code == 201, log.read_text()
        assert answer.headers["x-request-id"]
    finally:
        process.terminate()
        process.wait(60)


def test_functions_import_no_unneeded_libraries() -> None:
    """Each of these libraries would cost more at a cold start than all functions together."""
    heavy = ("supabase", "postgrest", "stripe", "httpx", "jwt", "cryptography", "opentelemetry", "schemathesis")
    script = (
        f"import functions.record_activity, shared.app.server, sys; print([m for m in {heavy} if m in sys.modules])"
    )
    done = run(environment("postgresql://a@b/c"), sys.executable, "-c", script)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_missing_migration_is_not_ready(functions: Serving, database: Database) -> None:
    versions = "supabase_migrations.schema_migrations"
    with functions.client(None) as client, database.connect() as connection:
        assert client.get("/readyz").status_code == 200
        row = connection.execute(f"select max(version) from {versions}").fetchone()
        assert row
        connection.execute(f"update {versions} set version = '1' where version = %s", row)
        try:
            answer = refused(client.get("/readyz"), 503, "migrations_missing")
        finally:
            connection.execute(f"update {versions} set version = %s where version = '1'", row)
    assert row[0] in answer.json()["details"]
    assert answer.headers["retry-after"]


def test_sigterm_finishes_running_requests(tmp_path: Path, database: Database, database_url: str) -> None:
    with serving(tmp_path, environment(database_url), COMMAND) as functions, database.connect() as blocker:
        blocker.autocommit = False
        blocker.execute("lock table public.activity_feeds in access exclusive mode")
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(functions.record()))
        waiting.start()
        while not database_waits(database):
            time.sleep(0.01)
        functions.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert functions.process.poll() is None
        with pytest.raises(httpx.TransportError):
            functions.record()
        blocker.rollback()
        waiting.join(60)
        assert functions.process.wait(60) in {0, -signal.SIGTERM}
    assert [answer.status_code for answer in answers] == [201]


def database_waits(database: Database) -> bool:
    with database.connect() as connection:
        row = connection.execute(
            "select exists (select from pg_stat_activity where datname = current_database()"
            " and usename = 'strive_functions' and wait_event_type = 'Lock')"
        ).fetchone()
    return bool(row and row[0])


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A collector for OpenTelemetry."""
    received: list[tuple[str, bytes]] = []

    class Take(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_traces_and_metrics_go_where_otel_variables_say(tmp_path: Path, database_url: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with collector() as (address, received):
        variables = environment(database_url, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_METRIC_EXPORT_INTERVAL="60000")
        with serving(tmp_path, variables, COMMAND) as functions:
            assert functions.record(traceparent=f"00-{trace}-b7ad6b7169203331-01").status_code == 201
            assert functions.record(person="viewer").status_code == 403
    sent = {path: b"".join(body for other, body in received if other == path) for path, _ in received}
    assert sent.keys() == {"/v1/traces", "/v1/metrics"}
    assert bytes.fromhex(trace) in sent["/v1/traces"]
    for word in (
        b"POST /functions/v1/record-activity",
        b"public.record_activity",
        b"http.response.status_code",
        b"42501",
    ):
        assert word in sent["/v1/traces"]
    assert b"http.server.request.duration" in sent["/v1/metrics"]
    for secret in (b"member@strive.test", ENTRY["title"].encode()):
        assert secret not in b"".join(sent.values())


def test_every_function_is_a_module_or_a_job() -> None:
    for name in set(names()) - JOBS.keys():
        assert f"async def {name}(" in (ROOT / f"functions/{name}.py").read_text()


def test_the_image_has_what_the_functions_need() -> None:
    dockerfile = (ROOT / "functions/Dockerfile").read_text()
    for needed in ("requirements.lock", "COPY functions functions", "COPY shared shared"):
        assert needed in dockerfile
    assert "USER nobody" in dockerfile
