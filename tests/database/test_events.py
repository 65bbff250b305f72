"""Events: the catalog and its document, preferences, and who is notified of what."""

import json
import re
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local import ROOT
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database

DOCUMENT = ROOT / "docs/notifications.md"


def marks(row: dict[str, Any]) -> str:
    named = {
        "always": row["is_mandatory"],
        "actor": row["reaches_actor"],
        "anyone": not row["needs_membership"],
        "no webhook": not row["is_webhook"],
    }
    return ", ".join(name for name, applies in named.items() if applies)


def test_document_lists_the_catalogue(database: Database) -> None:
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute("select * from private.event_kinds order by kind").fetchall()
    expected = [
        " | ".join(
            [
                f"| `{row['kind']}`",
                row["description"],
                "yes" if row["in_app"] else "no",
                row["email"],
                f"{marks(row)} |",
            ]
        )
        for row in rows
    ]
    listed = re.findall(r"^\| `\w+\.\w+\.\w+` \| .*$", DOCUMENT.read_text(), re.MULTILINE)
    assert listed == expected


def publish(connection: Connection, kind: str, *people: str, key: str | None = None, org: Any = ACME) -> int:
    row = connection.execute(
        "select private.publish_event(%s, %s, 'lead', null, 'Title', 'Message', %s, dedupe_key => %s)",
        [kind, org, [PEOPLE[name] for name in people], key],
    ).fetchone()
    assert row
    return int(row[0])


def received(connection: Connection, kind: str) -> dict[str, tuple[bool, str | None]]:
    """Person → whether a notification was written, and the state of the e-mail."""
    names = {id_: name for name, id_ in PEOPLE.items()}
    app = connection.execute("select user_id from public.notifications where kind = %s", [kind]).fetchall()
    mail = dict(connection.execute("select user_id, status from private.emails where kind = %s", [kind]).fetchall())
    people = {id_ for (id_,) in app}
    return {names[id_]: (id_ in people, mail.get(id_)) for id_ in people | set(mail)}


def choose(database: Database, person: str, kind: str, *choice: Any, call: str = "preference") -> None:
    with database.acting_as(person, commit=True) as cursor:
        cursor.execute(f"select public.set_notification_{call}(%s, %s, %s)", [kind, *choice])


def test_preferences_decide_how_an_event_arrives(fresh_database: Database) -> None:
    kind = "crm.deal.won"
    choose(fresh_database, "admin", kind, None, "NOW", call="default")
    choose(fresh_database, "member", kind, False, None)
    choose(fresh_database, "viewer", kind, None, "DIGEST")
    choose(fresh_database, "owner", kind, False, "OFF")
    with fresh_database.connect() as connection:
        assert (
            publish(connection, kind, "owner", "admin", "member", "viewer", "viewer", "outsider", "globex_owner") == 3
        )
        assert received(connection, kind) == {
            "admin": (True, "QUEUED"),
            "member": (False, "QUEUED"),
            "viewer": (True, "HELD"),
        }
    with fresh_database.acting_as("member") as cursor:
        settings = cursor.execute("select * from public.notification_settings() where kind = %s", [kind]).fetchone()
        assert settings
        assert (settings["in_app"], settings["email"], settings["is_own_choice"]) == (False, "NOW", True)
        assert (settings["default_in_app"], settings["default_email"]) == (True, "NOW")
    choose(fresh_database, "member", kind, None, None)
    with fresh_database.connect() as connection:
        publish(connection, kind, "member")
        assert received(connection, kind)["member"] == (True, "QUEUED")


@pytest.mark.parametrize(
    ("call", "person", "kind", "code"),
    [
        ("preference", "owner", "billing.payment.failed", "PT422"),
        ("default", "owner", "organization.member.removed", "PT422"),
        ("preference", "member", "crm.lead.eaten", "PT404"),
        ("preference", None, "crm.lead.assigned", "42501"),
        ("preference", "suspended", "crm.lead.assigned", "PT403"),
        ("default", "member", "crm.lead.assigned", "42501"),
    ],
)
def test_setting_is_refused(database: Database, call: str, person: str | None, kind: str, code: str) -> None:
    with database.acting_as(person) as cursor, pytest.raises(psycopg.Error) as caught:
        cursor.execute(f"select public.set_notification_{call}(%s, null, 'OFF')", [kind])
    assert caught.value.sqlstate == code


def test_nobody_is_notified_of_their_own_action(database: Database) -> None:
    claims = json.dumps({"sub": str(PEOPLE["member"])})
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        assert publish(connection, "crm.lead.assigned", "member", "admin") == 1
        assert publish(connection, "organization.export.ready", "member") == 1
        assert received(connection, "crm.lead.assigned") == {"admin": (True, "QUEUED")}


def test_removed_member_is_mailed_and_not_notified_in_app(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        publish(connection, "organization.member.removed", "removed", "globex_owner")
        assert received(connection, "organization.member.removed") == {
            "removed": (False, "QUEUED"),
            "globex_owner": (False, "QUEUED"),
        }


def test_unknown_kind_is_refused(fresh_database: Database) -> None:
    with fresh_database.connect() as connection, pytest.raises(psycopg.Error, match="no event"):
        publish(connection, "crm.lead.eaten", "member")


def test_dedupe_key_publishes_once_even_concurrently(fresh_database: Database) -> None:
    with fresh_database.connect() as first, fresh_database.connect() as second:
        second.execute("set lock_timeout = '100ms'")
        with first.transaction():
            assert publish(first, "work.task.due", "member", key="a") == 1
            with pytest.raises(psycopg.errors.LockNotAvailable):
                publish(second, "work.task.due", "member", key="a")
        assert publish(second, "work.task.due", "member", key="a") == 0
        assert publish(second, "work.task.due", "member", key="b") == 1
        assert publish(second, "work.task.overdue", "member", key="a") == 1
        with first.transaction(force_rollback=True):
            publish(first, "work.task.due", "member", key="c")
        assert publish(second, "work.task.due", "member", key="c") == 1


def test_attack_publish_events_or_read_the_outbox_as_a_client(database: Database) -> None:
    statements = [
        "select private.publish_event('crm.deal.won', null, null, null, 'a', 'b', '{}')",
        "select private.publish_events('{}')",
        "select * from private.emails",
        "select * from private.notification_preferences",
    ]
    for person in ("owner", "super_admin", None):
        for statement in statements:
            with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
                cursor.execute(statement)


def test_choices_of_one_organization_do_not_reach_another(fresh_database: Database) -> None:
    choose(fresh_database, "globex_owner", "crm.lead.assigned", False, "OFF", call="default")
    with fresh_database.connect() as connection:
        assert publish(connection, "crm.lead.assigned", "member") == 1
        assert publish(connection, "crm.lead.assigned", "globex_member", org=GLOBEX) == 0


def test_times_are_in_the_time_zone_of_each_recipient(database: Database) -> None:
    zones = {"member": ("Europe/Berlin", "de-DE"), "admin": ("America/New_York", "en-US"), "owner": ("UTC", "en")}
    with database.connect() as connection, connection.transaction(force_rollback=True):
        for who, chosen in zones.items():
            connection.execute(
                "update public.users set time_zone = %s, locale = %s where id = %s", [*chosen, PEOPLE[who]]
            )
        connection.execute(
            "select private.publish_event('work.task.due', %s, 'task', null, 'T', 'Due on {at}.', %s, %s)",
            [ACME, [PEOPLE[who] for who in zones], json.dumps({"at": "2026-07-01T18:05:00Z"})],
        )
        shown = dict(connection.execute("select user_id, message from public.notifications").fetchall())
        mailed = dict(connection.execute("select user_id, content ->> 'message' from private.emails").fetchall())
    assert shown == mailed
    assert {who: shown[PEOPLE[who]] for who in zones} == {
        "member": "Due on Wed, 1 Jul 2026, 20:05 (Europe/Berlin).",
        "admin": "Due on Wed, Jul 1, 2026, 2:05 PM (America/New_York).",
        "owner": "Due on Wed, 1 Jul 2026, 18:05 (UTC).",
    }


@pytest.mark.parametrize("zone", ["Mars/Olympus", "EST5EDT4,M3", "posix/UTC", "europe/berlin", "", "x" * 100])
def test_unknown_time_zone_is_refused(database: Database, zone: str) -> None:
    with database.acting_as("viewer") as cursor:
        mine = [PEOPLE["viewer"]]
        cursor.execute("update public.users set time_zone = 'Asia/Tokyo', locale = 'ja' where id = %s", mine)
        with pytest.raises(psycopg.Error) as caught:
            cursor.execute("update public.users set time_zone = %s where id = %s", [zone, *mine])
        assert caught.value.sqlstate == "PT422"
        assert (caught.value.diag.message_detail or "").startswith("Found ")
