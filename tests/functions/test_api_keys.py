"""API keys of an organization: made once, scoped, limited, rotated, revoked; for functions and for the data API."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest

from shared.auth.api_keys import is_well_formed, new_key
from tests.support.api_keys import make_key
from tests.support.platform import Platform
from tests.support.responses import refused
from tests.support.served_flags import wait_for
from tests.support.serving import ENTRY, RECORD, SIGNING_KEY, Serving, environment, public_jwk, serving, token
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, become, claims_of

TOKEN = "/functions/v1/token"
CREATE = "/functions/v1/create-api-key"
LEAD = "insert into public.leads (organization_id, name) values (%s, 'Ada') returning id"


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Serving]:
    signing = jwt.algorithms.ECAlgorithm.to_jwk(SIGNING_KEY, as_dict=True) | public_jwk()
    variables = environment(database_url, SUPABASE_SIGNING_KEY=json.dumps(signing), TRUSTED_PROXIES="1")
    with serving(tmp_path_factory.mktemp("functions"), variables) as running:
        yield running


@pytest.fixture(autouse=True)
def forgotten(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("update public.api_keys set revoked_at = now() where revoked_at is null")


def post(functions: Serving, path: str, key: str, body: Any = None, **headers: str) -> httpx.Response:
    with functions.client(None, authorization=f"Bearer {key}") as client:
        return client.post(path, json={} if body is None else body, headers=headers)


def claims_of_key(functions: Serving, key: str) -> dict[str, Any]:
    answer = post(functions, TOKEN, key)
    assert answer.status_code == 200, answer.text
    signed = answer.json()["access_token"]
    return jwt.decode(signed, SIGNING_KEY.public_key(), ["ES256"], audience="authenticated")


@contextmanager
def as_key(database: Database, claims: dict[str, Any], address: str | None = None) -> Iterator[psycopg.Cursor[Any]]:
    """A transaction as PostgREST opens it for the token of a key; rolled back."""
    headers = {"x-forwarded-for": address} if address else {}
    with database.connect("authenticator") as connection:
        connection.autocommit = False
        become(connection, claims["role"], claims, headers)
        with connection.cursor() as cursor:
            cursor.execute("select private.check_request()")
            yield cursor
        connection.rollback()


def sqlstate(cursor: psycopg.Cursor[Any], statement: str, *values: Any) -> str | None:
    cursor.execute("savepoint tried")
    try:
        cursor.execute(statement, values)
    except psycopg.Error as error:
        cursor.execute("rollback to tried")
        return error.sqlstate
    return None


def test_key_is_returned_once_and_stored_as_a_hash(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_WRITE")
    assert is_well_formed(made["key"])
    assert made["scopes"] == ["CRM_READ", "CRM_WRITE"]
    with database.connect() as connection:
        (row,) = connection.execute("select to_jsonb(k)::text from public.api_keys k where id = %s", [made["id"]])
        (logged,) = connection.execute(
            "select new_data::text from public.activity_logs where resource_id = %s", [made["id"]]
        )
    for text in (row[0], logged[0], functions.log.read_text()):
        assert made["key"] not in text
        assert made["key"][18:58] not in text
    with database.acting_as("admin") as cursor:
        cursor.execute("select name, prefix from public.api_keys where id = %s", [made["id"]])
        assert cursor.fetchall() == [{"name": "Zapier", "prefix": made["key"][:18]}]


def test_only_admins_make_keys(functions: Serving) -> None:
    for person in ("member", "viewer", "outsider"):
        with functions.client(person) as client:
            refused(client.post(CREATE, json={"name": "Mine", "scopes": ["CRM_READ"]}), 403, "42501")
    key = make_key(functions, "CRM_WRITE")["key"]
    refused(post(functions, CREATE, key, {"name": "More", "scopes": ["ORDERS_WRITE"]}), 403, "insufficient_scope")


def test_key_calls_a_function_once_per_idempotency_key(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_WRITE")
    once = {"idempotency-key": str(uuid4())}
    first = post(functions, RECORD, made["key"], ENTRY, **once)
    again = post(functions, RECORD, made["key"], ENTRY, **once)
    assert first.status_code == 201, first.text
    assert (first.status_code, again.json(), again.headers["idempotency-replayed"]) == (201, first.json(), "true")
    with functions.client(None, **{"x-api-key": made["key"]}) as client:
        assert client.post(RECORD, json=ENTRY).status_code == 201
    # The results of a key are not those of the person who made it.
    other = functions.record(person="admin", **once)
    assert "idempotency-replayed" not in other.headers
    with database.connect() as connection:
        (use,) = connection.execute(
            "select sum(usage_amount), (select last_used_at is not null from public.api_keys where id = api_key_id)"
            " from private.metered where api_key_id = %s group by api_key_id",
            [made["id"]],
        )
    assert use == (3, True)


def test_history_names_the_key(functions: Serving, database: Database) -> None:
    claims = claims_of_key(functions, make_key(functions, "CRM_WRITE")["key"])
    with as_key(database, claims) as cursor:
        ((lead,),) = cursor.execute(LEAD, [ACME]).fetchall()
        cursor.execute("reset role")
        become(cursor.connection, "authenticated", claims_of("viewer"), {})
        rows = cursor.execute(
            "select action, user_id, api_key_id::text, api_key_name from public.record_history('leads', %s)", [lead]
        ).fetchall()
    assert rows == [("created", None, claims["api_key_id"], "key Zapier")]


def test_scope_decides_which_tables_are_reached(functions: Serving, database: Database) -> None:
    reading = claims_of_key(functions, make_key(functions, "CRM_READ")["key"])
    with as_key(database, reading) as cursor:
        assert sqlstate(cursor, "select from public.leads") is None
        assert sqlstate(cursor, LEAD, ACME) == "42501"
        assert cursor.execute("select count(*) from public.custom_agent_orders").fetchone() == (0,)
        for closed in ("notifications", "api_keys", "ai_conversations", "plans", "activity_logs"):
            assert sqlstate(cursor, f"select from public.{closed}") == "42501"
    writing = claims_of_key(functions, make_key(functions, "CRM_WRITE")["key"])
    with as_key(database, writing) as cursor:
        assert sqlstate(cursor, LEAD, ACME) is None
        assert sqlstate(cursor, LEAD, GLOBEX) == "42501"
        assert sqlstate(cursor, "delete from public.leads") == "42501"
    refused(
        post(functions, "/functions/v1/submit-order", make_key(functions, "CRM_WRITE")["key"], {"order_id": str(ACME)}),
        403,
        "insufficient_scope",
    )


def test_operation_takes_its_scope(functions: Serving, database: Database) -> None:
    claims = claims_of_key(functions, make_key(functions, "ORDERS_READ")["key"])
    with as_key(database, claims) as cursor:
        for name, statement, state in (
            ("order_quota", "select public.order_quota()", None),
            ("find_duplicates", "select * from public.find_duplicates('a@b.c')", "42501"),
            ("create_organization", "select public.create_organization('More')", "42501"),
        ):
            cursor.execute("select set_config('request.path', %s, true)", [f"/rpc/{name}"])
            assert sqlstate(cursor, statement) == state


def test_attack_revoked_key_and_its_token(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_WRITE")
    claims = claims_of_key(functions, made["key"])
    with database.acting_as("admin", commit=True) as cursor:
        cursor.execute("select public.revoke_api_key(%s)", [made["id"]])
    refused(post(functions, RECORD, made["key"], ENTRY), 401, "invalid_api_key")
    with pytest.raises(psycopg.Error) as stopped, as_key(database, claims):
        pass
    assert stopped.value.sqlstate == "PT401"
    # Also where the data API does not call check_request().
    with database.connect("authenticator") as connection, connection.transaction(force_rollback=True):
        become(connection, claims["role"], claims, {})
        assert connection.execute("select count(*) from public.leads").fetchone() == (0,)


@pytest.mark.parametrize(
    "left",
    [
        "update public.organization_members set role = 'MEMBER' where user_id = %s",
        "delete from public.organization_members where user_id = %s",
        "update public.users set suspended_at = now() where id = %s",
    ],
    ids=["demoted", "removed", "suspended"],
)
def test_attack_key_of_an_admin_who_left(fresh_database: Database, tmp_path: Path, left: str) -> None:
    with serving(tmp_path, environment(fresh_database.url("strive_functions"))) as running:
        key = make_key(running, "CRM_WRITE")["key"]
        assert post(running, RECORD, key, ENTRY).status_code == 201
        with fresh_database.connect() as connection:
            connection.execute(left, [PEOPLE["admin"]])
        refused(post(running, RECORD, key, ENTRY), 401, "invalid_api_key")


def test_attack_key_from_another_network(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_READ", networks=["192.0.2.0/24"])
    refused(post(functions, TOKEN, made["key"]), 401, "invalid_api_key")
    refused(
        post(functions, TOKEN, made["key"], **{"x-forwarded-for": "192.0.2.7, 198.51.100.1"}), 401, "invalid_api_key"
    )
    listed = {"x-forwarded-for": "192.0.2.7"}
    signed = post(functions, TOKEN, made["key"], **listed).json()["access_token"]
    claims = jwt.decode(signed, options={"verify_signature": False})
    with as_key(database, claims, "192.0.2.9") as cursor:
        assert cursor.execute("select count(*) > 0 from public.leads").fetchone() is not None
    with pytest.raises(psycopg.Error), as_key(database, claims, "198.51.100.1"):
        pass


@pytest.mark.parametrize("network", ["192.0.2.0/24", "::ffff:192.0.2.0/120"])
def test_address_of_ipv4_in_ipv6_is_in_the_networks_of_a_key(
    functions: Serving, database: Database, network: str
) -> None:
    made = make_key(functions, "CRM_READ", networks=[network])
    for address in ("192.0.2.7", "::ffff:192.0.2.7", "::FFFF:c000:207", "192.0.2.7:443", "[::ffff:192.0.2.7]:443"):
        answer = post(functions, TOKEN, made["key"], **{"x-forwarded-for": address})
        assert answer.status_code == 200, address
        with as_key(database, jwt.decode(answer.json()["access_token"], options={"verify_signature": False}), address):
            pass
    everything = make_key(functions, "CRM_READ", networks=["::/0"])["key"]
    refused(post(functions, TOKEN, everything, **{"x-forwarded-for": "::ffff:192.0.2.7"}), 401, "invalid_api_key")


def test_network_with_a_zone_is_refused(functions: Serving) -> None:
    wish = {"name": "Zone", "scopes": ["CRM_READ"], "networks": ["fe80::1%eth0"]}
    with functions.client("admin") as client:
        refused(client.post(CREATE, json=wish), 422, "invalid_body")


def test_attack_platform_admin_key_reaches_another_organization(functions: Serving, database: Database) -> None:
    claims = claims_of_key(functions, make_key(functions, "CRM_READ", "ORGANIZATION_READ")["key"])
    with database.connect() as connection:
        connection.execute("update public.users set global_role = 'SUPER_ADMIN' where id = %s", [PEOPLE["admin"]])
    try:
        with as_key(database, claims) as cursor:
            assert cursor.execute("select private.is_admin(), private.is_super_admin()").fetchone() == (False, False)
            cursor.execute("select set_config('request.headers', %s, true)", [json.dumps({"x-org-id": str(GLOBEX)})])
            assert cursor.execute("select id from public.organizations").fetchall() == []
    finally:
        with database.connect() as connection:
            connection.execute("update public.users set global_role = 'USER' where id = %s", [PEOPLE["admin"]])


def test_expired_key_is_rejected(functions: Serving, database: Database) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = make_key(functions, "CRM_READ", expires_at=soon)
    assert post(functions, TOKEN, made["key"]).status_code == 200
    with database.connect() as connection:
        connection.execute("update public.api_keys set expires_at = now() where id = %s", [made["id"]])
    refused(post(functions, TOKEN, made["key"]), 401, "invalid_api_key")


def test_rotated_key_expires_when_asked_to(functions: Serving) -> None:
    made = make_key(functions, "CRM_READ")
    later = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    with functions.client("admin") as client:
        past = {"key_id": made["id"], "expires_at": "2020-01-01T00:00:00Z"}
        refused(client.post(f"{CREATE}/rotate", json=past), 422, "PT422")
        first = client.post(f"{CREATE}/rotate", json={"key_id": made["id"], "expires_at": later}).json()
        second = client.post(f"{CREATE}/rotate", json={"key_id": first["id"]}).json()
    assert datetime.fromisoformat(first["expires_at"]) == datetime.fromisoformat(later)
    assert second["expires_at"] is None


def test_rotated_key_works_beside_its_replacement(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_READ")
    with functions.client("owner") as client:
        replaced = client.post(f"{CREATE}/rotate", json={"key_id": made["id"], "overlap_hours": 2}).json()
        refused(client.post(f"{CREATE}/rotate", json={"key_id": str(uuid4())}), 404, "PT404")
    assert (replaced["name"], replaced["scopes"]) == (made["name"], made["scopes"])
    assert replaced["replaces"]["id"] == made["id"]
    for key in (made["key"], replaced["key"]):
        assert post(functions, TOKEN, key).status_code == 200
    with database.connect() as connection:
        connection.execute("update public.api_keys set expires_at = now() where id = %s", [made["id"]])
    refused(post(functions, TOKEN, made["key"]), 401, "invalid_api_key")
    assert post(functions, TOKEN, replaced["key"]).status_code == 200


def test_attack_pass_the_rate_of_a_key_by_simultaneous_requests(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_READ")
    enter_calls(database, made["id"], 599)
    count = "select private.count_api_call(k, 'token') from public.api_keys k where k.id = %s"
    with database.connect() as first, database.connect() as second, ThreadPoolExecutor(1) as thread:
        first.autocommit = False
        first.execute(count, [made["id"]])
        refusal = thread.submit(lambda: second.execute(count, [made["id"]]))
        # Without a lock the second one would not wait, and count 600 as well.
        wait_for(lambda: refusal.done() or is_blocked(database, second.info.backend_pid))
        first.commit()
        with pytest.raises(psycopg.Error, match="too many requests"):
            refusal.result()


def enter_calls(database: Database, key: str, times: int) -> None:
    """Calls of this minute, also if the next one begins meanwhile."""
    with database.connect() as connection:
        connection.execute(
            "insert into private.usage_entries"
            " (organization_id, api_key_id, resource_type, resource_name, usage_amount, used_at)"
            " select %s, %s, 'API_CALLS', 'token', 1, now() + interval '1 minute' from generate_series(1, %s)",
            [ACME, key, times],
        )


def is_blocked(database: Database, pid: int) -> bool:
    with database.connect() as connection:
        return connection.execute("select where pg_blocking_pids(%s) <> '{}'", [pid]).rowcount == 1


def test_key_beyond_its_rate_waits(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_READ")
    enter_calls(database, made["id"], 600)
    answer = post(functions, TOKEN, made["key"])
    refused(answer, 429, "PT429")
    with database.connect() as connection:
        left = connection.execute("select 60 - extract(second from clock_timestamp())").fetchone()
    assert left
    # Until the next minute, in which the request may have been answered.
    assert (int(answer.headers["retry-after"]) - left[0]) % 60 < 10


def test_attack_guessed_and_malformed_keys(functions: Serving) -> None:
    key = new_key(live=False)
    for guess in (key, key[:-1] + ("0" if key[-1] != "0" else "1"), "strive_live_", "strive_test_" + "é" * 48):
        with functions.client(None) as client:
            sent = {b"authorization": b"Bearer " + guess.encode()}
            refused(client.post(TOKEN, json={}, headers=sent), 401, "invalid_api_key")
    # A token of a key is no token of a person.
    claims = claims_of_key(functions, make_key(functions, "CRM_WRITE")["key"])
    forged = token("admin", **{name: claims[name] for name in ("role", "session_id", "api_key_id", "scopes")})
    with functions.client(None, authorization=f"Bearer {forged}") as client:
        refused(client.post(CREATE, json={"name": "More", "scopes": ["CRM_READ"]}), 401, "invalid_token")


def test_attack_take_over_an_account_with_a_key_token(platform: Platform) -> None:
    admin = platform.person(member_of=platform.organization(), org_role="ADMIN")
    made = admin.call("create-api-key", name="Zapier", scopes=["CRM_WRITE"]).json()
    exchanged = platform.client(token=made["key"]).post("/functions/v1/token", json={})
    assert exchanged.status_code == 200, exchanged.text
    http = platform.client(token=exchanged.json()["access_token"])
    for change in ({"password": "correct-horse-2"}, {"email": f"{uuid4().hex}@platform.test"}):
        assert http.put("/auth/v1/user", json=change).status_code == 403
    assert http.get("/auth/v1/user").status_code == 403
    assert http.get("/rest/v1/leads").json() == []
    org = made["id"] and platform.sql("select organization_id from public.api_keys where id = %s", made["id"])[0][0]
    assert http.post("/rest/v1/leads", json={"organization_id": str(org), "name": "Ada"}).status_code == 201
    assert http.get("/rest/v1/notifications").status_code == 403
    assert http.post("/rest/v1/rpc/my_account").status_code == 403
    assert http.post("/rest/v1/rpc/search_crm", json={"query": "Ada"}).json()[0]["kind"] == "lead"
    assert http.get("/storage/v1/object/attachments/x").status_code >= 400
