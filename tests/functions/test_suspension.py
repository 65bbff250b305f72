"""suspend-user, reactivate-user, bulk-admin-action: immediate in the database, synced to Auth, always audited."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from tests.support.platform import Person, Platform
from tests.support.responses import refused
from tests.support.serving import Serving, environment, serving
from tests.support.world import PEOPLE, Database

SPAM = {"reason": "spam"}


@pytest.fixture(scope="module")
def admin(platform: Platform) -> Person:
    return platform.person("ADMIN")


@pytest.fixture(scope="module")
def super_admin(platform: Platform) -> Person:
    return platform.person("SUPER_ADMIN")


@pytest.fixture(scope="module")
def owner(platform: Platform) -> Person:
    return platform.person(member_of=platform.organization(), org_role="OWNER")


def ok(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def test_suspension_takes_effect_on_the_next_request(platform: Platform, admin: Person) -> None:
    member = platform.person(member_of=platform.organization())
    assert ok(member.rpc("my_organizations"))
    response = ok(admin.call("suspend-user", user_id=member.id, **SPAM))
    assert (response["auth"], response["suspended_until"], response["suspended_reason"]) == ("synced", None, "spam")
    assert ok(member.rpc("my_organizations")) == []
    refused(member.http.post("/functions/v1/submit-order", json={"order_id": str(uuid4())}), 403, "user_suspended")
    assert platform.refresh(member).json()["error_code"] == "user_banned"
    signed_in = platform.sign_in(member)
    assert (signed_in.status_code, signed_in.json()["error_code"]) == (400, "user_banned")
    (entry,) = platform.log(member.id)
    assert (entry["action"], entry["success"], entry["admin_id"]) == ("USER_SUSPEND", True, admin.id)
    assert entry["metadata"]["reason"] == "spam"

    response = ok(admin.call("reactivate-user", user_id=member.id))
    assert (response["auth"], response["suspended_at"], response["is_active"]) == ("synced", None, True)
    assert ok(member.rpc("my_organizations"))
    assert platform.sign_in(member).status_code == 200
    assert [line["action"] for line in platform.log(member.id)] == ["USER_SUSPEND", "USER_UPDATE"]


def test_suspension_expires_in_auth_too(platform: Platform, admin: Person) -> None:
    member = platform.person()
    ok(admin.call("suspend-user", user_id=member.id, until="2100-01-01T00:00:00Z", **SPAM))
    ((banned,),) = platform.sql("select banned_until::text from auth.users where id = %s", member.id)
    assert banned[:10] in {"2099-12-31", "2100-01-01"}


def test_second_suspension_updates_reason_and_end(platform: Platform, admin: Person) -> None:
    member = platform.person()
    first = ok(admin.call("suspend-user", user_id=member.id, **SPAM))
    again = ok(admin.call("suspend-user", user_id=member.id, reason="fraud", until="2100-01-01T00:00:00Z"))
    assert again["suspended_at"] == first["suspended_at"]
    assert (again["suspended_reason"], again["suspended_until"][:4]) == ("fraud", "2100")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"reason": ""}, 422, "invalid_body"),
        ({"reason": "x" * 501}, 422, "invalid_body"),
        ({"reason": "  "}, 422, "PT422"),
        ({"reason": "spam", "until": "2020-01-01T00:00:00Z"}, 422, "PT422"),
        ({"reason": "spam", "until": "2100-01-01T00:00:00"}, 422, "invalid_body"),
        ({"reason": "spam", "global_role": "SUPER_ADMIN"}, 422, "invalid_body"),
    ],
)
def test_invalid_suspension_is_rejected(
    platform: Platform, admin: Person, owner: Person, body: dict[str, str], status: int, code: str
) -> None:
    refused(admin.call("suspend-user", user_id=owner.id, **body), status, code)
    assert platform.sql("select suspended_at from public.users where id = %s", owner.id) == [(None,)]


def test_failed_operation_is_rolled_back_and_logged(platform: Platform, admin: Person) -> None:
    unknown_user = str(uuid4())
    refused(admin.call("suspend-user", user_id=unknown_user, **SPAM), 404, "PT404")
    (entry,) = platform.log(unknown_user)
    assert (entry["success"], entry["admin_id"]) == (False, admin.id)
    assert entry["error"] == "There is no such user (PT404)"


def test_attack_a_tenants_owner_administers_the_platform(platform: Platform, owner: Person, admin: Person) -> None:
    member = platform.person()
    for function, body in (
        ("suspend-user", SPAM),
        ("reactivate-user", {}),
        ("impersonate-user", SPAM),
    ):
        refused(owner.call(function, user_id=member.id, **body), 403, "42501")
    refused(owner.call("bulk-admin-action", action="set_role", user_ids=[owner.id], role="SUPER_ADMIN"), 403, "42501")
    assert [(line["success"], line["admin_id"]) for line in platform.log(member.id)] == [(False, owner.id)] * 3
    refused(
        platform.anonymous.post("/functions/v1/suspend-user", json={"user_id": admin.id, **SPAM}),
        401,
        "missing_credentials",
    )
    for rpc in ("admin_users", "admin_organizations", "admin_subscriptions", "admin_audit_log"):
        assert owner.rpc(rpc).status_code == 403
    for private in ("suspend_user", "attempt", "do_suspend_user", "settle_auth_syncs"):
        assert owner.rpc(private, suspension={}).status_code == 404


def test_attack_fill_the_log_with_refusals(platform: Platform) -> None:
    pest, target = platform.person(), str(uuid4())
    for _ in range(13):
        refused(pest.call("suspend-user", user_id=target, **SPAM), 403, "42501")
    assert len(platform.log(target)) == 10


def test_attack_an_admin_rises_or_strikes_upwards(platform: Platform, admin: Person, super_admin: Person) -> None:
    peer = platform.person("ADMIN")
    for target in (super_admin, peer):
        refused(admin.call("suspend-user", user_id=target.id, **SPAM), 403, "42501")
    for who in (admin, peer, platform.person()):
        answer = admin.call("bulk-admin-action", action="set_role", user_ids=[who.id], role="SUPER_ADMIN")
        assert answer.status_code in {403, 422}, answer.text
    patched = admin.http.patch(f"/rest/v1/users?id=eq.{admin.id}", json={"global_role": "SUPER_ADMIN"})
    assert patched.status_code == 403
    assert platform.sql("select global_role from public.users where id = %s", admin.id) == [("ADMIN",)]


def test_self_suspension_is_refused(admin: Person, super_admin: Person) -> None:
    for who in (admin, super_admin):
        refused(who.call("suspend-user", user_id=who.id, **SPAM), 422, "PT422")


def test_attack_a_suspended_admin_goes_on(platform: Platform, super_admin: Person) -> None:
    fallen, target = platform.person("ADMIN"), platform.person()
    ok(super_admin.call("suspend-user", user_id=fallen.id, **SPAM))
    refused(fallen.call("suspend-user", user_id=target.id, **SPAM), 403, "42501")
    refused(fallen.call("reactivate-user", user_id=fallen.id), 403, "42501")
    assert fallen.rpc("admin_users").status_code == 403


def test_mutual_suspension_succeeds_once(platform: Platform) -> None:
    for _ in range(3):
        one, two = platform.person("SUPER_ADMIN"), platform.person("SUPER_ADMIN")
        with ThreadPoolExecutor(2) as pool:
            answers = pool.map(
                lambda pair: pair[0].call("suspend-user", user_id=pair[1].id, **SPAM), [(one, two), (two, one)]
            )
        assert sorted(answer.status_code for answer in answers) == [200, 403]


# Many at once


def test_bulk_action_changes_and_logs_each_user(platform: Platform, super_admin: Person) -> None:
    people = [platform.person() for _ in range(3)]
    ids = [person.id for person in people]
    response = ok(super_admin.call("bulk-admin-action", action="suspend", user_ids=[*ids, ids[0]], **SPAM))
    assert (response["auth"], len(response["users"])) == ("synced", 3)
    assert {platform.sign_in(person).status_code for person in people} == {400}
    again = ok(super_admin.call("bulk-admin-action", action="suspend", user_ids=ids, **SPAM))
    assert again["users"] == response["users"]
    ok(super_admin.call("bulk-admin-action", action="reactivate", user_ids=ids))
    assert {platform.sign_in(person).status_code for person in people} == {200}
    ok(super_admin.call("bulk-admin-action", action="set_role", user_ids=ids, role="MODERATOR"))
    assert platform.sql("select distinct global_role from public.users where id = any (%s)", [*map(UUID, ids)]) == [
        ("MODERATOR",)
    ]
    assert [line["action"] for line in platform.log(ids[0])] == ["USER_SUSPEND"] * 2 + ["USER_UPDATE"] * 2


def test_bulk_action_is_all_or_nothing(platform: Platform, admin: Person, super_admin: Person) -> None:
    member = platform.person()
    for wrong, status, code in ((str(uuid4()), 404, "PT404"), (super_admin.id, 403, "42501"), (admin.id, 422, "PT422")):
        answer = refused(
            admin.call("bulk-admin-action", action="suspend", user_ids=[member.id, wrong], **SPAM), status, code
        )
        assert wrong in answer.json()["details"]
        assert "No user was changed" in answer.json()["hint"]
    assert platform.log(member.id) == []
    assert platform.sql("select suspended_at from public.users where id = %s", member.id) == [(None,)]
    failed = platform.sql(
        "select count(*) from public.admin_action_logs where action = 'BULK_ACTION' and admin_id = %s and not success",
        admin.id,
    )
    assert failed[0][0] >= 3


def test_bulk_action_accepts_at_most_100_users(admin: Person) -> None:
    ids = [str(uuid4()) for _ in range(101)]
    refused(admin.call("bulk-admin-action", action="reactivate", user_ids=ids), 422, "invalid_body")
    refused(admin.call("bulk-admin-action", action="reactivate", user_ids=ids[1:]), 404, "PT404")
    refused(admin.call("bulk-admin-action", action="reactivate", user_ids=[]), 422, "invalid_body")
    for body in ({"action": "suspend"}, {"action": "set_role"}, {"action": "reactivate", "role": "ADMIN"}):
        refused(admin.call("bulk-admin-action", user_ids=ids[:1], **body), 422, "invalid_body")


# Auth is unavailable: SUPABASE_URL of these functions has no server.


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("lonely"), environment(database_url)) as running:
        yield running


def sync(database: Database, person: str) -> tuple[Any, ...]:
    with database.connect() as connection:
        row = connection.execute(
            "select banned_until::text, settled_at is not null, attempts, error from private.auth_syncs"
            " where user_id = %s",
            [PEOPLE[person]],
        ).fetchone()
    assert row
    return tuple(row)


def test_suspension_is_pending_while_auth_is_unavailable(lonely: Serving, database: Database) -> None:
    with lonely.client("platform_admin") as admin:
        body = {"user_id": str(PEOPLE["viewer"]), **SPAM}
        answer = ok(admin.post("/functions/v1/suspend-user", json=body))
    assert answer["auth"] == "pending"
    with database.acting_as("viewer") as cursor:
        assert cursor.execute("select private.current_user_id() as me").fetchone() == {"me": None}
    assert sync(database, "viewer")[:3] == ("infinity", False, 1)
    assert "AuthRetryableError" in str(sync(database, "viewer")[3])


def test_job_syncs_auth(platform: Platform, admin: Person) -> None:
    member = platform.person()
    # As through the dashboard of Supabase, without a function.
    platform.sql("update public.users set suspended_at = now(), suspended_reason = 'by hand' where id = %s", member.id)
    assert platform.sign_in(member).status_code == 403  # the hook of the token refuses already
    run = ok(platform.server.post("/functions/v1/sync-auth", json={}))
    assert (run["outcome"], run["result"]["pending"]) == ("DONE", 0)
    assert run["result"]["synced"] >= 1
    assert platform.sign_in(member).json()["error_code"] == "user_banned"
    again = ok(platform.server.post("/functions/v1/sync-auth", json={}))
    assert again["result"] == {"synced": 0, "pending": 0}
    refused(admin.call("sync-auth"), 401, "missing_credentials")


def test_change_during_sync_is_synced_again(database: Database) -> None:
    """The older of two concurrent messages may arrive last."""
    who = PEOPLE["globex_member"]
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("update public.users set suspended_at = now() where id = %s", [who])
        due = connection.execute("select private.due_auth_syncs(array[%s])", [who]).fetchone()
        connection.execute("update public.users set suspended_at = null where id = %s", [who])
        newer = connection.execute("select private.due_auth_syncs(array[%s])", [who]).fetchone()
        assert due
        assert newer
        assert (due[0][0]["seconds"] > 3_000_000_000, newer[0][0]["seconds"]) == (True, 0)

        def settle(done: Any) -> Any:
            row = connection.execute(
                "select private.settle_auth_syncs(%s) -> 'syncs'", [json.dumps({"done": done})]
            ).fetchone()
            return row and row[0]

        assert settle(newer[0]) == []
        assert settle(due[0]) == newer[0]
        assert settle(newer[0]) == []


def test_timed_out_operation_is_logged(database: Database, database_url: str, tmp_path: Path) -> None:
    target = PEOPLE["member"]
    with database.connect() as connection:
        connection.execute("alter role strive_functions set lock_timeout = '8s'")
        connection.execute("alter role strive_functions set statement_timeout = '300ms'")
        try:
            with serving(tmp_path, environment(database_url)) as hasty, connection.transaction():
                connection.execute("select from public.users where id = %s for update", [target])
                with hasty.client("platform_admin") as admin:
                    answer = admin.post("/functions/v1/suspend-user", json={"user_id": str(target), **SPAM})
                refused(answer, 503, "database_busy")
        finally:
            connection.execute("alter role strive_functions set lock_timeout = '5s'")
            connection.execute("alter role strive_functions set statement_timeout = '8s'")
        logged = connection.execute(
            "select success, error from public.admin_action_logs where target_id = %s", [str(target)]
        ).fetchall()
    assert logged == [(False, "database_busy")]


def test_attack_no_more_than_ten_refusals_an_hour_are_logged(functions: Serving, database: Database) -> None:
    def attempt(_: int) -> int:
        with functions.client("outsider") as client:
            body = {"user_id": str(PEOPLE["member"]), **SPAM}
            return client.post("/functions/v1/suspend-user", json=body).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(attempt, range(40))) == {403}
    with database.connect() as connection:
        logged = "select from public.admin_action_logs where admin_id = %s and not success"
        assert connection.execute(logged, [PEOPLE["outsider"]]).rowcount == 10


def test_attack_call_functions_of_the_server(database: Database) -> None:
    for statement in (
        "select private.suspend_user('{}')",
        "select private.attempt('suspend_user', '{}', '')",
        "select private.do_set_role('{}')",
        "select private.settle_auth_syncs('{}')",
        "select private.log_interrupted('{}')",
        "select private.impersonate_user('{}')",
        "select * from private.auth_syncs",
        "select * from private.impersonations",
        "insert into private.impersonations (admin_id, user_id, reason) values (null, null, '')",
    ):
        for person in ("super_admin", "owner", None):
            with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
                cursor.execute(statement)
