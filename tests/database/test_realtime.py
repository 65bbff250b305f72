"""Which changes are announced, and who may join which channel."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from tests.world import ACME, GLOBEX, PEOPLE, Database

ANNOUNCED = {
    "activity_feeds",
    "build_logs",
    "custom_agent_orders",
    "customers",
    "notifications",
    "projects",
    "tasks",
}


def test_exactly_these_tables_announce_their_changes(database: Database) -> None:
    with database.connect() as connection:
        rows = connection.execute(
            "select schemaname || '.' || tablename from pg_publication_tables where pubname = 'supabase_realtime'"
        )
        assert {name for (name,) in rows} == {f"public.{table}" for table in ANNOUNCED}


def test_what_is_announced_is_shown_only_to_whom_policies_show_it(database: Database) -> None:
    with database.connect() as connection:
        unguarded = connection.execute(
            "select p.tablename from pg_publication_tables p"
            " join pg_class c on c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass"
            " where p.pubname = 'supabase_realtime' and not c.relrowsecurity"
        )
        assert unguarded.fetchall() == []


@pytest.fixture(scope="module")
def channels(database: Database) -> Iterator[Database]:
    """What realtime does to find out what somebody may hear: it looks for messages it has put there itself."""
    with database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        yield database
        connection.execute("truncate realtime.messages")


def hears(database: Database, person: str | None, topic: str, org: UUID | None = None) -> bool:
    with database.acting_as(person, org=org) as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        heard = cursor.execute("select from realtime.messages").rowcount
        assert heard in {0, 2}
        return bool(heard)


def says(database: Database, person: str | None, topic: str, extension: str) -> bool:
    with database.acting_as(person) as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        try:
            cursor.execute("insert into realtime.messages (topic, extension) values (%s, %s)", [topic, extension])
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True


EVERYONE = [*PEOPLE, None]
OF_ACME = {"owner", "admin", "member", "viewer"}


def test_an_organisations_channel_is_heard_by_its_members_and_platform_admins(channels: Database) -> None:
    heard = {person for person in EVERYONE if hears(channels, person, f"org:{ACME}:tasks")}
    assert heard == OF_ACME | {"platform_admin", "super_admin"}


def test_members_broadcast_in_their_organisation(channels: Database) -> None:
    said = {person for person in EVERYONE if says(channels, person, f"org:{ACME}:tasks", "broadcast")}
    assert said == OF_ACME - {"viewer"}


def test_every_member_says_they_are_present_and_only_on_the_presence_channel(channels: Database) -> None:
    said = {person for person in EVERYONE if says(channels, person, f"org:{ACME}:presence", "presence")}
    assert said == OF_ACME
    assert not says(channels, "member", f"org:{ACME}:tasks", "presence")


def test_a_users_channel_is_theirs_alone(channels: Database) -> None:
    topic = f"user:{PEOPLE['member']}:notifications"
    assert {person for person in EVERYONE if hears(channels, person, topic)} == {"member"}
    assert {person for person in EVERYONE if says(channels, person, topic, "broadcast")} == {"member"}


def test_a_suspended_user_does_not_hear_even_their_own_channel(channels: Database) -> None:
    assert not hears(channels, "suspended", f"user:{PEOPLE['suspended']}:notifications")


def test_somebody_in_two_organisations_hears_both_whichever_the_request_names(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        connection.execute(
            "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, 'VIEWER')",
            [PEOPLE["member"], GLOBEX],
        )
    for org in (ACME, GLOBEX):
        assert hears(fresh_database, "member", f"org:{GLOBEX}:tasks", org=org)
    assert not says(fresh_database, "member", f"org:{GLOBEX}:tasks", "broadcast")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "org",
        "org:",
        f"org:{ACME}",
        f"org:{ACME}:",
        f"ORG:{ACME}:tasks",
        f"org:{str(ACME).upper()}:tasks",
        f" org:{ACME}:tasks",
        f"org:{ACME}' or true:tasks",
        f"user:{ACME}:tasks",
        f"x\norg:{ACME}:tasks",
        "org:*:tasks",
        "org:00000000-0000-0000-0000-000000000000:tasks",
        f"realtime:org:{ACME}:tasks",
        "tasks",
    ],
)
def test_attack_a_topic_that_is_none_of_ours(channels: Database, topic: str) -> None:
    assert not hears(channels, "member", topic)
    assert not says(channels, "member", topic, "broadcast")
    assert not says(channels, "member", topic, "presence")
