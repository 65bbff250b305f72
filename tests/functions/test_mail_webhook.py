"""Bounces and complaints of the mail provider stop mailing an address; a forged report stops nothing."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.responses import refused
from tests.support.serving import Serving, environment, serving
from tests.support.world import Database

SECRET = base64.b64encode(b"a secret of the mail provider").decode()
BOUNCE = {
    "type": "email.bounced",
    "data": {"to": ["Ada@Example.test"], "bounce": {"type": "Permanent", "message": "550"}},
}


@pytest.fixture
def functions(fresh_database: Database, tmp_path: Path) -> Iterator[Serving]:
    secrets = f"whsec_{SECRET},whsec_{base64.b64encode(b'the next one').decode()}"
    variables = environment(fresh_database.url("strive_functions"), MAIL_WEBHOOK_SECRETS=secrets)
    with serving(tmp_path, variables) as functions:
        yield functions


def report(
    functions: Serving, event: Any, *, key: bytes = b"a secret of the mail provider", age: float = 0, change: str = ""
) -> httpx.Response:
    body, at = json.dumps(event), str(int(time.time() - age))
    signature = base64.b64encode(hmac.digest(key, f"msg_1.{at}.{body}".encode(), hashlib.sha256)).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": at, "webhook-signature": f"v1,{signature}"}
    with functions.client(None) as client:
        content = body + change
        return client.post(
            "/functions/v1/mail-webhook", content=content, headers=headers | {"content-type": "application/json"}
        )


def test_bounces_and_complaints_stop_an_address(functions: Serving, fresh_database: Database) -> None:
    complaint = {"type": "email.complained", "data": {"to": ["bob@example.test"]}, "created_at": "2026"}
    transient = {"type": "email.bounced", "data": {"to": ["eve@example.test"], "bounce": {"type": "Transient"}}}
    for event, count in ((BOUNCE, 1), (BOUNCE, 0), (complaint, 1), (transient, 0), ({"type": "email.sent"}, 0)):
        answer = report(functions, event)
        assert (answer.status_code, answer.json()) == (200, {"suppressed": count})
    assert report(functions, complaint, key=b"the next one").status_code == 200
    with fresh_database.connect() as connection:
        stopped = connection.execute(
            "select address, reason::text from private.email_suppressions order by 1"
        ).fetchall()
    assert stopped == [("ada@example.test", "BOUNCED"), ("bob@example.test", "COMPLAINED")]


def test_attack_stop_mails_of_somebody_by_a_forged_bounce(functions: Serving, fresh_database: Database) -> None:
    refused(report(functions, BOUNCE, key=b"guessed"), 400, "invalid_signature")
    refused(report(functions, BOUNCE, change=" "), 400, "invalid_signature")
    refused(report(functions, BOUNCE, age=3600), 400, "stale_signature")
    with functions.client(None) as client:
        refused(client.post("/functions/v1/mail-webhook", json=BOUNCE), 400, "malformed_signature")
    with fresh_database.connect() as connection:
        assert connection.execute("select from private.email_suppressions").rowcount == 0
