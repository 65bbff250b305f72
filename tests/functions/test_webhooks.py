"""Webhooks: signed, ordered per record, retried for three days, and never to a private address."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from jsonschema_rs import Draft202012Validator
from psycopg.rows import dict_row
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from functions import ALL, load
from local import NODE, ROOT
from local.schema.openapi import follow
from local.stack import free_port
from shared.app.openapi import EVENTS, document
from shared.webhooks.connections import Connections, is_public, trusted
from shared.webhooks.delivery import attempt, signed_headers
from tests.support.acting import wait_until_blocked
from tests.support.receivers import Receiver, receiving
from tests.support.served_flags import wait_for
from tests.support.serving import SECRET_KEY, Serving, environment, serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

LOCAL = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
PUBLISH = "select private.publish_event('crm.deal.won', %s, 'deal', %s, 'Won', 'Won', '{}', %s)"
DUE = "update public.webhook_deliveries set next_attempt_at = now() where status = 'PENDING'"


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("functions"), environment(database_url, **LOCAL)) as running:
        yield running


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        connection.execute("delete from public.webhook_endpoints")
        yield connection


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


# What members do, and what each returns as `id` is a parameter of the next.
ACTS = {
    "lead": "insert into public.leads (organization_id, name, assigned_to_id)"
    " values (%(org)s, 'A', %(member)s) returning id",
    "contact": "insert into public.contacts (organization_id, name) values (%(org)s, 'A') returning id",
    "deal": "insert into public.deals (organization_id, title, value, stage)"
    " values (%(org)s, 'A', 1.5, 'CLOSING') returning id",
    "won": "update public.deals set stage = 'CLOSED_WON' where id = %(deal)s",
    "task": "insert into public.tasks (organization_id, title, assigned_to)"
    " values (%(org)s, 'A', %(member)s) returning id",
    "role": "update public.organization_members set role = 'MEMBER' where user_id = %(viewer)s",
    "back": "update public.organization_members set role = 'VIEWER' where user_id = %(viewer)s",
    "action": "insert into public.quick_actions (organization_id, name, icon, action_type)"
    " values (%(org)s, 'Sync', 'bolt', 'WORKFLOW_TRIGGER') returning id",
    "triggered": "select public.run_quick_action(%(action)s, jsonb_build_object('n', 1))",
    "tested": "select public.test_webhook(%(webhook)s)",
}


def port_of(receiver: Receiver) -> int:
    return urlsplit(receiver.url).port or 0


def is_listening(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def subscribe(database: Database, url: str, kinds: list[str] | None = None) -> Row:
    with database.acting_as("admin", commit=True) as cursor:
        cursor.execute("select public.create_webhook(%s, %s) as made", [url, kinds])
        (row,) = cursor.fetchall()
    made: Row = row["made"]
    return made


def publish(connection: psycopg.Connection[Any], record: UUID | None = None, **data: Any) -> None:
    connection.execute(PUBLISH, [ACME, record or uuid4(), json.dumps(data)])


def deliver(functions: Serving, *, wait: bool = False) -> Row:
    with functions.client(None, apikey=SECRET_KEY) as client:
        answer = client.post("/functions/v1/deliver-webhooks", json={"wait": wait}, timeout=45 if wait else 120)
    assert answer.status_code == 200, answer.text
    result: Row = answer.json()["result"]
    return result


def deliveries(connection: psycopg.Connection[Any]) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from public.webhook_deliveries order by place").fetchall()


def test_delivery_passes_the_standard_verifier(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    secret = subscribe(database, receiver.url, ["crm.deal.won"])["secret"]
    deal = uuid4()
    publish(connection, deal, value=250_000, token="of the recipient alone")
    connection.execute(PUBLISH.replace("deal.won", "deal.lost"), [ACME, deal, "{}"])
    connection.execute(PUBLISH, [GLOBEX, deal, "{}"])
    assert deliver(functions) == {"delivered": 1, "failed": 0}
    ((headers, body),) = receiver.requests
    payload = Webhook(secret).verify(body, headers)
    assert (payload["type"], payload["version"], payload["organization_id"]) == ("crm.deal.won", 1, str(ACME))
    assert payload["data"] == {"subject": {"type": "deal", "id": str(deal)}, "details": {"value": 250_000}}
    (row,) = deliveries(connection)
    assert (str(row["id"]), row["status"], row["response_status"]) == (headers["webhook-id"], "DELIVERED", 200)


def test_event_that_is_rolled_back_is_never_sent(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    subscribe(database, receiver.url)
    with connection.transaction(force_rollback=True):
        publish(connection)
    deliver(functions)
    assert receiver.requests == []


def test_rotated_secret_signs_beside_the_new_one(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    made = subscribe(database, receiver.url)
    with database.acting_as("admin", commit=True) as cursor:
        # Twice: the response to the first one may have been lost, so the receiver still has the secret before it.
        news = []
        for _ in range(2):
            cursor.execute("select public.rotate_webhook_secret(%s) as made", [made["id"]])
            news.append(cursor.fetchall()[0]["made"]["secret"])
        cursor.execute("select public.test_webhook(%s)", [made["id"]])
    deliver(functions)
    connection.execute("update private.webhook_secrets set replaced_at = replaced_at - interval '1 day'")
    publish(connection)
    deliver(functions)
    (all_of_them, first), (one, second) = receiver.requests
    for secret in (made["secret"], *news):
        assert Webhook(secret).verify(first, all_of_them)["type"] == "organization.webhook.tested"
    Webhook(news[1]).verify(second, one)
    assert " " not in one["webhook-signature"]


def test_secret_that_is_rotated_often_leaves_five(database: Database, connection: psycopg.Connection[Any]) -> None:
    made = subscribe(database, "https://example.com/strive")
    newest = ""
    for _ in range(7):
        with database.acting_as("admin", commit=True) as cursor:
            cursor.execute("select public.rotate_webhook_secret(%s) as made", [made["id"]])
            newest = cursor.fetchall()[0]["made"]["secret"]
    found = connection.execute("select secret from private.webhook_secrets where endpoint_id = %s", [made["id"]])
    secrets = {secret for (secret,) in found.fetchall()}
    assert len(secrets) == 5
    assert newest in secrets
    assert made["secret"] not in secrets


def test_events_of_a_record_stay_in_order(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    subscribe(database, receiver.url)
    record, other = uuid4(), uuid4()
    for number in range(3):
        publish(connection, record, value=number)
    publish(connection, other)
    receiver.answers = [500, 500]
    deliver(functions)
    numbers = [json.loads(body)["data"]["details"].get("value") for _, body in receiver.requests]
    assert sorted(numbers, key=str) == [0, None]
    for _ in range(3):
        connection.execute(DUE)
        deliver(functions)
    numbers = [json.loads(body)["data"]["details"].get("value") for _, body in receiver.requests]
    assert [number for number in numbers if number is not None] == [0, 0, 1, 2]
    assert {row["status"] for row in deliveries(connection)} == {"DELIVERED"}


def test_many_events_of_a_record_arrive_in_one_run(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    subscribe(database, receiver.url)
    record = uuid4()
    for number in range(50):
        publish(connection, record, value=number)
    assert deliver(functions) == {"delivered": 50, "failed": 0}
    assert [json.loads(body)["data"]["details"]["value"] for _, body in receiver.requests] == list(range(50))


def test_many_events_that_wait_hold_up_no_other_record(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    subscribe(database, receiver.url)
    record = uuid4()
    for number in range(300):
        publish(connection, record, value=number)
    receiver.answers = [500]
    assert deliver(functions) == {"delivered": 0, "failed": 1}
    publish(connection, value="of another record")
    assert deliver(functions) == {"delivered": 1, "failed": 0}


def test_failing_receiver_is_retried_for_three_days_and_switched_off(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    made = subscribe(database, receiver.url)
    publish(connection)
    receiver.answers = [503] * 10
    waited = 0.0
    for tried in range(1, 11):
        assert deliver(functions)["failed"] == 1
        (row,) = deliveries(connection)
        assert (row["attempts"], row["response_status"]) == (tried, 503)
        if row["status"] == "PENDING":
            ((seconds,),) = connection.execute(
                "select extract(epoch from next_attempt_at - now()) from public.webhook_deliveries"
            )
            waited += float(seconds)
            connection.execute(
                "update public.webhook_endpoints set failing_since = failing_since - %s * interval '1 second'",
                [seconds],
            )
            connection.execute(DUE)
    assert row["status"] == "FAILED"
    assert 70 < waited / 3600 < 80
    ((active, reason),) = connection.execute(
        "select is_active, disabled_reason from public.webhook_endpoints where id = %s", [made["id"]]
    )
    assert (active, reason) == (False, "No delivery arrived for three days.")
    feed = "select type::text, description from public.activity_feeds where entity_id = %s"
    assert connection.execute(feed, [made["id"]]).fetchall() == [("INTEGRATION_EVENT", reason)]
    ((notified,),) = connection.execute(
        "select count(*) from public.notifications where kind = 'organization.webhook.disabled' and entity_id = %s",
        [made["id"]],
    )
    assert notified == 2
    publish(connection)
    assert len(deliveries(connection)) == 1
    with database.acting_as("admin", commit=True) as cursor:
        cursor.execute("select public.change_webhook(%s, '{\"is_active\": true}')", [made["id"]])
        cursor.execute("select public.replay_webhooks(%s, since => now() - interval '1 day') as again", [made["id"]])
        assert cursor.fetchall() == [{"again": 1}]
    assert deliver(functions) == {"delivered": 1, "failed": 0}
    assert len(set(receiver.ids)) == 1


def test_receiver_that_is_gone_is_switched_off_at_once(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    subscribe(database, receiver.url)
    publish(connection)
    receiver.answers = [410]
    deliver(functions)
    assert connection.execute("select is_active from public.webhook_endpoints").fetchall() == [(False,)]


def test_hanging_receiver_holds_up_only_itself(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    with receiving(hanging=True) as hanging, ThreadPoolExecutor() as pool:
        subscribe(database, hanging.url)
        for _ in range(40):
            publish(connection)
        subscribe(database, receiver.url, ["crm.deal.lost"])
        for _ in range(200):
            connection.execute(PUBLISH.replace("deal.won", "deal.lost"), [ACME, uuid4(), "{}"])
        running = pool.submit(deliver, functions)
        for _ in range(200):
            assert receiver.arrived.acquire(timeout=60)
        assert not running.done()
        assert len(hanging.requests) <= 8
        hanging.gate.set()
        running.result()
    assert {row["status"] for row in deliveries(connection) if row["kind"] == "crm.deal.lost"} == {"DELIVERED"}


def test_killed_sender_loses_nothing(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    with receiving(hanging=True) as receiver, ThreadPoolExecutor() as pool:
        subscribe(database, receiver.url)
        for number in range(30):
            publish(connection, value=number)
        with serving(tmp_path, environment(database.url("strive_functions"), **LOCAL)) as doomed:
            running = pool.submit(deliver, doomed)
            assert receiver.arrived.acquire(timeout=60)
            doomed.process.send_signal(signal.SIGKILL)
            with pytest.raises(httpx.HTTPError):
                running.result()
        receiver.gate.set()
        connection.execute(DUE)
        while deliver(functions)["delivered"]:
            pass
        assert set(receiver.ids) == {str(row["id"]) for row in deliveries(connection)}
    assert {row["status"] for row in deliveries(connection)} == {"DELIVERED"}


def test_attack_fill_the_sender_with_hanging_receivers(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    with receiving(hanging=True) as hanging, ThreadPoolExecutor() as pool:
        connection.execute(
            "with made as (insert into public.webhook_endpoints (organization_id, url)"
            " select %s, %s || '?' || n from generate_series(1, 20) n returning id)"
            " insert into private.webhook_secrets (endpoint_id, secret)"
            " select id, private.new_webhook_secret() from made",
            [GLOBEX, hanging.url],
        )
        for _ in range(10):
            connection.execute(PUBLISH, [GLOBEX, uuid4(), "{}"])
        subscribe(database, receiver.url)
        for _ in range(50):
            publish(connection)
        running = pool.submit(deliver, functions)
        for _ in range(50):
            assert receiver.arrived.acquire(timeout=60)
        assert not running.done()
        tried = connection.execute(
            "select from public.webhook_deliveries where organization_id = %s and attempts > 0", [GLOBEX]
        )
        assert 0 < tried.rowcount <= 16
        hanging.gate.set()
        running.result()


def test_waiting_run_sends_new_events_and_ends_with_its_process(
    database: Database, connection: psycopg.Connection[Any], receiver: Receiver, tmp_path: Path
) -> None:
    subscribe(database, receiver.url)
    variables = environment(database.url("strive_functions"), **LOCAL)
    with ThreadPoolExecutor() as pool, serving(tmp_path, variables) as ending:
        running = pool.submit(deliver, ending, wait=True)
        for _ in range(2):
            publish(connection)
            assert receiver.arrived.acquire(timeout=60)
        ending.process.terminate()
        assert running.result() == {"delivered": 2, "failed": 0}


def test_run_waits_for_the_end_of_the_one_before(
    functions: Serving, database: Database, connection: psycopg.Connection[Any]
) -> None:
    with ThreadPoolExecutor() as pool:
        with connection.transaction():
            connection.execute("select private.try_job_lock('deliver_webhooks')")
            running = pool.submit(deliver, functions, wait=True)
            wait_until_blocked(database, "state = 'idle in transaction' and query like 'select private.try_job_lock(%'")
        assert running.result() == {"delivered": 0, "failed": 0}


@pytest.mark.usefixtures("connection")
def test_run_ends_where_no_webhook_is_active(functions: Serving) -> None:
    assert deliver(functions, wait=True) == {"delivered": 0, "failed": 0}


@pytest.mark.usefixtures("connection")
def test_actions_trigger_workflows_and_calls(functions: Serving, database: Database, receiver: Receiver) -> None:
    with receiving() as other:
        subscribe(database, receiver.url, ["dashboard.action.triggered"])
        subscribe(database, other.url, ["crm.deal.won"])
        for kind, address in (
            ("WORKFLOW_TRIGGER", None),
            ("API_CALL", other.url),
            ("API_CALL", "https://example.com/"),
        ):
            with database.acting_as("admin", commit=True) as cursor:
                cursor.execute(
                    "insert into public.quick_actions (organization_id, name, icon, action_type, api_endpoint)"
                    " values (%s, 'Sync', 'bolt', %s, %s) returning id",
                    [ACME, kind, address],
                )
                action = cursor.fetchall()[0]["id"]
                cursor.execute("""select public.run_quick_action(%s, '{"n": 1}') as result""", [action])
                assert (cursor.fetchall()[0]["result"]["delivery_id"] is None) == (address != other.url)
        assert deliver(functions) == {"delivered": 2, "failed": 0}
        for _, body in (*receiver.requests, *other.requests):
            assert json.loads(body)["data"]["details"] == {"name": "Sync", "input": {"n": 1}}
        assert (len(receiver.requests), len(other.requests)) == (1, 1)


@pytest.mark.usefixtures("connection")
def test_attack_call_the_webhook_of_another_organization(
    functions: Serving, database: Database, receiver: Receiver
) -> None:
    with database.acting_as("globex_owner", commit=True) as cursor:
        cursor.execute("select public.create_webhook(%s)", [receiver.url])
    with database.acting_as("admin", commit=True) as cursor:
        cursor.execute(
            "insert into public.quick_actions (organization_id, name, icon, action_type, api_endpoint)"
            " values (%s, 'Sync', 'bolt', 'API_CALL', %s) returning id",
            [ACME, receiver.url],
        )
        action = cursor.fetchall()[0]["id"]
        cursor.execute("select public.run_quick_action(%s) as result", [action])
        assert cursor.fetchall()[0]["result"]["delivery_id"] is None
    deliver(functions)
    assert receiver.requests == []


@pytest.mark.usefixtures("connection")
def test_created_records_are_events(functions: Serving, database: Database, receiver: Receiver) -> None:
    subscribe(database, receiver.url, ["crm.lead.created"])
    with database.acting_as("member", commit=True) as cursor:
        cursor.execute(
            "insert into public.leads (organization_id, name) values (%s, 'A'), (%s, 'B') returning id", [ACME] * 2
        )
        made = {str(row["id"]) for row in cursor.fetchall()}
    deliver(functions)
    assert {json.loads(body)["data"]["subject"]["id"] for _, body in receiver.requests} == made


def test_delivered_events_match_their_documented_schemas(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    described = document("http://x", load(ALL))
    made = subscribe(database, receiver.url)
    ids: dict[str, Any] = {"org": ACME, "member": PEOPLE["member"], "viewer": PEOPLE["viewer"], "webhook": made["id"]}
    with database.acting_as("owner", commit=True) as cursor:
        for name, statement in ACTS.items():
            cursor.execute(statement, ids)
            ids[name] = cursor.fetchall()[0].get("id") if cursor.description else None
    for kind in described["webhooks"]:  # those that need more than a statement, and data that must not be delivered
        subjects = json.loads(EVENTS.read_text())[kind]["subjects"] or ["anything"]
        secret = json.dumps({"token": "of the recipient alone", "secret_path": "/invitations/token", "link": "/token"})
        connection.execute(
            "select private.publish_event(%s, %s, %s, %s, 'A', 'B', '{}', %s)",
            [kind, ACME, subjects[0], uuid4(), secret],
        )
    assert deliver(functions)["failed"] == 0
    arrived = [json.loads(body) for _, body in receiver.requests]
    assert {event["type"] for event in arrived} == described["webhooks"].keys()
    by_acts = {event["type"] for event in arrived if event["data"]["details"]}
    assert {
        "crm.lead.assigned",
        "crm.deal.won",
        "organization.member.role_changed",
        "dashboard.action.triggered",
    } <= by_acts
    for event in arrived:
        operation = described["webhooks"][event["type"]]["post"]
        schema = follow(described, operation["requestBody"]["content"]["application/json"]["schema"])
        details = schema["properties"]["data"]["properties"]["details"]
        Draft202012Validator(schema, validate_formats=True).validate(event)
        assert event["data"]["details"].keys() <= details["properties"].keys()
        assert set(event["data"]["details"]).isdisjoint({"token", "secret_path", "link"})


def test_attack_redirect_to_another_address(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    with receiving() as victim:
        receiver.answers, receiver.location = [302], victim.url
        subscribe(database, receiver.url)
        publish(connection)
        assert deliver(functions)["failed"] == 1
        assert victim.requests == []


PRIVATE = (
    "http://127.0.0.1:{port}/", "http://localhost:{port}/", "https://localhost:{port}/",
    "https://[::1]:{port}/", "https://[::ffff:127.0.0.1]:{port}/", "https://[::ffff:7f00:1]:{port}/",
    "https://[64:ff9b::7f00:1]:{port}/", "https://169.254.169.254/latest/meta-data", "http://2130706433:{port}/",
    "https://2130706433:{port}/", "https://0x7f000001:{port}/", "https://0177.0.0.1:{port}/", "https://127.1:{port}/",
    "https://0:{port}/", "HTTPS://127.0.0.1:{port}/", "http://192.0.2.1/",
)  # fmt: skip


def test_attack_have_a_private_address_called(fresh_database: Database, tmp_path: Path, receiver: Receiver) -> None:
    for url in PRIVATE:
        subscribe(fresh_database, url.format(port=port_of(receiver)))
    with fresh_database.connect() as connection:
        publish(connection)
        with serving(tmp_path, environment(fresh_database.url("strive_functions"))) as functions:
            assert deliver(functions) == {"delivered": 0, "failed": len(PRIVATE)}
        errors = [row["error"] for row in deliveries(connection)]
    assert [error for error in errors if not error.startswith("Not sent: ")] == []
    assert receiver.requests == []


def test_attack_change_the_address_of_a_name_after_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network 127.0.0.2/32 is the public one here, and 127.0.0.1 the victim."""
    answers = [["127.0.0.2"], ["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]]

    def resolve(_host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    async def send(port: int) -> str | None:
        connections = Connections([ip_network("127.0.0.2/32")], 1)
        delivery = {
            "id": uuid4(),
            "url": f"http://rebound.test:{port}/",
            "payload": "{}",
            "secrets": ["whsec_c2VjcmV0"],
        }
        try:
            error: str | None = (await attempt(connections, delivery))["error"]
        finally:
            await connections.close()
        return error

    with receiving() as victim, receiving(address="127.0.0.2", port=port_of(victim)) as named:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert asyncio.run(send(port_of(named))) is None
        assert len(answers) == 2
        for _ in range(2):
            assert (asyncio.run(send(port_of(named))) or "").startswith(
                "Not sent: rebound.test has the address 127.0.0.1"
            )
    assert (len(named.requests), victim.requests) == (1, [])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1",
     "255.255.255.255", "192.0.2.1", "192.0.0.192", "168.63.129.16", "192.88.99.1", "::1", "::", "fe80::1", "fc00::1",
     "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1", "::ffff:168.63.129.16", "64:ff9b::a00:1", "2002:a00:1::", "fec0::1",
     "::7f00:1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"],
)  # fmt: skip
def test_attack_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


def test_public_addresses_are_accepted() -> None:
    for address in ("1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"):
        assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    ["https://user:password@example.com/", "file:///etc/passwd", "gopher://example.com/", "https://", "https:///path",
     "https://example.com/#part", "https://example.com/\r\nx-org-id: 1", "https://example.com\r\nhost: x/",
     "//example.com/", "https://example.com/ HTTP/1.1", "https://[::1", "https://[::1]x/", "https://example.com:port/",
     "https://example.com:80:80/", "https://exam\\ple.com/", "https://%31/", "https://exämple.com/",
     "https://example.com/" + "a" * 2000, None],
)  # fmt: skip
def test_attack_passwords_headers_and_odd_schemes_in_an_address(database: Database, url: Any) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        subscribe(database, url)
    assert refusal.value.sqlstate == "PT422"
    assert "Found" in (refusal.value.diag.message_detail or "")
    assert "https://example.com/strive" in (refusal.value.diag.message_hint or "")


@pytest.mark.parametrize(
    "changes",
    [{"url": "ftp://example.com/"}, {"url": None}, {"url": 1}, {"kinds": []}, {"kinds": [None]},
     {"kinds": "crm.deal.won"}, {"kinds": [1]}, {"is_active": None}, {"is_active": "often"},
     {"organization_id": str(GLOBEX)}, {"description": "a" * 501}, [], None],
)  # fmt: skip
def test_change_that_a_webhook_cannot_have_is_explained(database: Database, changes: Any) -> None:
    made = subscribe(database, "https://example.com/")
    with database.acting_as("admin") as cursor, pytest.raises(psycopg.Error) as refusal:
        cursor.execute("select public.change_webhook(%s, %s)", [made["id"], json.dumps(changes)])
    assert refusal.value.sqlstate == "PT422"
    assert "Found" in (refusal.value.diag.message_detail or "")


@pytest.mark.usefixtures("connection")
def test_attack_queue_tests_without_end(database: Database, receiver: Receiver) -> None:
    made = subscribe(database, receiver.url)
    with database.acting_as("admin") as cursor:
        for _ in range(10):
            cursor.execute("select public.test_webhook(%s)", [made["id"]])
        with pytest.raises(psycopg.Error) as refusal:
            cursor.execute("select public.test_webhook(%s)", [made["id"]])
    assert refusal.value.sqlstate == "PT429"


def test_attack_replay_or_change_a_delivery(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    secret, other = (subscribe(database, url)["secret"] for url in (receiver.url, "https://example.com/"))
    publish(connection)
    connection.execute("update public.webhook_endpoints set is_active = url like 'http:%'")
    deliver(functions)
    ((headers, body),) = receiver.requests
    Webhook(secret).verify(body, headers)
    later = str(int(headers["webhook-timestamp"]) + 1)
    long_ago = datetime.now(UTC) - timedelta(minutes=6)
    signed_then = signed_headers({"id": headers["webhook-id"], "payload": body.decode(), "secrets": [secret]}, long_ago)
    for key, sent, content in (
        (secret, headers, body.replace(b"won", b"lost")),
        (secret, headers | {"webhook-id": str(uuid4())}, body),
        (secret, headers | {"webhook-timestamp": later}, body),
        (secret, signed_then, body),
        (other, headers, body),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(content, sent)


def test_only_admins_subscribe_and_read_deliveries(
    database: Database, connection: psycopg.Connection[Any], receiver: Receiver
) -> None:
    made = subscribe(database, receiver.url)
    publish(connection)
    for person in ("member", "globex_owner"):
        with database.acting_as(person) as cursor:
            for table in ("webhook_endpoints", "webhook_deliveries"):
                cursor.execute(f"select count(*) from public.{table}")
                assert cursor.fetchall() == [{"count": 0}]
            with pytest.raises(psycopg.Error):
                cursor.execute("select public.rotate_webhook_secret(%s)", [made["id"]])
    with pytest.raises(psycopg.Error) as unknown:
        subscribe(database, receiver.url, ["account.access.suspended"])
    assert unknown.value.sqlstate == "PT422"


@pytest.mark.parametrize("language", ["python", "js"])
def test_documented_receivers_verify_a_delivery(
    functions: Serving, database: Database, connection: psycopg.Connection[Any], tmp_path: Path, language: str
) -> None:
    (source,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), re.DOTALL)
    program = tmp_path / f"receiver.{'py' if language == 'python' else 'mjs'}"
    program.write_text(source)
    port = free_port()
    made = subscribe(database, f"http://127.0.0.1:{port}/")
    words = [sys.executable] if language == "python" else [str(NODE)]
    with subprocess.Popen(
        [*words, str(program)],
        env=os.environ | {"SECRET": made["secret"], "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for(lambda: is_listening(port))
            publish(connection)
            assert deliver(functions) == {"delivered": 1, "failed": 0}
            assert process.stdout is not None
            assert process.stdout.readline().startswith("crm.deal.won")
        finally:
            process.terminate()


def test_runs_share_the_certificates_of_https() -> None:
    """Reading them for each run would hold up every request of the process each minute."""
    assert trusted() is trusted()
    pools = Connections([], 1, trusted())._pools.values()
    assert {pool._ssl_context for pool in pools} == {trusted()}
