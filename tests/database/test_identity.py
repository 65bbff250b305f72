"""The caller, the current organization, and the rights that follow."""

import psycopg
import pytest

from tests.support.world import ACME, GLOBEX, PEOPLE, Database, become, claims_of


def current_org(database: Database, person: str, minimum: str = "VIEWER", **request: object) -> object:
    with database.acting_as(person, **request) as cursor:  # type: ignore[arg-type]
        row = cursor.execute("select private.current_user_org(%s) as org", [minimum]).fetchone()
        assert row
        return row["org"]


def test_single_membership_is_the_current_organization(database: Database) -> None:
    token = claims_of("member", app_metadata={})
    assert current_org(database, "member", claims=token) == ACME


@pytest.mark.parametrize("person", ["outsider", "removed", "suspended", "globex_owner"])
def test_naming_a_foreign_organization_gives_none(database: Database, person: str) -> None:
    assert current_org(database, person, org=ACME) is None


def test_insufficient_role_gives_no_organization(database: Database) -> None:
    assert current_org(database, "viewer", "MEMBER") is None
    assert current_org(database, "member", "MEMBER") == ACME


def test_platform_admin_reads_but_never_writes_in_named_organization(
    database: Database,
) -> None:
    assert current_org(database, "platform_admin", org=GLOBEX) == GLOBEX
    assert current_org(database, "platform_admin", "MEMBER", org=GLOBEX) is None


def test_a_malformed_organization_id_is_a_clear_400(database: Database) -> None:
    with pytest.raises(psycopg.Error, match="x-org-id is not an organization id") as caught:
        current_org(database, "member", org="acme'; drop table users")
    assert caught.value.sqlstate == "PT400"


@pytest.mark.parametrize("column", ["global_role = 'ADMIN'", "is_active = true", "email = 'x@y.z'"])
def test_attack_change_own_authority_columns(database: Database, column: str) -> None:
    with database.acting_as("member") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(f"update public.users set {column} where id = %s", [PEOPLE["member"]])


def test_attack_an_admin_makes_itself_owner(database: Database) -> None:
    with database.acting_as("admin") as cursor, pytest.raises(psycopg.Error, match="above your own"):
        cursor.execute("update public.organization_members set role = 'OWNER' where user_id = %s", [PEOPLE["admin"]])


def test_attack_remove_the_last_owner(database: Database) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(psycopg.Error, match="at least one owner"):
        cursor.execute("delete from public.organization_members where user_id = %s", [PEOPLE["owner"]])


SUSPENSIONS = {
    "suspended_at = now()": None,
    "suspended_at = now(), suspended_until = now() + interval '1 hour'": None,
    "suspended_at = now() - interval '2 hours', suspended_until = now() - interval '1 hour'": ACME,
    "is_active = false": None,
    "suspended_at = null, is_active = true": ACME,
}


@pytest.mark.parametrize("change", SUSPENSIONS)
def test_suspension_applies_from_the_next_statement(database: Database, change: str) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(f"update public.users set {change} where id = %s", [PEOPLE["member"]])
        become(connection, "authenticated", claims_of("member"), {})
        for call in ("private.current_user_org()", "private.current_user_org('MEMBER')"):
            assert connection.execute(f"select {call}").fetchone() == (SUSPENSIONS[change],)


def test_suspended_user_stays_suspended_after_joining(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "insert into public.organization_members (user_id, organization_id) values (%s, %s)",
            [PEOPLE["suspended"], GLOBEX],
        )
        become(connection, "authenticated", claims_of("suspended"), {"x-org-id": str(GLOBEX)})
        assert connection.execute("select private.current_user_org()").fetchone() == (None,)


def test_attack_lift_the_own_suspension(database: Database) -> None:
    with database.acting_as("admin") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute("update public.organization_members set blocked_until = null")
