"""System alerts on the whole stack through supabase-py, for each role."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from postgrest.exceptions import APIError

from supabase import Client
from tests.conftest import Strive
from tests.support.platform import PASSWORD, connect

SignIn = Callable[[str], Client]
CROWD = ["owner@acme.test", "admin@acme.test", "member@acme.test", "viewer@acme.test", "owner@globex.test"]


@pytest.fixture(scope="module")
def signed_in(stack: Strive) -> Iterator[SignIn]:
    clients: dict[str, Client] = {}
    with ExitStack() as closing:

        def client(email: str) -> Client:
            if email not in clients:
                clients[email] = connect(stack, closing.enter_context(httpx.Client(timeout=30)))
                clients[email].auth.sign_in_with_password({"email": email, "password": PASSWORD})
            return clients[email]

        yield client


@pytest.fixture(scope="module")
def admin(signed_in: SignIn) -> Client:
    return signed_in("admin@strive.test")


@pytest.fixture(scope="module")
def member(signed_in: SignIn) -> Client:
    return signed_in("member@acme.test")


def announce(admin: Client, **columns: Any) -> str:
    written = {"title": str(uuid4()), "message": "Tonight", "category": "MAINTENANCE", "is_global": True, **columns}
    rows: Any = admin.table("system_alerts").insert(written).execute().data
    return str(rows[0]["id"])


def shown(client: Client) -> list[str]:
    rows: Any = client.rpc("active_alerts").execute().data
    return [row["id"] for row in rows]


def call(client: Client, operation: str, alert: str) -> Any:
    return client.rpc(operation, {"alert_id": alert}).execute().data


def refused(client: Client, operation: str, alert: str) -> tuple[str | None, str | None]:
    with pytest.raises(APIError) as caught:
        call(client, operation, alert)
    return caught.value.code, caught.value.message


def organization(client: Client, email: str) -> str:
    """The one in which this person of the demo data is."""
    rows: Any = client.table("users").select("organization_members(organization_id)").eq("email", email).execute().data
    return str(rows[0]["organization_members"][0]["organization_id"])


def test_attack_read_the_targets_of_an_alert(admin: Client, member: Client, signed_in: SignIn) -> None:
    acme, globex = (organization(signed_in(email), email) for email in ("member@acme.test", "member@globex.test"))
    both, theirs = (announce(admin, is_global=False, target_orgs=orgs) for orgs in ([acme, globex], [globex]))
    assert member.table("system_alerts").select("*").execute().data == []
    assert member.table("system_alerts").select("id,target_orgs,created_by", count="exact").execute().count == 0  # type: ignore[arg-type]
    alerts: Any = member.rpc("active_alerts").execute().data
    assert both in {row["id"] for row in alerts}
    assert theirs not in {row["id"] for row in alerts}
    assert globex not in str(alerts)
    assert not {"target_orgs", "target_users", "target_roles", "target_tiers", "created_by", "view_count"} & {
        *alerts[0]
    }
    for operation in ("dismiss_alert", "mark_alert_viewed"):
        assert refused(member, operation, theirs) == refused(member, operation, str(uuid4()))
    whole: Any = admin.table("system_alerts").select("*").eq("id", both).execute().data
    assert whole[0]["target_orgs"] == [acme, globex]


def test_visible_alerts_can_be_filtered_and_ordered(admin: Client, member: Client) -> None:
    alert = announce(admin, level="ERROR", category="SECURITY")
    rows: Any = member.rpc("active_alerts").select("id,level").eq("level", "ERROR").eq("id", alert).execute().data
    assert rows == [{"id": alert, "level": "ERROR"}]


def test_newest_first(admin: Client, member: Client) -> None:
    old, new, middle = (announce(admin, starts_at=f"2026-01-{day:02}") for day in (1, 3, 2))
    assert [alert for alert in shown(member) if alert in {old, new, middle}] == [new, middle, old]


def test_alert_is_shown_only_while_active_and_in_time(admin: Client, member: Client) -> None:
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    on = announce(admin, starts_at=str(now - minute), ends_at=str(now + minute))
    hidden = [
        announce(admin, starts_at=str(now + minute)),
        announce(admin, starts_at=str(now - 2 * minute), ends_at=str(now - minute)),
        announce(admin, is_active=False),
        announce(admin, is_archived=True),
    ]
    assert on in shown(member)
    assert not {*hidden} & {*shown(member)}
    for alert in hidden:
        assert refused(member, "mark_alert_viewed", alert) == ("PT404", "There is no such alert for you")
    admin.table("system_alerts").update({"is_archived": True}).eq("id", on).execute()
    assert on not in shown(member)
    with pytest.raises(APIError, match="ends_at is after starts_at"):
        announce(admin, starts_at=str(now), ends_at=str(now))


def test_permanent_alert_cannot_be_dismissed(admin: Client, member: Client) -> None:
    alert = announce(admin, is_dismissible=False)
    assert refused(member, "dismiss_alert", alert) == ("PT422", "This alert cannot be dismissed")
    with pytest.raises(APIError, match="row-level security"):
        member.table("system_alert_dismissals").insert({"alert_id": alert}).execute()
    assert alert in shown(member)


def test_a_dismissal_is_for_good_and_for_one_person(admin: Client, member: Client, signed_in: SignIn) -> None:
    alert = announce(admin)
    assert [call(member, "dismiss_alert", alert) for _ in range(2)] == [True, False]
    assert alert not in shown(member)
    assert alert in shown(signed_in("owner@acme.test"))


def test_a_crowd_is_counted_exactly(admin: Client, signed_in: SignIn) -> None:
    """Everybody looks and dismisses several times at once."""
    alert = announce(admin)
    clients = [signed_in(email) for email in CROWD]

    def look(client: Client) -> tuple[bool, bool]:
        return call(client, "mark_alert_viewed", alert), call(client, "dismiss_alert", alert)

    # A client serves one thread at a time.
    with ThreadPoolExecutor(len(clients)) as pool:
        first = list(pool.map(look, clients))
        again = list(pool.map(look, clients))
    assert first == [(True, True)] * len(clients)
    assert again == [(False, False)] * len(clients)
    last = signed_in("member@globex.test")
    look(last)  # adds what the crowd left to the next one
    rows: Any = admin.table("system_alerts").select("view_count,dismiss_count").eq("id", alert).execute().data
    assert rows == [{"view_count": len(clients) + 1, "dismiss_count": len(clients) + 1}]


def test_attack_a_member_makes_changes_or_deletes_alerts(admin: Client, member: Client) -> None:
    alert = announce(admin)
    with pytest.raises(APIError, match="row-level security"):
        announce(member)
    assert member.table("system_alerts").update({"title": "x"}).eq("id", alert).execute().data == []
    assert member.table("system_alerts").delete().eq("id", alert).execute().data == []
    assert alert in shown(member)


def test_anonymous_callers_get_no_alerts(stack: Strive) -> None:
    with httpx.Client() as http, pytest.raises(APIError, match="permission denied"):
        connect(stack, http).rpc("active_alerts").execute()
