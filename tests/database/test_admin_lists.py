"""Lists for platform admins only: filtered, and paged without gap or repetition."""

from typing import Any

import psycopg
import pytest

from tests.support.acting import Cursor, now_as, server
from tests.support.world import ACME, MEMBERS, PEOPLE, Database

LISTS = ("admin_users", "admin_organizations", "admin_subscriptions", "admin_audit_log")


def rows(cursor: Cursor, name: str, **arguments: Any) -> list[dict[str, Any]]:
    given = ", ".join(f"{argument} => %s" for argument in arguments)
    return cursor.execute(f"select * from public.{name}({given})", [*arguments.values()]).fetchall()


def emails(cursor: Cursor, **arguments: Any) -> set[str]:
    return {row["email"].partition("@")[0] for row in rows(cursor, "admin_users", **arguments)}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("person", ["owner", "globex_owner", "suspended", "outsider"])
def test_attack_list_the_platform_as_a_tenant(database: Database, name: str, person: str) -> None:
    with database.acting_as(person, org=ACME) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(cursor, name)


def test_every_list_opens_in_the_sql_editor(database: Database) -> None:
    """There is no token in the SQL editor; its login owns the database."""
    with database.connect() as connection:
        lists = connection.execute(
            "select p.oid::regproc::text from pg_proc p where p.pronamespace = 'public'::regnamespace"
            " and p.pronargs = p.pronargdefaults and obj_description(p.oid, 'pg_proc') ~* 'admins'"
        ).fetchall()
        names = {name.removeprefix("public.") for (name,) in lists}
        assert names > {*LISTS, "email_problems", "job_overview", "usage_report"}
        for name in names:
            connection.execute(f"select * from public.{name}()")
        # Claims count more than the login.
        connection.execute("select set_config('request.jwt.claims', %s, false)", ['{"role": "anon"}'])
        for name in names:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from public.{name}()")


def test_users_are_filtered_by_words_role_state_and_organization(database: Database) -> None:
    with server(database) as cursor:
        cursor.execute("update public.users set name = 'Ada 100%%_sure' where id = %s", [PEOPLE["viewer"]])
        now_as(cursor, "platform_admin")
        assert emails(cursor) == set(MEMBERS)
        assert emails(cursor, search="GLOBEX_") == {"globex_owner", "globex_member"}
        assert emails(cursor, search="0%_s") == {"viewer"}
        assert emails(cursor, search="%") == {"viewer"}
        assert emails(cursor, search="\\") == set()
        assert emails(cursor, with_role="SUPER_ADMIN") == {"super_admin"}
        assert emails(cursor, suspended=True) == {"suspended"}
        assert "suspended" not in emails(cursor, suspended=False)
        assert emails(cursor, in_organization=ACME) == {"owner", "admin", "member", "viewer", "suspended"}
        assert emails(cursor, in_organization=ACME, suspended=False, search="er@") == {"owner", "member", "viewer"}


@pytest.mark.parametrize("size", [1, 2, 3, 200])
def test_pages_follow_each_other_without_gap_or_repetition(database: Database, size: int) -> None:
    """All have the same creation time: only the id orders them."""
    with database.acting_as("platform_admin") as cursor:
        all_ids = [row["id"] for row in rows(cursor, "admin_users", page_size=200)]
        seen: list[object] = []
        after: dict[str, object] = {}
        while page := rows(cursor, "admin_users", page_size=size, **after):
            assert len(page) <= size
            seen += [row["id"] for row in page]
            after = {"before_at": page[-1]["created_at"], "before_id": page[-1]["id"]}
        assert seen == all_ids
        assert len(set(seen)) == len(MEMBERS)


@pytest.mark.parametrize("size", [0, -1, 201, None])
@pytest.mark.parametrize("name", LISTS)
def test_a_page_has_bounds(database: Database, name: str, size: int | None) -> None:
    with database.acting_as("platform_admin") as cursor, pytest.raises(psycopg.Error, match="1 to 200") as caught:
        rows(cursor, name, page_size=size)
    assert caught.value.sqlstate == "PT422"


def test_organizations_are_listed_with_their_members_and_owners(database: Database) -> None:
    with database.acting_as("platform_admin") as cursor:
        (acme,) = rows(cursor, "admin_organizations", search="ACM")
        assert (acme["members"], acme["owners"]) == (5, [{"id": str(PEOPLE["owner"]), "email": "owner@strive.test"}])
        assert rows(cursor, "admin_organizations", with_tier="ELITE") == []
        assert len(rows(cursor, "admin_organizations", with_tier="GROWTH", with_status="ACTIVE")) == 2


def test_subscriptions_of_all_organizations_are_listed(database: Database) -> None:
    with server(database) as cursor:
        cursor.execute(
            "insert into public.subscriptions (organization_id, status, tier, billing_cycle, amount_cents,"
            " current_period_end) values (%s, 'ACTIVE', 'ELITE', 'YEARLY', 100, now() + interval '1 year')",
            [ACME],
        )
        now_as(cursor, "platform_admin")
        (found,) = rows(cursor, "admin_subscriptions", with_status="ACTIVE", with_tier="ELITE", with_cycle="YEARLY")
        assert (found["organization"], found["amount_cents"]) == ("Acme", 100)
        assert rows(cursor, "admin_subscriptions", in_organization=ACME) == [found]
        assert rows(cursor, "admin_subscriptions", with_cycle="MONTHLY") == []


def test_audit_log_is_filtered_by_every_field(database: Database) -> None:
    with server(database) as cursor:
        for action, success in (("USER_SUSPEND", True), ("USER_SUSPEND", False), ("DATA_EXPORT", True)):
            cursor.execute(
                "select private.log_admin_action(%s, 'Done', 'user', '7', null, %s, %s, %s)",
                [action, success, None if success else "no", PEOPLE["super_admin"]],
            )
        now_as(cursor, "platform_admin")
        assert len(rows(cursor, "admin_audit_log", by_admin=PEOPLE["super_admin"])) == 3
        (failed,) = rows(cursor, "admin_audit_log", with_action="USER_SUSPEND", with_success=False)
        assert failed["error"] == "no"
        assert len(rows(cursor, "admin_audit_log", with_target_type="user", with_target="7", page_size=2)) == 2
        assert rows(cursor, "admin_audit_log", with_target="8") == []


def test_a_search_among_many_users_uses_an_index(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into auth.users (id, email) select gen_random_uuid(), md5(n::text) || '@many.test'"
            " from generate_series(1, 5000) n"
        )
        connection.execute("analyze public.users; set enable_seqscan = off")
        plan = "\n".join(
            line
            for (line,) in connection.execute(
                "explain select * from public.users u where u.email ilike private.containing('needle')"
                " or u.name ilike private.containing('needle')"
            )
        )
    assert "users_search_idx" in plan
