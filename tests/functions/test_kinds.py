"""Functions for every kind of caller, and one that fails: each added as a file of its own."""

import hmac
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.app.function import function
from tests.support.responses import refused
from tests.support.serving import (
    BESIDE,
    CRON_KEY,
    PUBLISHABLE_KEY,
    SECRET_KEY,
    Serving,
    environment,
    serving,
    token,
)
from tests.support.world import PEOPLE, Database

KINDS = Path(__file__).parent / "kinds"
OPERATION = """
create function public.who_calls(payload jsonb) returns jsonb language sql set search_path = ''
  as $$ select jsonb_build_object('claims', auth.jwt(), 'login', current_user, 'payload', payload) $$;
grant execute on function public.who_calls(jsonb) to authenticated;
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Serving]:
    with database.connect() as connection:
        connection.execute(OPERATION)
    variables = environment(database_url, STRIPE_WEBHOOK_SECRETS="whsec_old, whsec_new")
    with serving(tmp_path_factory.mktemp("kinds"), variables, [*BESIDE, str(KINDS)]) as running:
        yield running


def call(kinds: Serving, name: str, body: Any = None, **headers: str) -> httpx.Response:
    with kinds.client(None) as client:
        return client.post(f"/functions/v1/{name}", json={} if body is None else body, headers=headers)


def test_publishable_key_is_anonymous(kinds: Serving) -> None:
    answer = call(kinds, "for-anyone", apikey=PUBLISHABLE_KEY)
    assert answer.json()["claims"] == {"role": "anon"}
    assert answer.json()["login"] == "strive_functions"


def test_access_token_wins_over_publishable_key(kinds: Serving) -> None:
    bearer = f"Bearer {token('owner')}"
    for headers in ({"authorization": bearer}, {"authorization": bearer, "apikey": PUBLISHABLE_KEY}):
        assert call(kinds, "for-anyone", **headers).json()["claims"]["sub"] == str(PEOPLE["owner"])


def test_attack_invalid_token_is_not_anonymous(kinds: Serving) -> None:
    stale = f"Bearer {token('owner', exp=int(time.time()) - 3600)}"
    refused(call(kinds, "for-anyone", apikey=PUBLISHABLE_KEY, authorization=stale), 401, "invalid_token")
    refused(call(kinds, "for-anyone", apikey=PUBLISHABLE_KEY, authorization="Bearer x"), 401, "invalid_token")


def test_named_secret_key_is_required(kinds: Serving) -> None:
    assert call(kinds, "for-servers", apikey=CRON_KEY).json()["claims"] == {"role": "service_role"}
    for headers in (
        {"apikey": SECRET_KEY},
        {"apikey": PUBLISHABLE_KEY},
        {"authorization": f"Bearer {token('super_admin')}"},
    ):
        refused(call(kinds, "for-servers", **headers), 401, "missing_credentials")
    refused(call(kinds, "for-servers", authorization=f"Bearer {CRON_KEY}"), 401, "invalid_token")
    # As the client libraries send it: the key in both.
    assert call(kinds, "for-servers", apikey=CRON_KEY, authorization=f"Bearer {CRON_KEY}").status_code == 200


def test_webhook_needs_a_signature_of_its_bytes(kinds: Serving) -> None:
    def send(body: bytes, signature: str) -> httpx.Response:
        headers = {"content-type": "application/json", "x-signature": signature}
        with kinds.client(None) as client:
            return client.post("/functions/v1/from-a-webhook", content=body, headers=headers)

    body = b'{"id":  "evt_1"}'
    for secret in (b"whsec_old", b"whsec_new"):
        answer = send(body, hmac.digest(secret, body, "sha256").hex())
        assert answer.json()["payload"] == {"id": "evt_1"}
        assert answer.json()["claims"] == {"role": "service_role"}
    refused(send(body, hmac.digest(b"whsec_guess", body, "sha256").hex()), 400, "invalid_signature")
    refused(send(b'{"id": "evt_1"}', hmac.digest(b"whsec_new", body, "sha256").hex()), 400, "invalid_signature")
    refused(call(kinds, "from-a-webhook", apikey=SECRET_KEY), 400, "invalid_signature")


@pytest.mark.parametrize("kind", ["value", "programmer", "recursion", "database"])
def test_bug_is_500_without_details_and_logged(kinds: Serving, kind: str) -> None:
    sent = {"apikey": PUBLISHABLE_KEY, "x-request-id": f"fails-{kind}"}
    answer = refused(call(kinds, "that-fails", {"kind": kind}, **sent), 500, "internal_error")
    assert answer.json()["details"] is None
    deadline = time.monotonic() + 60
    while not (lines := [line for line in kinds.lines() if line.get("request_id") == f"fails-{kind}"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lines[0]["severity"] == "ERROR"
    assert any("that_fails.py" in place for place in lines[0]["where"])
    assert "somebody@strive.test" not in kinds.log.read_text()


def test_unknown_method_gets_a_regular_error(kinds: Serving) -> None:
    with kinds.client(None) as client:
        refused(client.request("TRACE", "/functions/v1/for-anyone"), 405, "not_served")
        refused(client.get("/favicon.ico"), 404, "not_served")


def test_document_lists_credentials(kinds: Serving) -> None:
    with kinds.client(None) as client:
        paths = client.get("/functions/v1/openapi.json").json()["paths"]
    security = {path: methods["post"]["security"] for path, methods in paths.items()}
    assert security["/for-anyone"] == [{"user": []}, {"publishable": []}]
    assert security["/for-servers"] == [{"secret": []}]
    assert security["/from-a-webhook"] == []
    assert "418" in paths["/that-fails"]["post"]["responses"]
    assert "401" not in paths["/from-a-webhook"]["post"]["responses"]


@pytest.mark.parametrize("auth", [(), ("everyone",), ("user:x",), ("secret:",)])
def test_invalid_declaration_raises(auth: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected who may call"):
        function(*auth)


def test_missing_keys_stop_the_process(tmp_path: Path, database_url: str) -> None:
    variables = environment(database_url, FUNCTION_TARGET="for_servers")
    variables["SUPABASE_SECRET_KEYS"] = ""
    with (
        pytest.raises(AssertionError, match="SUPABASE_SECRET_KEYS: found nothing"),
        serving(tmp_path, variables, [*BESIDE, str(KINDS)]),
    ):
        pass
