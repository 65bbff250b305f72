"""Idempotency: one key, one effect, one response."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from httpx import Response

from tests.support.responses import refused
from tests.support.serving import ENTRY, Serving
from tests.support.world import ACME, PEOPLE, Database


def recorded(database: Database, title: str) -> int:
    with database.connect() as connection:
        row = connection.execute("select count(*) from public.activity_feeds where title = %s", [title]).fetchone()
        assert row
        return int(row[0])


def test_repeated_request_gets_the_stored_result(functions: Serving, database: Database) -> None:
    first = functions.record(ENTRY | {"title": "again"}, **{"idempotency-key": "again"})
    second = functions.record(ENTRY | {"title": "again"}, **{"idempotency-key": "again"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert recorded(database, "again") == 1


def test_the_same_key_with_another_request_is_422(functions: Serving, database: Database) -> None:
    functions.record(ENTRY | {"title": "one"}, **{"idempotency-key": "two bodies".replace(" ", "-")})
    other = functions.record(ENTRY | {"title": "other"}, **{"idempotency-key": "two-bodies"})
    refused(other, 422, "PT422")
    elsewhere = functions.record(ENTRY | {"title": "one"}, **{"idempotency-key": "two-bodies", "x-org-id": str(ACME)})
    refused(elsewhere, 422, "PT422")
    assert recorded(database, "other") == 0


def test_without_a_key_every_request_counts(functions: Serving, database: Database) -> None:
    for _ in range(2):
        functions.record(ENTRY | {"title": "every time"})
    assert recorded(database, "every time") == 2


def test_concurrent_requests_with_one_key_have_one_effect(functions: Serving, database: Database) -> None:
    def attempt(_: int) -> bytes:
        answer = functions.record(ENTRY | {"title": "at once"}, **{"idempotency-key": "at-once"})
        assert answer.status_code == 201, answer.text
        return answer.content

    with ThreadPoolExecutor(12) as pool:
        answers = set(pool.map(attempt, range(24)))
    assert len(answers) == 1
    assert recorded(database, "at once") == 1


def test_refused_request_does_not_use_its_key(functions: Serving, database: Database) -> None:
    missing = {"type": "CALL", "title": "nobody", "lead_id": "00000000-0000-4000-8000-000000000000"}
    refused(functions.record(missing, **{"idempotency-key": "refused"}), 404, "PT404")
    refused(functions.record(missing, **{"idempotency-key": "refused"}), 404, "PT404")
    assert functions.record(ENTRY | {"title": "after"}, **{"idempotency-key": "refused"}).status_code == 201
    assert recorded(database, "after") == 1


def test_attack_read_a_response_with_a_foreign_key(functions: Serving) -> None:
    theirs = functions.record(person="member", **{"idempotency-key": "shared"})
    mine = functions.record(person="owner", **{"idempotency-key": "shared"})
    assert mine.status_code == 201
    assert mine.json()["feed_id"] != theirs.json()["feed_id"]


def test_expired_idempotency_key_can_be_reused(functions: Serving, database: Database) -> None:
    functions.record(ENTRY | {"title": "old"}, **{"idempotency-key": "expires"})
    with database.connect() as connection:
        connection.execute("update private.idempotency_keys set expires_at = now() where key = 'expires'")
    assert functions.record(ENTRY | {"title": "new"}, **{"idempotency-key": "expires"}).status_code == 201
    assert recorded(database, "new") == 1
    with database.connect() as connection:
        assert connection.execute("select private.forget_expired_keys()").fetchone() == (0,)
        connection.execute("update private.idempotency_keys set expires_at = now() where key = 'expires'")
        assert connection.execute("select private.forget_expired_keys()").fetchone() == (1,)


def test_suspended_user_gets_no_stored_result(functions: Serving, database: Database) -> None:
    functions.record(person="admin", **{"idempotency-key": "suspended-later"})
    with database.connect() as connection:
        connection.execute("update public.users set suspended_at = now() where id = %s", [PEOPLE["admin"]])
        try:
            answer = functions.record(person="admin", **{"idempotency-key": "suspended-later"})
        finally:
            connection.execute("update public.users set suspended_at = null where id = %s", [PEOPLE["admin"]])
    refused(answer, 403, "user_suspended")


@pytest.mark.parametrize("role", ["authenticated", "anon", "service_role", "authenticator"])
def test_attack_call_the_claims_function(database: Database, role: str) -> None:
    """Only the login of the functions may name the caller; API callers may not."""
    for call in (
        "private.enter_once('{}', '{}', 'a', 'b', '')",
        "private.remember('a', 'b', '', '{}')",
    ):
        with database.connect("authenticator") as connection:
            if role != "authenticator":
                connection.execute(f"set role {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select {call}")


def test_login_of_the_functions_does_not_bypass_rls(database: Database) -> None:
    with database.connect() as connection:
        row = connection.execute(
            "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,"
            " array(select m.roleid::regrole::text from pg_auth_members m where m.member = o.oid)"
            " from pg_roles o where rolname = 'strive_functions'"
        ).fetchone()
    assert row == (False, False, False, False, False, ["authenticated", "strive_api_key"])


def test_attack_store_results_without_end(functions: Serving, database: Database) -> None:
    """At the limit of its plan, an effect is undone with its refusal; others, and other organizations, go on."""

    def record(title: str, person: str = "admin") -> Response:
        return functions.record(ENTRY | {"title": title}, person, **{"idempotency-key": title})

    assert record("first").status_code == 201
    stored = "update private.idempotency_keys set {} where owner = %s and key = %s"
    for change in ("ordinal = ordinal + 999999", "bytes = bytes + 4096000000"):
        with database.connect() as connection:
            assert record("last").status_code == 201
            connection.execute(stored.format(change), [str(PEOPLE["admin"]), "last"])
        answer = refused(record("beyond"), 429, "PT429")
        assert answer.headers["retry-after"] == "3600"
        assert "Up to 1000000 are" in answer.json()["hint"]
        assert recorded(database, "beyond") == 0
        assert functions.record(ENTRY | {"title": "without"}, "admin").status_code == 201
        assert record("of-another-person", "member").status_code == 201
        assert record("last").headers["idempotency-replayed"] == "true"
        with database.connect() as connection:
            connection.execute("delete from private.idempotency_keys where key = 'last'")
        assert record("beyond" + change[0]).status_code == 201


def test_attack_hold_the_lock_of_others_by_a_crafted_key(database: Database) -> None:
    """The hash of Postgres can be inverted: a key could have the lock of any job, for minutes of an import."""
    with database.connect() as owner, owner.transaction(force_rollback=True):
        owner.execute("select private.enter_once('{\"sub\": \"a\", \"role\": \"authenticated\"}', '{}', 'b', 'c', '')")
        of_text = owner.execute("select hashtextextended(concat_ws(chr(31), 'a', 'b', 'c'), 0)").fetchone()
        held = owner.execute(
            "select (classid::bigint << 32) | objid::bigint from pg_locks where locktype = 'advisory' and objsubid = 1"
            " and pid = pg_backend_pid()"
        ).fetchall()
    assert len(held) == 1
    assert of_text not in held
