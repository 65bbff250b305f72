"""E-mails: sent once each by a real SMTP server, whatever dies, refuses or changes in between."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psutil
import pytest

from shared.mail.message import Email, Sender, render
from tests.support.mail_server import Received, mail_server
from tests.support.served_flags import wait_for
from tests.support.serving import CRON_KEY, Serving, environment, serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database

FROM = "Strive <no-reply@strive.test>"
LOGGED = "the mail server is unavailable; the next run retries"


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def connection(fresh_database: Database) -> Iterator[Connection]:
    with fresh_database.connect() as connection:
        yield connection


def variables(database: Database, smtp: str, **more: str) -> dict[str, str]:
    settings = {"SMTP_URL": smtp, "MAIL_FROM": FROM, "APP_URL": "https://app.strive.test", **more}
    return environment(database.url("strive_functions"), **settings)


@pytest.fixture
def functions(fresh_database: Database, received: Received, tmp_path: Path) -> Iterator[Serving]:
    with mail_server(received) as smtp, serving(tmp_path, variables(fresh_database, smtp)) as functions:
        yield functions


def run_job(functions: Serving) -> dict[str, Any]:
    with functions.client(None, apikey=CRON_KEY) as client:
        answer = client.post("/functions/v1/send-emails", json={})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


def publish(connection: Connection, person: str = "member", kind: str = "crm.lead.assigned", org: Any = ACME) -> UUID:
    connection.execute(
        "select private.publish_event(%s, %s, 'lead', %s, 'A lead for you', 'Ada & Co <b>', %s, '{}')",
        [kind, org, UUID(int=7), [PEOPLE[person]]],
    )
    row = connection.execute("select id from private.emails order by created_at desc limit 1").fetchone()
    assert row
    id_: UUID = row[0]
    return id_


def state(connection: Connection, id_: UUID) -> str:
    row = connection.execute("select status::text from private.emails where id = %s", [id_]).fetchone()
    assert row
    return str(row[0])


def make_due(connection: Connection) -> None:
    connection.execute("update private.emails set next_attempt_at = now() where status in ('QUEUED', 'SENDING')")


def test_email_has_text_html_and_headers(functions: Serving, received: Received, connection: Connection) -> None:
    id_ = publish(connection)
    assert run_job(functions) == {"sent": 1, "postponed": 0, "failed": 0, "uncertain": 0}
    (message,) = received.messages
    assert received.recipients == ["member@strive.test"]
    assert message["Message-ID"] == f"<{id_}@strive.test>"
    assert message["From"] == "Acme via Strive <no-reply@strive.test>"
    assert message["Subject"] == "A lead for you"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    text, page = (part.get_content() for part in message.iter_parts())
    link = f"https://app.strive.test/leads/{UUID(int=7)}"
    assert link in text
    assert "Ada & Co <b>" in text
    assert f'href="{link}"' in page
    assert "Ada &amp; Co &lt;b&gt;" in page
    assert state(connection, id_) == "SENT"
    assert run_job(functions)["sent"] == 0


# RFC 8058 has mail programs send either encoding.
@pytest.mark.parametrize(
    "body",
    [{"data": {"List-Unsubscribe": "One-Click"}}, {"files": {"List-Unsubscribe": (None, "One-Click")}}],
    ids=["urlencoded", "multipart"],
)
def test_one_click_unsubscribes_from_one_kind(
    functions: Serving, received: Received, connection: Connection, fresh_database: Database, body: dict[str, Any]
) -> None:
    publish(connection)
    run_job(functions)
    link = str(received.messages[0]["List-Unsubscribe"]).strip("<>")
    path = link[link.index("/functions/v1/") :]
    with httpx.Client(base_url=functions.url) as client:
        form = client.get(path)
        assert (form.status_code, form.headers["content-type"]) == (200, "text/html; charset=utf-8")
        publish(connection)
        assert run_job(functions)["sent"] == 1, "a scanner that follows the link changes nothing"
        assert client.post(path, **body).status_code == 200
    later, other = publish(connection), publish(connection, kind="crm.deal.assigned")
    assert later == other or state(connection, other) == "QUEUED"
    with fresh_database.acting_as("member") as cursor:
        row = cursor.execute(
            "select email, in_app from public.notification_settings() where kind = 'crm.lead.assigned'"
        ).fetchone()
        assert row == {"email": "OFF", "in_app": True}


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (
            "insert into private.notification_preferences values (%(who)s, 'crm.lead.assigned', null, 'OFF')",
            "CANCELLED",
        ),
        ("insert into private.notification_preferences values (%(who)s, 'crm.lead.assigned', null, 'DIGEST')", "HELD"),
        ("delete from public.organization_members where user_id = %(who)s", "CANCELLED"),
        ("update public.users set is_active = false where id = %(who)s", "CANCELLED"),
        ("insert into private.email_suppressions values ('member@strive.test', 'BOUNCED')", "CANCELLED"),
    ],
)
def test_what_changed_since_the_event_counts(connection: Connection, change: str, outcome: str) -> None:
    id_ = publish(connection)
    connection.execute(change, {"who": PEOPLE["member"]})
    row = connection.execute("select private.claim_emails(10, '1 minute')").fetchone()
    assert row
    assert str(id_) not in json.dumps(row[0])
    assert state(connection, id_) == outcome


def test_new_address_is_used(functions: Serving, received: Received, connection: Connection) -> None:
    publish(connection)
    connection.execute("update auth.users set email = 'new@strive.test' where id = %s", [PEOPLE["member"]])
    assert run_job(functions)["sent"] == 1
    assert received.recipients == ["new@strive.test"]


def test_refusals_are_retried_or_final(functions: Serving, received: Received, connection: Connection) -> None:
    replies = {
        "member@strive.test": "451 4.7.1 Greylisted",
        "admin@strive.test": "550 5.1.1 No such user",
        "viewer@strive.test": "554 5.7.1 Spam",
    }
    received.hook = lambda step, who: replies.get(who) if step == "RCPT" else None
    later, bounced, refused = (publish(connection, who) for who in ("member", "admin", "viewer"))
    assert run_job(functions) == {"sent": 0, "postponed": 1, "failed": 2, "uncertain": 0}
    assert [state(connection, each) for each in (later, bounced, refused)] == ["QUEUED", "FAILED", "FAILED"]
    suppressed = connection.execute("select address, reason::text from private.email_suppressions").fetchall()
    assert suppressed == [("admin@strive.test", "BOUNCED")]
    received.hook = lambda _step, _who: None
    assert run_job(functions)["sent"] == 0, "not before its time"
    make_due(connection)
    assert run_job(functions)["sent"] == 1
    assert received.recipients == ["member@strive.test"]


def test_email_fails_after_a_day_and_is_reported(
    functions: Serving, received: Received, connection: Connection, fresh_database: Database
) -> None:
    received.hook = lambda step, _who: "451 Later" if step == "END" else None
    id_ = publish(connection)
    connection.execute("update private.emails set created_at = now() - interval '25 hours'")
    assert run_job(functions)["postponed"] == 1
    assert state(connection, id_) == "FAILED"
    alerts = connection.execute("select title from public.system_alerts where is_active").fetchall()
    assert alerts == [("E-mails could not be delivered",)]
    received.hook = lambda _step, _who: None
    with fresh_database.acting_as("platform_admin", commit=True) as cursor:
        (problem,) = cursor.execute("select * from public.email_problems()").fetchall()
        assert (problem["id"], problem["status"], problem["error"]) == (id_, "FAILED", "451 Later")
        cursor.execute("select public.requeue_emails(%s)", [[id_]])
    assert run_job(functions)["sent"] == 1
    assert connection.execute("select from public.system_alerts where is_active").fetchall() == []


def test_dead_server_loses_nothing(fresh_database: Database, received: Received, tmp_path: Path) -> None:
    with fresh_database.connect() as connection, mail_server(received) as smtp:
        port = int(smtp.rpartition(":")[2])
        ids = [publish(connection, who) for who in ("member", "admin", "viewer")]
    with serving(tmp_path, variables(fresh_database, smtp)) as functions, fresh_database.connect() as connection:
        assert run_job(functions)["sent"] == 0
        assert {state(connection, each) for each in ids} == {"QUEUED"}
        wait_for(lambda: any(line["message"] == LOGGED for line in functions.lines()))
        make_due(connection)
        with mail_server(received, port):
            assert run_job(functions)["sent"] == 3
    assert sorted(received.ids()) == sorted(f"<{each}@strive.test>" for each in ids)


def kill_now(pid: int) -> None:
    """Return when the process runs no more; `serving` reaps it."""
    os.kill(pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("step", "resent"),
    [("CONNECT", True), ("MAIL", True), ("RCPT", True), ("HANDOVER", True), ("END", False), ("ACCEPTED", False)],
)
def test_attack_kill_the_sender_between_two_steps(
    fresh_database: Database, received: Received, tmp_path: Path, step: str, resent: bool
) -> None:
    """Kill -9 before the handover: sent once, by the next run. After it: not sent again, and listed for people."""
    with mail_server(received) as smtp, fresh_database.connect() as connection, fresh_database.connect() as holder:
        id_ = publish(connection)
        with serving(tmp_path, variables(fresh_database, smtp)) as functions:
            dead = threading.Event()

            def kill(at: str, _who: str) -> str | None:
                if at == "RCPT" and step == "HANDOVER":  # the sender then waits for this row before its handover
                    holder.execute("begin")
                    holder.execute("select from private.emails for update")
                    threading.Thread(target=kill_waiting).start()
                elif at == step and not dead.is_set():
                    dead.set()
                    kill_now(functions.process.pid)
                return None

            def kill_waiting() -> None:
                waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%hand_over%'"
                while not connection.execute(waiting).rowcount:
                    pass
                kill_now(functions.process.pid)
                dead.set()

            if step == "CONNECT":
                received.hook = lambda at, who: kill("CONNECT", who) if at == "MAIL" else None
            else:
                received.hook = kill
            with pytest.raises(httpx.HTTPError):
                run_job(functions)
            assert dead.wait(20)
            if step == "HANDOVER":  # the statement of a dead process ends uncommitted
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where query like '%hand_over_email%'"
                    " and pid <> pg_backend_pid()"
                )
                holder.execute("rollback")
        accepted = len(received.messages)
        received.hook = lambda _step, _who: None
        assert state(connection, id_) == "SENDING"
        make_due(connection)  # as if the lease had ended
        # Postgres has to notice that the process is dead; until then it holds the lock of the job.
        held = (
            "select from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        wait_for(lambda: connection.execute(held).rowcount == 0)
        with serving(tmp_path, variables(fresh_database, smtp)) as functions:
            result = run_job(functions)
        assert result["sent"] == int(resent)
        assert state(connection, id_) == ("SENT" if resent else "UNCERTAIN")
        assert len(received.messages) == max(accepted, int(resent)) <= 1


def test_two_senders_send_each_email_once(fresh_database: Database, received: Received, tmp_path: Path) -> None:
    """The second one runs although the first one still runs, as after a lost lock."""
    with mail_server(received) as smtp, fresh_database.connect() as connection:
        connection.execute(
            "select private.publish_event('crm.lead.assigned', %s, 'lead', null, 'n ' || n, 'x', %s)"
            " from generate_series(1, 150) n",
            [ACME, [PEOPLE["member"]]],
        )
        # Without the lock of the job two runs overlap.
        connection.execute(
            "create or replace function private.try_job_lock(job text) returns boolean language sql as 'select true'"
        )
        with serving(tmp_path, variables(fresh_database, smtp)) as functions:
            results: list[dict[str, Any]] = []
            threads = [threading.Thread(target=lambda: results.append(run_job(functions))) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sum(result["sent"] for result in results) == 150
        assert len(set(received.ids())) == len(received.ids()) == 150


def test_digest_collects_events_of_one_organization(
    functions: Serving, received: Received, connection: Connection
) -> None:
    connection.execute(
        "insert into public.organization_members (user_id, organization_id) values (%s, %s)", [PEOPLE["member"], GLOBEX]
    )
    connection.execute("delete from private.emails")  # about the member who joined
    for org in (ACME, ACME, GLOBEX):
        publish(connection, kind="crm.deal.won", org=org)
    assert run_job(functions)["sent"] == 0
    assert connection.execute("select private.send_digests(now() + interval '1 day')").fetchone() == (2,)
    assert connection.execute("select private.send_digests(now() + interval '1 day')").fetchone() == (0,)
    assert run_job(functions)["sent"] == 2
    subjects = {str(message["From"]).partition(" ")[0]: str(message["Subject"]) for message in received.messages}
    assert subjects == {"Acme": "2 things happened", "Globex": "A lead for you"}


def test_digest_leaves_out_what_was_switched_off_since(connection: Connection) -> None:
    for kind in ("crm.deal.won", "crm.deal.lost"):
        publish(connection, kind=kind)
    off = "insert into private.notification_preferences (user_id, kind, email) values (%s, 'crm.deal.lost', 'OFF')"
    connection.execute(off, [PEOPLE["member"]])
    assert connection.execute("select private.send_digests(now() + interval '1 day')").fetchone() == (1,)
    kept = connection.execute("select jsonb_array_length(content -> 'items') from private.emails").fetchall()
    assert kept == [(1,)]


@pytest.mark.parametrize(
    ("time_zone", "due"),
    [
        ("UTC", "2026-03-10 06:30+00"),
        ("Europe/Berlin", "2026-03-10 05:30+00"),
        ("Asia/Kathmandu", "2026-03-11 00:45+00"),
        ("America/Los_Angeles", "2026-03-10 13:30+00"),
    ],
)
def test_digest_is_sent_in_the_morning_of_the_person(connection: Connection, time_zone: str, due: str) -> None:
    connection.execute("update public.users set time_zone = %s where id = %s", [time_zone, PEOPLE["member"]])
    publish(connection, kind="crm.deal.won", org=ACME)
    connection.execute("update private.emails set created_at = '2026-03-10 04:00+00'")
    sent = "select private.send_digests(%s::timestamptz - make_interval(secs => %s))"
    assert connection.execute(sent, [due, 1]).fetchone() == (0,)
    assert connection.execute(sent, [due, 0]).fetchone() == (1,)


def test_international_addresses_are_mailed(functions: Serving, received: Received, connection: Connection) -> None:
    for address in ("ada@b\u00fccher.test", "j\u00f6rg@b\u00fccher.test"):
        connection.execute("update public.users set email = %s where id = %s", [address, PEOPLE["member"]])
        publish(connection)
        assert run_job(functions)["sent"] == 1
    assert received.recipients == ["ada@xn--bcher-kva.test", "j\u00f6rg@xn--bcher-kva.test"]
    # The parser keeps the letters of a header in UTF-8 as bytes.
    shown = [message["To"].addresses[0].addr_spec.encode("utf-8", "surrogateescape") for message in received.messages]
    assert [address.decode() for address in shown] == received.recipients


@pytest.mark.parametrize("address", ["a@..test", "a@", "a..b@c.test", "a@(b.test", "\\"])
def test_attack_stop_all_emails_by_one_address(
    functions: Serving, received: Received, connection: Connection, address: str
) -> None:
    connection.execute(
        "insert into private.emails (organization_id, address, kind, subject, content, next_attempt_at)"
        " values (%s, %s, 'organization.member.invited', 'Come', '{}', '2000-01-01')",
        [ACME, address],
    )
    publish(connection)
    assert run_job(functions) == {"sent": 1, "failed": 1, "postponed": 0, "uncertain": 0}
    assert received.recipients == ["member@strive.test"]


def test_attack_inject_a_header_by_a_name(functions: Serving, received: Received, connection: Connection) -> None:
    connection.execute(
        "update public.users set name = E'Ada\\r\\nBcc: everybody@evil.test' where id = %s", [PEOPLE["member"]]
    )
    connection.execute("update public.organizations set name = E'Acme\\nX: y\\u2028z' where id = %s", [ACME])
    connection.execute(
        "select private.publish_event('crm.lead.assigned', %s, 'lead', null, %s, 'm', %s)",
        [ACME, "Hi\r\nBcc: a@evil.test\r\n\r\nx", [PEOPLE["member"]]],
    )
    assert run_job(functions)["sent"] == 1
    (message,) = received.messages
    assert (message["Bcc"], message["X"]) == (None, None)
    assert received.recipients == ["member@strive.test"]
    assert message["Subject"] == "Hi Bcc: a@evil.test x"


def test_attack_send_a_link_of_an_email_elsewhere() -> None:
    sender = Sender("Strive", "no-reply@strive.test", "https://app.strive.test", "https://f.test/functions/v1")
    for path in ("//evil.test/x", "@evil.test", ".evil.test/", "https://evil.test", "javascript:alert(1)"):
        email = Email.model_validate(
            {
                "id": "1",
                "attempt": 1,
                "to": "a@b.test",
                "name": None,
                "kind": "k",
                "subject": "s",
                "organization": None,
                "content": {"message": "m", "path": path},
                "logo_url": None,
                "unsubscribe": None,
                "created_at": "2026-01-01T00:00:00Z",
            }
        )
        text, page = render(email, sender, None)
        links = re.findall(r"https?://[^\s\"<]+", text + page)
        assert {urlsplit(link).hostname for link in links} <= {"app.strive.test"}


@pytest.mark.parametrize("change", ["payload", "signature", "other_kind", "garbage"])
def test_attack_forge_an_unsubscribe_token(functions: Serving, connection: Connection, change: str) -> None:
    made = "select private.unsubscribe_token(%s, %s)"
    mine, theirs = (
        connection.execute(made, [str(PEOPLE[who]), "crm.lead.assigned"]).fetchone() for who in ("member", "admin")
    )
    assert mine
    assert theirs
    token = {
        "payload": theirs[0].partition(".")[0] + "." + mine[0].partition(".")[2],
        "signature": mine[0][:-2] + "AA",
        "other_kind": mine[0] + "x",
        "garbage": "%00.\u00e9",
    }[change]
    with functions.client(None) as client:
        answer = client.post("/functions/v1/unsubscribe", json={"token": token})
    assert (answer.status_code, answer.json()["code"]) == (404, "PT404")
    assert connection.execute("select from private.notification_preferences").rowcount == 0
