"""The usual client libraries against the whole stack, as documented."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from postgrest.exceptions import APIError
from supabase_functions.errors import FunctionsHttpError

from local import NODE, ROOT
from supabase import Client
from tests.conftest import Strive
from tests.support.platform import PASSWORD, connect
from tests.support.serving import ENTRY


@pytest.fixture
def anonymous(stack: Strive) -> Iterator[Client]:
    with httpx.Client() as http:
        yield connect(stack, http)


@pytest.fixture
def member(stack: Strive) -> Iterator[Client]:
    """A member of Acme, signed in."""
    with httpx.Client() as http:
        client = connect(stack, http)
        client.auth.sign_in_with_password({"email": "member@acme.test", "password": PASSWORD})
        yield client


@pytest.fixture
def viewer(stack: Strive) -> Iterator[Client]:
    with httpx.Client() as http:
        client = connect(stack, http)
        client.auth.sign_in_with_password({"email": "viewer@acme.test", "password": PASSWORD})
        yield client


def invoke(client: Client, body: object, **headers: str) -> Any:
    return client.functions.invoke("record-activity", {"body": body, "headers": headers, "responseType": "json"})


def test_supabase_py_records_once_and_reads_it_in_the_feed(member: Client) -> None:
    title = str(uuid4())
    first = invoke(member, ENTRY | {"title": title}, **{"Idempotency-Key": title})
    again = invoke(member, ENTRY | {"title": title}, **{"Idempotency-Key": title})
    assert first == again
    feed = member.table("activity_feeds").select("id, title").eq("title", title).execute()
    assert feed.data == [{"id": first["feed_id"], "title": title}]


def test_supabase_py_gets_the_status_of_an_error(member: Client) -> None:
    with pytest.raises(FunctionsHttpError) as caught:
        invoke(member, {"title": "no more"})
    assert caught.value.status == 422


def test_supabase_py_without_session_gets_401(anonymous: Client) -> None:
    with pytest.raises(FunctionsHttpError) as caught:
        invoke(anonymous, ENTRY)
    assert caught.value.status == 401


def test_supabase_py_draws_the_first_screen(member: Client) -> None:
    answer = member.functions.invoke("dashboard-snapshot", {"body": {"feed_size": 3}, "responseType": "json"})
    screen = json.loads(answer) if isinstance(answer, bytes | str) else answer
    assert screen["organization"]["slug"] == "acme"
    assert [widget["error"] for widget in screen["widgets"]] == [None] * len(screen["widgets"])
    leads = member.table("leads").select("id").eq("score", "HOT").execute()
    (table,) = [widget for widget in screen["widgets"] if widget["name"] == "Hot leads"]
    assert len(table["data"]) == min(len(leads.data), 10)


def test_supabase_py_evaluates_metrics_and_reads_their_errors(member: Client) -> None:
    query = {"source": "leads", "aggregate": "count", "where": {"score": "HOT"}}
    value = member.rpc("evaluate_metric", {"query": query}).execute()
    hot = member.table("leads").select("id").eq("score", "HOT").execute().data
    assert value.data == {"value": len(hot)}
    with pytest.raises(APIError) as caught:
        member.rpc("evaluate_metric", {"query": {**query, "source": "users"}}).execute()
    assert caught.value.code == "PT422"
    assert "query.source" in str(caught.value.details)


SCRIPT = """
import { createClient } from '@supabase/supabase-js';
const strive = createClient(process.env.API_URL, process.env.PUBLISHABLE_KEY, { auth: { persistSession: false } });
const anonymous = await strive.functions.invoke('record-activity', { body: {} });
await strive.auth.signInWithPassword({ email: 'member@acme.test', password: process.env.PASSWORD });
const entry = JSON.parse(process.env.ENTRY);
const headers = { 'Idempotency-Key': entry.title };
const first = await strive.functions.invoke('record-activity', { body: entry, headers });
const again = await strive.functions.invoke('record-activity', { body: entry, headers });
const many = await strive.functions.invoke('record-activity', { body: { activities: [entry, entry] } });
const wrong = await strive.functions.invoke('record-activity', { body: { title: '' } });
console.log(JSON.stringify({
  anonymous: anonymous.error.context.status, first: first.data, again: again.data,
  many: many.data.activities.length, wrong: await wrong.error.context.json(),
}));
process.exit(0);
"""


def test_supabase_js_records_once_many_and_gets_errors(stack: Strive) -> None:
    variables = {"API_URL": stack.api_url, "PUBLISHABLE_KEY": stack.publishable_key, "PASSWORD": PASSWORD}
    entry = json.dumps(ENTRY | {"title": str(uuid4())})
    done = subprocess.run(
        [NODE, "--input-type=module", "--eval", SCRIPT],
        cwd=ROOT,
        env={**os.environ, **variables, "ENTRY": entry},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["anonymous"] == 401
    assert printed["first"] == printed["again"]
    assert printed["first"]["feed_id"]
    assert printed["many"] == 2
    assert printed["wrong"]["code"] == "invalid_body"


def test_data_api_follows_the_same_rules_as_functions(member: Client, viewer: Client, anonymous: Client) -> None:
    title = str(uuid4())
    made: Any = member.rpc("record_activity", {"activity": ENTRY | {"title": title}}).execute().data
    assert made["feed_id"]
    with pytest.raises(APIError) as caught:
        member.rpc("record_activity", {"activity": {"type": "CALL", "title": title}}).execute()
    assert caught.value.code == "PT422"
    with pytest.raises(APIError) as caught:
        viewer.rpc("record_activity", {"activity": ENTRY}).execute()
    assert caught.value.code == "42501"
    with pytest.raises(APIError):
        anonymous.rpc("record_activity", {"activity": ENTRY}).execute()


def test_data_api_pages_the_feed_by_key(member: Client) -> None:
    title = str(uuid4())
    invoke(member, {"activities": [ENTRY | {"title": title} for _ in range(7)]})
    seen: list[str] = []
    page: Any = None
    while page is None or page:
        query = member.table("activity_feeds").select("id, created_at").eq("title", title)
        if page:
            last = page[-1]
            older = f"created_at.lt.{last['created_at']},and(created_at.eq.{last['created_at']},id.lt.{last['id']})"
            query = query.or_(older)
        page = query.order("created_at", desc=True).order("id", desc=True).limit(3).execute().data
        seen += [entry["id"] for entry in page]
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, reverse=True)


def test_the_reference_page_is_served_beside_the_api(stack: Strive) -> None:
    page = httpx.get(f"{stack.functions_url}/docs")
    assert page.status_code == 200
    assert stack.api_url in page.text
    assert stack.publishable_key in page.text
    assert stack.secret_key not in page.text
