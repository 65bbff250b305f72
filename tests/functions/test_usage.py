"""Metering over HTTP: what was acknowledged is counted, once, for whom it was; limits apply to API keys alone."""

import json
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from psycopg.types.json import Jsonb

from tests.support.api_keys import make_key
from tests.support.platform import Platform
from tests.support.responses import refused
from tests.support.serving import ENTRY, RECORD, SECRET_KEY, Serving, environment, serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

CALLS = (
    "select coalesce(api_key_id, user_id), resource_name, sum(usage_amount)::int from private.metered"
    " where organization_id = %s and resource_type = 'API_CALLS' group by 1, 2"
)
TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def calls(database: Database, org: object = ACME) -> Counter[tuple[str, str]]:
    """How often each caller called each function, by the meter."""
    with database.connect() as connection:
        rows = connection.execute(CALLS, [org]).fetchall()
    return Counter({(str(who), name): count for who, name, count in rows})


def counted(database: Database, before: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return dict(calls(database) - before)


def person(name: str) -> str:
    return str(PEOPLE[name])


def by_key(functions: Serving, key: str, path: str = RECORD, body: Any = ENTRY) -> httpx.Response:
    with functions.client(None, authorization=f"Bearer {key}") as client:
        return client.post(path, json=body)


def test_requests_count_for_who_sent_them(functions: Serving, database: Database) -> None:
    before = calls(database)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: functions.record(person="owner" if n % 3 else "member"), range(30)))
    assert {answer.status_code for answer in answers} == {201}
    assert counted(database, before) == {
        (person("owner"), "record-activity"): 20,
        (person("member"), "record-activity"): 10,
    }


def test_requests_that_fail_do_not_count(functions: Serving, database: Database) -> None:
    before = calls(database)
    refused(functions.record(ENTRY | {"severity": "LOUD"}), 422, "invalid_body")
    refused(functions.record(ENTRY, "viewer"), 403, "42501")
    refused(functions.record({"type": "CALL", "title": "Hi", "lead_id": str(uuid4())}), 404, "PT404")
    assert counted(database, before) == {}


def test_request_repeated_with_its_key_counts_as_well(functions: Serving, database: Database) -> None:
    before = calls(database)
    key = str(uuid4())
    for _ in range(3):
        assert functions.record(**{"idempotency-key": key}).status_code == 201
    assert counted(database, before) == {(person("member"), "record-activity"): 3}


def test_request_counts_once_whatever_it_does(functions: Serving, database: Database) -> None:
    """Several operations, one, or none: an upload, tools of an agent, a list of tools."""
    before = calls(database)
    with functions.client("member", accept="application/json, text/event-stream") as client:
        imported = client.post(
            "/functions/v1/import-records?kind=leads&dry_run=true",
            content="name\nAda\n",
            headers={"content-type": "text/csv"},
        )
        assert imported.status_code == 200, imported.text
        assert client.post("/functions/v1/mcp", json=TOOLS).status_code == 200
        tool = {"name": "list_records", "arguments": {"table": "leads"}}
        answer = client.post("/functions/v1/mcp", json=TOOLS | {"method": "tools/call", "params": tool})
        assert answer.status_code == 200
    assert counted(database, before) == {(person("member"), "import-records"): 1, (person("member"), "mcp"): 2}


def test_flag_evaluations_are_not_metered(functions: Serving, database: Database) -> None:
    before = calls(database)
    with functions.client("member") as client:
        assert client.post("/functions/v1/evaluate-flag", json={"flag": "none"}).status_code == 404
        assert client.post("/functions/v1/evaluate-flag/ofrep/v1/evaluate/flags", json={}).status_code == 200
    assert counted(database, before) == {}


def test_attack_count_requests_for_another_organization(functions: Serving, database: Database) -> None:
    before = calls(database, GLOBEX)
    with functions.client(
        "member", **{"x-org-id": str(GLOBEX), "accept": "application/json, text/event-stream"}
    ) as client:
        assert client.post("/functions/v1/mcp", json=TOOLS).status_code == 200
        refused(client.post(RECORD, json=ENTRY), 403, "42501")
    assert calls(database, GLOBEX) == before


def test_requests_with_a_key_count_for_the_key(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_WRITE")
    before = calls(database)
    for _ in range(3):
        assert by_key(functions, made["key"]).status_code == 201
    # It was accepted; what it wanted was not.
    refused(by_key(functions, made["key"], body={}), 422, "invalid_body")
    assert counted(database, before) == {(made["id"], "record-activity"): 4}


def test_killed_functions_lose_no_acknowledged_request(fresh_database: Database, tmp_path: Path) -> None:
    """Killed in the middle of 16 clients' work: every acknowledged request and every entry has its count."""
    acknowledged: list[str] = []
    for _ in range(3):
        with serving(tmp_path, environment(fresh_database.url("strive_functions"))) as running:
            enough = threading.Event()

            def work(running: Serving = running, enough: threading.Event = enough) -> None:
                with running.client() as client:
                    while True:
                        try:
                            answer = client.post(RECORD, json=ENTRY | {"title": "Killed"})
                        except httpx.TransportError:
                            return
                        assert answer.status_code == 201
                        acknowledged.append(answer.json()["feed_id"])
                        if len(acknowledged) % 40 == 0:
                            enough.set()

            with ThreadPoolExecutor(16) as pool:
                working = [pool.submit(work) for _ in range(16)]
                assert enough.wait(60)
                running.process.send_signal(signal.SIGKILL)
                for each in working:
                    each.result()
    with fresh_database.connect() as connection:
        settled = (
            "select count(*) from pg_stat_activity where usename = 'strive_functions' and datname = current_database()"
        )
        while connection.execute(settled).fetchone() != (0,):
            connection.execute("select pg_sleep(0.05)")
        (entries,) = connection.execute(
            "select count(*) from public.activity_feeds where title = 'Killed'"
        ).fetchone() or (0,)
    assert calls(fresh_database) == {(person("member"), "record-activity"): entries}
    assert len(acknowledged) <= entries <= len(acknowledged) + 3 * 16


def test_key_beyond_its_plan_is_refused_and_people_go_on(fresh_database: Database, tmp_path: Path) -> None:
    with serving(tmp_path, environment(fresh_database.url("strive_functions"))) as running:
        key = make_key(running, "CRM_WRITE")["key"]
        with fresh_database.connect() as connection:
            connection.execute(
                "update public.plans set limits = limits || %s where tier = 'GROWTH'", [Jsonb({"api_calls": 2})]
            )
        assert [by_key(running, key).status_code for _ in range(2)] == [201, 201]
        answer = refused(by_key(running, key), 402, "PT402").json()
        assert answer["message"] == "Your plan allows no more api calls this month"
        assert answer["details"].startswith("GROWTH allows 2, and 2 are used. They renew at 20")
        assert answer["hint"] == "ELITE allows 1000000. An owner can choose it."
        assert running.record().status_code == 201
        assert calls(fresh_database)[person("member"), "record-activity"] == 1


def test_day_of_the_platform_equals_the_reports(functions: Serving, database: Database) -> None:
    """Calls of people and of keys, files of two organizations: three ways to the same sums."""
    functions.record()
    by_key(functions, make_key(functions, "CRM_WRITE")["key"])
    functions.record(person="globex_member")
    with database.connect() as connection:
        for size, org in ((500, ACME), (70, GLOBEX)):
            connection.execute(
                "insert into public.attachments"
                " (organization_id, entity_type, entity_id, file_name, file_size, mime_type, file_path)"
                " select id, 'leads', id, 'a.pdf', %s, 'application/pdf', id || '/leads/' || id || '/a.pdf'"
                " from public.organizations where id = %s",
                [size, org],
            )
        with functions.client(None, apikey=SECRET_KEY) as client:
            assert client.post("/functions/v1/refresh-platform-metrics", json={}).status_code == 200
        day, storage, total = connection.execute(
            "select date, total_storage, api_calls from public.platform_metrics order by date desc limit 1"
        ).fetchone() or (None, 0, 0)
    lines = "select resource_type, amount from public.usage_report() where grouped_by = 'DAY' and day = %s"
    sums: list[dict[str, int]] = []
    for who in ("owner", "globex_owner", "platform_admin"):
        with database.acting_as(who) as cursor:
            rows = cursor.execute(lines, [day]).fetchall()
        sums.append({row["resource_type"]: row["amount"] for row in rows})
    of_each, of_all = [Counter(each) for each in sums[:2]], sums[2]
    assert {"STORAGE": storage, "API_CALLS": total}.items() <= of_all.items()
    assert of_each[0] + of_each[1] == Counter(of_all)
    assert storage == 570
    assert total >= 3


def test_data_api_counts_and_refuses_keys(platform: Platform) -> None:
    """Through the whole stack: reading and writing count, and beyond the plan neither goes on."""
    platform.sql("select private.meter_reads()")
    org = platform.organization()
    admin = platform.person(member_of=org, org_role="ADMIN")
    made = admin.call("create-api-key", name="Zapier", scopes=["CRM_WRITE"]).json()
    token = platform.client(token=made["key"]).post("/functions/v1/token", json={}).json()["access_token"]
    http = platform.client(token=token)
    used = (
        "select resource_name, sum(usage_amount)::int from private.metered where api_key_id = %s group by 1 order by 1"
    )
    assert http.post("/rest/v1/leads", json={"name": "Ada"}).status_code == 201
    assert platform.sql(used, made["id"]) == [("data-api", 1), ("token", 1)]
    for path in ("leads", "leads?select=name", "contacts"):
        assert http.get(f"/rest/v1/{path}").status_code == 200
    assert http.post("/rest/v1/leads", json={"name": "Eve"}).status_code == 201
    platform.sql("set synchronous_commit = on")
    platform.sql("update public.organizations set name = name where id = %s", org)  # its commit flushes the log
    assert platform.server.post("/functions/v1/roll-up-usage", json={}).status_code == 200
    assert platform.sql(used, made["id"]) == [("data-api", 5), ("token", 1)]
    platform.sql("update public.organizations set subscription_tier = 'FREE' where id = %s", org)
    platform.sql(
        "insert into public.usage_tracking (organization_id, api_key_id, resource_type, resource_name, usage_amount)"
        " values (%s, %s, 'API_CALLS', 'data-api', 994)",
        org,
        made["id"],
    )
    for answer in (http.get("/rest/v1/leads"), http.post("/rest/v1/leads", json={"name": "Bob"})):
        assert (answer.status_code, answer.json()["code"]) == (402, "PT402"), answer.text
        assert "FREE allows 1000, and 1000 are used." in json.dumps(answer.json())
    assert admin.http.get("/rest/v1/leads").status_code == 200
    assert admin.rpc("usage_report").status_code == 200
    refusal = http.post("/rest/v1/rpc/usage_report", json={})
    assert refusal.status_code >= 400
