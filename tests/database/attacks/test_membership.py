"""Attacks on roles, memberships and invitations."""

from hashlib import sha256

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.database.attacks.race import Attempt, both
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, claims_of


def test_attack_members_raise_their_own_role(database: Database) -> None:
    for person in ("viewer", "member"):
        with database.acting_as(person) as cursor:
            cursor.execute(
                "update public.organization_members set role = 'OWNER', permissions = '{all}' where user_id = %s",
                [PEOPLE[person]],
            )
            assert cursor.rowcount == 0


@pytest.mark.parametrize(
    "statement",
    [
        "update public.organization_members set role = 'OWNER' where user_id = '{viewer}'",
        "update public.organization_members set role = 'VIEWER' where user_id = '{owner}'",
        "delete from public.organization_members where user_id = '{owner}'",
        """insert into public.organization_invitations (organization_id, email, role, token_hash)
        values ('{acme}', 'accomplice@strive.test', 'OWNER', 'x')""",
        "select public.create_invitation('accomplice@strive.test', 'OWNER')",
        """insert into public.organization_members (user_id, organization_id, role)
        values ('{admin}', '{acme}', 'OWNER') on conflict (user_id, organization_id) do update set role = 'OWNER'""",
    ],
)
def test_attack_an_admin_reaches_above_itself(database: Database, statement: str) -> None:
    with database.acting_as("admin") as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute(statement.format(acme=ACME, **PEOPLE))


@pytest.mark.parametrize("column", ["user_id", "organization_id", "joined_at"])
def test_attack_move_a_membership(database: Database, column: str) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute(f"update public.organization_members set {column} = {column}")


def test_attack_join_an_organization_without_an_invitation(database: Database) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute(
            "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, 'OWNER')",
            [PEOPLE["owner"], GLOBEX],
        )


def test_attack_sign_an_invitation_with_another_name(database: Database) -> None:
    with database.acting_as("admin") as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute(
            "insert into public.organization_invitations (organization_id, email, token_hash, invited_by)"
            " values (%s, 'a@b.test', 'x', %s)",
            [ACME, PEOPLE["owner"]],
        )


def second_owner(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(
            "update public.organization_members set role = 'OWNER' where user_id = %s", [PEOPLE["admin"]]
        )


@pytest.mark.parametrize("isolation", ["READ_COMMITTED", "REPEATABLE_READ", "SERIALIZABLE"])
def test_attack_two_owners_leave_at_once(fresh_database: Database, isolation: str) -> None:
    second_owner(fresh_database)

    def leave(connection: Connection) -> None:
        connection.execute("delete from public.organization_members where user_id = auth.uid()")

    assert both(fresh_database, ("owner", leave), ("admin", leave), isolation) in (["done", "PT409"], ["done", "40001"])


def test_attack_two_owners_demote_each_other_at_once(fresh_database: Database) -> None:
    second_owner(fresh_database)

    def demote(whom: str) -> Attempt:
        return lambda connection: connection.execute(
            "update public.organization_members set role = 'VIEWER' where user_id = %s", [PEOPLE[whom]]
        )

    assert both(fresh_database, ("owner", demote("admin")), ("admin", demote("owner"))) == ["done", "PT409"]


def invite(database: Database, person: str, expires: str = "7 days") -> Attempt:
    """An invitation to Acme, and the attempt to accept it."""
    token = f"token of {person}"
    with database.connect() as connection:
        connection.execute(
            "insert into public.organization_invitations"
            " (organization_id, email, token_hash, invited_by, created_at, expires_at)"
            " values (%s, %s, %s, %s, now() - interval '8 days', now() + %s::interval)",
            [ACME, f"{person}@strive.test", sha256(token.encode()).hexdigest(), PEOPLE["admin"], expires],
        )
    return lambda connection: connection.execute("select public.accept_invitation(%s)", [token])


def tried(database: Database, person: str, attempt: Attempt, **claims: object) -> str | None:
    with database.acting_as(person, claims=claims_of(person, **claims)) as cursor:
        try:
            attempt(cursor.connection)
        except psycopg.Error as error:
            return error.sqlstate
    return "done"


def test_attack_accept_an_invitation_meant_for_another_address(fresh_database: Database) -> None:
    accept = invite(fresh_database, "outsider")
    email = "outsider@strive.test"
    assert tried(fresh_database, "removed", accept) == "PT404"
    assert tried(fresh_database, "removed", accept, email=email, user_metadata={"email": email}) == "PT404"
    assert tried(fresh_database, "outsider", accept) == "done"


def test_attack_accept_an_expired_invitation(fresh_database: Database) -> None:
    assert tried(fresh_database, "outsider", invite(fresh_database, "outsider", expires="-1 second")) == "PT410"


@pytest.mark.parametrize(
    "loss",
    [
        "delete from public.organization_members where user_id = %s",
        "update public.organization_members set role = 'MEMBER' where user_id = %s",
        "update public.users set suspended_at = now() where id = %s",
    ],
)
def test_attack_accept_an_invitation_of_a_demoted_inviter(fresh_database: Database, loss: str) -> None:
    accept = invite(fresh_database, "outsider")
    with fresh_database.connect() as connection:
        connection.execute(loss, [PEOPLE["admin"]])
    assert tried(fresh_database, "outsider", accept) == "PT410"


@pytest.mark.parametrize("isolation", ["READ_COMMITTED", "SERIALIZABLE"])
def test_attack_use_one_invitation_concurrently(fresh_database: Database, isolation: str) -> None:
    accept = invite(fresh_database, "outsider")
    outcome = both(fresh_database, ("outsider", accept), ("outsider", accept), isolation)
    assert outcome in (["done", "PT409"], ["done", "40001"])


def test_attack_use_the_last_seat_concurrently(fresh_database: Database) -> None:
    attempts = [invite(fresh_database, person) for person in ("outsider", "removed")]
    with fresh_database.connect() as connection:
        connection.execute(
            "update public.plans set limits = limits || jsonb_build_object('members',"
            " (select count(*) + 1 from public.organization_members where organization_id = %s)) where tier = 'GROWTH'",
            [ACME],
        )
    outcome = both(fresh_database, ("outsider", attempts[0]), ("removed", attempts[1]))
    assert outcome == ["done", "PT402"]
