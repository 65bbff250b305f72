"""Leads from other programs: mapped, deduplicated, tried without effect."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.api_keys import make_key
from tests.support.responses import refused
from tests.support.serving import Serving
from tests.support.world import ACME, Database

INGEST = "/functions/v1/ingest"
MAPPING = {"name": "contact.name", "email": "contact.emails.0", "budget": "details.max_price", "tags": "labels"}


@pytest.fixture(scope="module")
def key(functions: Serving) -> str:
    made: str = make_key(functions, "CRM_WRITE")["key"]
    return made


def ingest(functions: Serving, key: str, *records: Any, **options: Any) -> httpx.Response:
    with functions.client(None, authorization=f"Bearer {key}") as client:
        return client.post(INGEST, json={"records": records, **options})


def record(email: str, name: str | None = "Ada") -> dict[str, Any]:
    return {"contact": {"name": name, "emails": [email]}, "details": {"max_price": 250_000}, "labels": ["portal"]}


def emails() -> tuple[str, str]:
    return f"{uuid4().hex}@portal.test", f"{uuid4().hex}@portal.test"


def outcomes(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["outcome"] for each in answer.json()["results"]]


def test_mapped_records_become_leads_once(functions: Serving, key: str, database: Database) -> None:
    first, second = emails()
    options = {"mapping": MAPPING, "defaults": {"source": "REFERRAL"}}
    dry = ingest(functions, key, record(first), record(first.upper()), dry_run=True, **options)
    assert outcomes(dry) == ["created", "known"]
    assert dry.json()["results"][0]["id"] is None
    sent = ingest(functions, key, record(first), record(first.upper()), record(second, name=None), **options)
    assert outcomes(sent) == ["created", "known", "failed"]
    assert "name" in sent.json()["results"][2]["problem"]
    assert outcomes(ingest(functions, key, record(first), **options)) == ["known"]
    with database.connect() as connection:
        rows = connection.execute(
            "select organization_id, name, source::text, budget::int, tags from public.leads where lower(email) = %s",
            [first],
        ).fetchall()
        feed = connection.execute(
            "select title, jsonb_array_length(metadata -> 'ids') from public.activity_feeds"
            " where type = 'INTEGRATION_EVENT' and entity_type = 'lead'"
        ).fetchall()
    assert rows == [(ACME, "Ada", "REFERRAL", 250_000, ["portal"])]
    assert feed == [("A lead arrived", 1)]


def test_records_without_a_mapping_are_matched_by_name(functions: Serving, key: str) -> None:
    first, _ = emails()
    assert outcomes(ingest(functions, key, {"name": "Ada", "email": first, "unknown": 1})) == ["created"]


def test_an_invalid_record_says_what_is_accepted(functions: Serving, key: str) -> None:
    wrong = {
        f'name: found "{"x" * 99}, accepted: lead name is 1 to 255 characters': {"name": "x" * 256},
        "budget: found -1.00, accepted: budget is not negative": {"name": "Ada", "budget": "-1"},
        "name: found null, accepted: a value": {"email": "ada@portal.test"},
        'status: found "OLD", accepted: one of NEW_LEAD, IN_CONTACT, QUALIFIED, UNQUALIFIED, CONVERTED, LOST': {
            "name": "Ada",
            "status": "OLD",
        },
        'budget: found "much", accepted: a value of the type numeric(12,2)': {"name": "Ada", "budget": "much"},
        'tags: found "hot", accepted: a list, each a value of the type text': {"name": "Ada", "tags": "hot"},
        'budget: found "1e300", accepted: a value of the type numeric(12,2)': {"name": "Ada", "budget": "1e300"},
        'name: found ["Ada", "Bo"], accepted: one value': {"name": ["Ada", "Bo"]},
        'email: found {"main": "ada@portal.test"}, accepted: one value': {
            "name": "Ada",
            "email": {"main": "ada@portal.test"},
        },
    }
    answer = ingest(functions, key, *wrong.values(), dry_run=True)
    assert [each["problem"] for each in answer.json()["results"]] == list(wrong)


def test_attack_ingest_beyond_the_scope_or_columns(functions: Serving, key: str) -> None:
    reading = make_key(functions, "CRM_READ")["key"]
    refused(ingest(functions, reading, {"name": "Ada"}), 403, "insufficient_scope")
    refused(ingest(functions, key, {"a": 1}, mapping={"name": "a", "organization_id": "a"}), 422, "invalid_body")
    refused(ingest(functions, key, *[{"name": "A"}] * 201), 422, "invalid_body")
