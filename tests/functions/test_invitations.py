"""Invitations by e-mail: sent, looked at, accepted, resent, revoked, reminded of; seats and roles hold."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.mail_server import Received, mail_server
from tests.support.responses import refused
from tests.support.serving import Serving, serving
from tests.support.world import ACME, PEOPLE, Database

from tests.functions.test_emails import run_job, variables  # isort: skip

NEW = "newcomer@example.test"


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def functions(fresh_database: Database, received: Received, tmp_path: Path) -> Iterator[Serving]:
    with mail_server(received) as smtp, serving(tmp_path, variables(fresh_database, smtp)) as functions:
        yield functions


def invite(functions: Serving, *emails: str, person: str = "admin", **more: Any) -> httpx.Response:
    with functions.client(person) as client:
        body = {"invitations": [{"email": email, **more} for email in emails]}
        return client.post("/functions/v1/invite-member", json=body)


def preview(functions: Serving, token: str) -> httpx.Response:
    with functions.client(None) as client:
        return client.post("/functions/v1/preview-invitation", json={"token": token})


def token_of(received: Received, number: int = -1) -> str:
    text = received.messages[number].get_body(("plain",))
    assert text
    found = re.search(r"https://app\.strive\.test/invitations/(\S+)", text.get_content())
    assert found
    return found[1]


def call(database: Database, person: str, statement: str, *values: Any) -> Any:
    with database.acting_as(person, commit=True) as cursor:
        row = cursor.execute(f"select public.{statement} as it", values).fetchone()
    assert row
    return row["it"]


def test_newcomer_is_mailed_sees_the_invitation_and_joins(
    functions: Serving, received: Received, fresh_database: Database
) -> None:
    answer = invite(functions, NEW.upper(), "outsider@strive.test", "member@strive.test", role="VIEWER").json()
    assert [(each["email"], each["role"]) for each in answer["invited"]] == [
        (NEW, "VIEWER"),
        ("outsider@strive.test", "VIEWER"),
    ]
    assert answer["skipped"] == [{"email": "member@strive.test", "reason": "MEMBER"}]
    assert run_job(functions)["sent"] == 2
    assert sorted(received.recipients) == [NEW, "outsider@strive.test"]
    token = token_of(received, received.recipients.index("outsider@strive.test"))
    shown = preview(functions, token).json()
    assert (shown["organization"], shown["role"], shown["has_account"]) == ("Acme", "VIEWER", True)
    with fresh_database.connect() as connection:
        kept = connection.execute("select content::text from private.emails").fetchall()
        assert not any(token in content for (content,) in kept), "a sent link is not kept"
    assert call(fresh_database, "outsider", "accept_invitation(%s)", token)["role"] == "VIEWER"
    refused(preview(functions, token), 409, "PT409")
    with fresh_database.connect() as connection:
        joined = connection.execute(
            "select count(*) from public.notifications where kind = 'organization.member.joined' and user_id = %s",
            [PEOPLE["owner"]],
        ).fetchone()
        assert joined == (1,)


def test_resent_link_replaces_the_old_one(functions: Serving, received: Received, fresh_database: Database) -> None:
    (made,) = invite(functions, NEW).json()["invited"]
    run_job(functions)
    with fresh_database.connect() as connection:
        connection.execute("update private.emails set created_at = now() - interval '1 hour'")
    call(fresh_database, "admin", "resend_invitation(%s)", made["id"])
    run_job(functions)
    refused(preview(functions, token_of(received, 0)), 404, "PT404")
    assert preview(functions, token_of(received, 1)).status_code == 200


def test_revoked_invitation_is_neither_mailed_nor_valid(
    functions: Serving, received: Received, fresh_database: Database
) -> None:
    (made,) = invite(functions, NEW).json()["invited"]
    call(fresh_database, "admin", "revoke_invitation(%s)", made["id"])
    assert run_job(functions)["sent"] == 0
    assert received.messages == []
    assert invite(functions, NEW).json()["invited"][0]["email"] == NEW


def test_reminder_comes_once_and_both_links_are_valid(
    functions: Serving, received: Received, fresh_database: Database
) -> None:
    invite(functions, NEW)
    run_job(functions)
    with fresh_database.connect() as connection:
        remind = "select private.remind_invited(now() + interval '6 days 1 hour')"
        assert [connection.execute(remind).fetchone() for _ in range(2)] == [(1,), (0,)]
    run_job(functions)
    assert [preview(functions, token_of(received, number)).status_code for number in (0, 1)] == [200, 200]


def test_hundred_are_invited_at_once_within_the_seats(functions: Serving, fresh_database: Database) -> None:
    emails = [f"guest-{number}@example.test" for number in range(100)]
    answer = invite(functions, *emails)
    refused(answer, 402, "PT402")
    assert answer.json()["details"] == (
        "Its plan allows 25 members, and 5 are used, with open invitations; this would be 100 more. They do not renew."
    )
    with fresh_database.connect() as connection:
        assert connection.execute("select count(*) from private.emails").fetchone() == (0,)
        connection.execute("update public.organizations set subscription_tier = 'ENTERPRISE' where id = %s", [ACME])
    assert len(invite(functions, *emails).json()["invited"]) == 100
    answer = invite(functions, *emails).json()
    assert {each["reason"] for each in answer["skipped"]} == {"INVITED"}


def test_attack_invite_above_ones_role_or_without_being_admin(functions: Serving) -> None:
    refused(invite(functions, NEW, role="OWNER"), 403, "42501")
    refused(invite(functions, NEW, person="member"), 403, "42501")
    refused(invite(functions, NEW, person="outsider"), 403, "42501")
    for address in ("a@b.test\r\nBcc: c@d.test", "a@..test", "a..b@c.test", "a@(b.test", ".a@b.test"):
        refused(invite(functions, address), 422, "invalid_body")


def test_attack_mail_strangers_without_end(functions: Serving, fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute("update public.organizations set subscription_tier = 'ENTERPRISE' where id = %s", [ACME])
    for start in (0, 100):
        emails = [f"stranger-{number}@example.test" for number in range(start, start + 100)]
        assert invite(functions, *emails).status_code == 200
    refused(invite(functions, NEW), 429, "PT429")


def test_attack_use_a_token_for_something_else(
    functions: Serving, received: Received, fresh_database: Database
) -> None:
    invite(functions, NEW)
    run_job(functions)
    token = token_of(received)
    with functions.client(None) as client:
        refused(client.post("/functions/v1/unsubscribe", json={"token": token}), 404, "PT404")
    unsubscribe = str(received.messages[0]["List-Unsubscribe"]).partition("token=")[2].strip(">")
    refused(preview(functions, unsubscribe[:100]), 404, "PT404")
    with fresh_database.acting_as("globex_owner") as cursor, pytest.raises(Exception, match="no such open invitation"):
        cursor.execute("select public.revoke_invitation(id) from (select gen_random_uuid() as id) x")
