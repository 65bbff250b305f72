"""Rules for every function and every response."""

import json
import time

import pytest

from tests.support.responses import refused
from tests.support.serving import ENTRY, PUBLISHABLE_KEY, RECORD, Serving, token


def test_preflight_needs_no_credentials(functions: Serving) -> None:
    with functions.client(None) as client:
        answer = client.options(RECORD, headers={"origin": "https://app.test", "access-control-request-method": "POST"})
    assert answer.status_code == 204
    assert answer.content == b""
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "apikey", "x-client-info", "content-type", "idempotency-key", "x-org-id"} <= allowed
    assert answer.headers["access-control-allow-origin"] == "*"


def test_an_unknown_function_is_404(functions: Serving) -> None:
    with functions.client() as client:
        refused(client.post("/functions/v1/no-such-function", json={}), 404, "unknown_function")
        refused(client.get("/"), 404, "unknown_function")
        close = refused(client.post("/functions/v1/record-activty", json={}), 404, "unknown_function").json()
    assert close["details"] == "Found /functions/v1/record-activty."
    assert close["hint"].startswith("Perhaps you meant /functions/v1/record-activity.")


def test_invalid_field_says_what_was_found(functions: Serving) -> None:
    body = {"type": "CALL", "title": "", "entity_type": "lead", "entity_id": "1", "action": 5}
    with functions.client() as client:
        details = refused(client.post(RECORD, json=body), 422, "invalid_body").json()["details"]
    found = {each["field"]: each["problem"].rpartition("; ")[2] for each in details}
    assert found == {"type": 'found "CALL"', "title": 'found ""', "action": "found 5"}


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_wrong_method_is_405_with_allow(functions: Serving, method: str) -> None:
    with functions.client() as client:
        answer = refused(client.request(method, RECORD), 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, OPTIONS"
    assert method in answer.json()["message"]


def test_pages_reject_post(functions: Serving) -> None:
    with functions.client() as client:
        answer = refused(client.post("/functions/v1/openapi.json"), 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


def test_wrong_content_type_is_415(functions: Serving) -> None:
    with functions.client() as client:
        answer = refused(client.post(RECORD, content=b"{}"), 415, "unsupported_media_type")
        assert "missing" in answer.json()["details"]
        refused(client.post(RECORD, data={"a": "b"}), 415, "unsupported_media_type")
        zipped = {"content-type": "application/json", "content-encoding": "gzip"}
        refused(client.post(RECORD, content=b"{}", headers=zipped), 415, "unsupported_encoding")


def test_content_type_parameters_are_accepted(functions: Serving) -> None:
    with functions.client() as client:
        kind = {"content-type": "Application/JSON; charset=utf-8"}
        assert client.post(RECORD, content=json.dumps(ENTRY), headers=kind).status_code == 201


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1,]", b"nothing", b'{"title": "\xff\xfe"}', b'{"a": "\\ud800"}', b"\x00"]
)
def test_malformed_json_is_400(functions: Serving, body: bytes) -> None:
    with functions.client() as client:
        refused(client.post(RECORD, content=body, headers={"content-type": "application/json"}), 400, "malformed_json")


def test_invalid_fields_are_422_each_with_its_name(functions: Serving) -> None:
    answer = refused(functions.record(ENTRY | {"title": "", "severity": "LOUD", "extra": 1}), 422, "invalid_body")
    assert {field["field"] for field in answer.json()["details"]} == {"title", "severity", "extra"}


def test_invalid_field_of_a_list_is_named_by_its_path(functions: Serving) -> None:
    answer = refused(functions.record({"activities": [ENTRY, ENTRY | {"title": ""}]}), 422, "invalid_body")
    assert [field["field"] for field in answer.json()["details"]] == ["activities.1.title"]


def test_unsafe_request_id_is_replaced(functions: Serving) -> None:
    assert functions.record(**{"x-request-id": "trace-1234:5"}).headers["x-request-id"] == "trace-1234:5"
    made = functions.record(**{"x-request-id": 'quote" and space'}).headers["x-request-id"]
    assert made
    assert "quote" not in made
    assert functions.record().headers["x-request-id"] != made


def test_log_line_has_no_personal_data(functions: Serving) -> None:
    functions.record(ENTRY | {"title": "a private title"}, **{"x-request-id": "look-for-me", "apikey": PUBLISHABLE_KEY})
    deadline = time.monotonic() + 60
    while not (found := [line for line in functions.lines() if line.get("request_id") == "look-for-me"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (line,) = found
    assert line["function"] == "record-activity"
    assert (line["severity"], line["status"], line["caller"]) == ("INFO", 201, "user")
    everything = functions.log.read_text()
    for secret in (token()[:40], PUBLISHABLE_KEY, "a private title", "member@strive.test"):
        assert secret not in everything


def test_malformed_header_is_400(functions: Serving) -> None:
    refused(functions.record(**{"x-org-id": "acme"}), 400, "malformed_header")
    refused(functions.record(**{"idempotency-key": "k" * 256}), 400, "malformed_header")
    refused(functions.record(**{"idempotency-key": "with blank"}), 400, "malformed_header")


def test_attack_send_a_header_twice_so_that_two_readers_disagree(functions: Serving) -> None:
    with functions.client() as client:
        twice = [("authorization", f"Bearer {token('owner')}"), ("content-type", "application/json")]
        answer = client.post(RECORD, content=json.dumps(ENTRY), headers=[*client.headers.multi_items(), *twice])
    refused(answer, 400, "repeated_header")


def test_alive_and_ready(functions: Serving) -> None:
    with functions.client(None) as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["status"] == "ready"
        head = client.head("/healthz")
        assert (head.status_code, head.content) == (200, b"")
