"""Leads, contacts, deals, listings and activities: permissions, values, and moves of deals."""

import datetime as dt
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import product
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rows import Cursor, add, call, change, one, refused, remove, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

TABLES: dict[str, dict[str, Any]] = {
    "leads": {"name": "Ada"},
    "contacts": {"name": "Ada"},
    "listings": {"title": "House", "address": "1 Elm", "city": "Austin", "state": "TX", "zip_code": "1", "price": 100},
    "deals": {"title": "Sale", "value": 100},
    "activities": {"type": "CALL", "title": "Called"},
}
ASSIGNED = [table for table in TABLES if table != "activities"]
STAGES = ["LEAD", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CLOSING", "CLOSED_WON", "CLOSED_LOST"]
OPEN = STAGES[:5]
PROBABILITY = dict(zip(STAGES, [10, 25, 50, 75, 90, 100, 0], strict=True))


def make(cursor: Cursor, table: str, **columns: Any) -> Row:
    return add(cursor, table, **{"organization_id": ACME, **TABLES[table], **columns})


def make_for(cursor: Cursor, org: Any, table: str) -> Row:
    """Insert a row as the owner of the table, regardless of who acts in the transaction."""
    author = {"created_by_id": PEOPLE["owner" if org == ACME else "globex_owner"]} if table == "activities" else {}
    return add(cursor, table, organization_id=org, **TABLES[table], **author)


def seen(cursor: Cursor, table: str, row: Row) -> Row | None:
    return cursor.execute(f"select * from public.{table} where id = %s", [row["id"]]).fetchone()


def notes(cursor: Cursor, column: str, row: Row) -> list[Row]:
    cursor.execute(f"select * from public.activities where {column} = %s and type = 'NOTE'", [row["id"]])
    return cursor.fetchall()


def may_move(here: str, there: str) -> bool:
    """Forward freely, back one step, closed from anywhere, never out of closed."""
    return here in OPEN and (there not in OPEN or STAGES.index(there) >= STAGES.index(here) - 1)


# Who may do what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_members_write_and_only_admins_delete(database: Database, table: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, table)
        assert seen(cursor, table, row) == row
        assert change(cursor, table, row, **TABLES[table])
        assert not remove(cursor, table, row)
        turn(cursor, "admin")
        assert remove(cursor, table, row)


@pytest.mark.parametrize("table", TABLES)
def test_a_viewer_reads_and_writes_nothing(database: Database, table: str) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, table)
        turn(cursor, "viewer")
        assert seen(cursor, table, row) == row
        with refused(cursor, "42501", "row-level security"):
            make(cursor, table)
        assert change(cursor, table, row, **TABLES[table]) is None
        assert not remove(cursor, table, row)


@pytest.mark.parametrize("table", TABLES)
def test_other_tenants_cannot_read_or_write_a_row(database: Database, table: str) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, table)
        for person, org in product(["globex_owner", "outsider", "removed", "suspended"], [None, ACME]):
            turn(cursor, person, org)
            assert seen(cursor, table, row) is None
            assert change(cursor, table, row, **TABLES[table]) is None
            assert not remove(cursor, table, row)
            with refused(cursor, "42501", "row-level security"):
                make(cursor, table)
        turn(cursor, None)
        assert seen(cursor, table, row) == row


@pytest.mark.parametrize("table", TABLES)
def test_platform_admin_reads_but_does_not_write(database: Database, table: str) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, table)
        turn(cursor, "platform_admin", ACME)
        assert seen(cursor, table, row) == row
        assert change(cursor, table, row, **TABLES[table]) is None
        assert not remove(cursor, table, row)


@pytest.mark.parametrize("table", TABLES)
def test_attack_move_a_row_into_another_own_organization(database: Database, table: str) -> None:
    with scene(database) as cursor:
        add(cursor, "organization_members", user_id=PEOPLE["admin"], organization_id=GLOBEX, role="ADMIN")
        row = make_for(cursor, ACME, table)
        turn(cursor, "admin", ACME)
        with refused(cursor, "42501", "row-level security"):
            change(cursor, table, row, organization_id=GLOBEX)
        # Without a condition or RETURNING, only the update policy checks the new row.
        with refused(cursor, "42501", "row-level security"):
            cursor.execute(f"update public.{table} set organization_id = %s", [GLOBEX])


@pytest.mark.parametrize(
    ("table", "column", "target"),
    [
        ("deals", "lead_id", "leads"),
        ("deals", "contact_id", "contacts"),
        ("deals", "listing_id", "listings"),
        ("activities", "lead_id", "leads"),
        ("activities", "contact_id", "contacts"),
        ("activities", "deal_id", "deals"),
        ("activities", "listing_id", "listings"),
    ],
)
def test_attack_reference_another_tenants_record(database: Database, table: str, column: str, target: str) -> None:
    with scene(database) as cursor:
        theirs, ours = make_for(cursor, GLOBEX, target)["id"], make_for(cursor, ACME, target)["id"]
        turn(cursor, "member")
        assert make(cursor, table, **{column: ours})[column] == ours
        messages = set()
        for unknown in (theirs, uuid4()):
            with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught, cursor.connection.transaction():
                make(cursor, table, **{column: unknown})
            messages.add(str(caught.value).replace(str(unknown), "…"))
        assert len(messages) == 1


@pytest.mark.parametrize("table", ASSIGNED)
def test_attack_assign_to_a_non_member(database: Database, table: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, table, assigned_to_id=PEOPLE["viewer"])
        for stranger in ("globex_member", "outsider", "removed"):
            with refused(cursor, "23503", "assigned_to_id is a member of the organization"):
                change(cursor, table, row, assigned_to_id=PEOPLE[stranger])


@pytest.mark.parametrize("table", ASSIGNED)
def test_rows_of_a_removed_member_become_unassigned(database: Database, table: str) -> None:
    with scene(database) as cursor:
        row = add(cursor, table, organization_id=ACME, assigned_to_id=PEOPLE["member"], **TABLES[table])
        cursor.execute("delete from public.organization_members where user_id = %s", [PEOPLE["member"]])
        after = seen(cursor, table, row)
        assert after
        assert (after["assigned_to_id"], after["organization_id"]) == (None, ACME)


def test_deleting_an_organization_deletes_its_rows(database: Database) -> None:
    with scene(database) as cursor:
        person = make(cursor, "contacts", assigned_to_id=PEOPLE["member"])
        sale = make(cursor, "deals", contact_id=person["id"], lead_id=make(cursor, "leads")["id"])
        make(cursor, "activities", deal_id=sale["id"], created_by_id=PEOPLE["member"])
        cursor.execute("delete from public.organizations where id = %s", [ACME])
        for table in TABLES:
            assert cursor.execute(f"select from public.{table} where organization_id = %s", [ACME]).rowcount == 0


def test_deleting_a_contact_keeps_its_deals_and_history(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        person = make(cursor, "contacts")
        kept = [(t, make(cursor, t, contact_id=person["id"])) for t in ("deals", "activities")]
        assert remove(cursor, "contacts", person)
        for table, row in kept:
            after = seen(cursor, table, row)
            assert after
            assert (after["contact_id"], after["organization_id"]) == (None, ACME)


def test_upsert_by_id_never_changes_a_foreign_row(database: Database) -> None:
    upsert = (
        "insert into public.leads (id, organization_id, name) values (%s, %s, 'New') on conflict (id) do update"
        " set id = excluded.id, organization_id = excluded.organization_id, name = excluded.name"
    )
    with scene(database) as cursor:
        ours, theirs = make_for(cursor, ACME, "leads"), make_for(cursor, GLOBEX, "leads")
        turn(cursor, "member")
        cursor.execute(upsert, [ours["id"], ACME])
        after = seen(cursor, "leads", ours)
        assert after
        assert after["name"] == "New"
        with refused(cursor, "42501", "row-level security"):
            cursor.execute(upsert, [theirs["id"], ACME])


# Activities ----------------------------------------------------------------------------------------------------------


def test_attack_record_an_activity_as_another_user(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        assert make(cursor, "activities")["created_by_id"] == PEOPLE["member"]
        with refused(cursor, "42501", "row-level security"):
            make(cursor, "activities", created_by_id=PEOPLE["owner"])


def test_attack_hand_an_activity_to_another_author(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "activities")
        with refused(cursor, "42501", "permission denied"):
            change(cursor, "activities", row, created_by_id=PEOPLE["owner"])


CONTACT = {"CALL", "EMAIL", "MEETING", "SHOWING", "FOLLOW_UP"}


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("kind", [*sorted(CONTACT), "OPEN_HOUSE", "NOTE", "TASK"])
def test_contact_that_happened_updates_last_contact_at(database: Database, kind: str, done: bool) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        rows = {table: make(cursor, table) for table in ("leads", "contacts")}
        about = {"lead_id": rows["leads"]["id"], "contact_id": rows["contacts"]["id"]}
        now = dt.datetime.now(dt.UTC)
        make(cursor, "activities", type=kind, completed_at=now if done else None, **about)
        make(cursor, "activities", type=kind, completed_at=now + dt.timedelta(days=1), **about)
        for table, row in rows.items():
            after = seen(cursor, table, row)
            assert after
            assert (after["last_contact_at"] is not None) == (done and kind in CONTACT)


def test_contact_about_a_deal_is_contact_with_its_people(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        person, other = make(cursor, "contacts"), make(cursor, "contacts")
        deal = make(cursor, "deals", contact_id=person["id"])["id"]
        planned = make(cursor, "activities", deal_id=deal)
        assert (seen(cursor, "contacts", person) or {})["last_contact_at"] is None
        change(cursor, "activities", planned, completed_at=dt.datetime.now(dt.UTC))
        assert (seen(cursor, "contacts", person) or {})["last_contact_at"]
        change(cursor, "activities", planned, deal_id=None, contact_id=other["id"])
        assert (seen(cursor, "contacts", other) or {})["last_contact_at"]


def test_attack_claim_contact_that_did_not_happen(database: Database) -> None:
    """The column can be given with a new row, as an import does, but neither in the future nor changed afterwards."""
    now = dt.datetime.now(dt.UTC)
    for table in ("leads", "contacts"):
        with scene(database) as cursor:
            turn(cursor, "member")
            person = make(cursor, table, last_contact_at=now + dt.timedelta(days=30))
            assert person["last_contact_at"] == person["created_at"]
            with refused(cursor, "42501", "permission denied"):
                change(cursor, table, person, last_contact_at=now)


def test_older_contact_does_not_move_last_contact_at_back(database: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    with scene(database) as cursor:
        turn(cursor, "member")
        person = make(cursor, "leads", last_contact_at=now)
        make(cursor, "activities", lead_id=person["id"], completed_at=now - dt.timedelta(days=3))
        after = seen(cursor, "leads", person)
        assert after
        assert after["last_contact_at"] == now


# Leads ---------------------------------------------------------------------------------------------------------------


def word_for(value: int) -> str:
    return "HOT" if value >= 80 else "WARM" if value >= 50 else "COLD"


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.fixed_dictionaries(
            {}, optional={"score": st.sampled_from(["HOT", "WARM", "COLD"]), "score_value": st.integers(-5, 105)}
        ).filter(bool),
        min_size=1,
        max_size=6,
    )
)
def test_score_and_score_value_never_part(database: Database, steps: list[dict[str, Any]]) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        now = make(cursor, "leads")
        for step in steps:
            before, refusal = now, None
            try:
                with cursor.connection.transaction():
                    now = change(cursor, "leads", now, **step) or pytest.fail("out of reach")
            except psycopg.Error as error:
                refusal = error.sqlstate
            # Writing the stored value counts as not writing it.
            written = {column: value for column, value in step.items() if value != before[column]}
            value = written.get("score_value", 0)
            if not 0 <= value <= 100:
                assert refusal == "23514"
            elif len(written) == 2 and written["score"] != word_for(value):
                assert refusal == "PT422"
            else:
                assert refusal is None
                assert {**now, **written} == now
            assert now["score"] == word_for(now["score_value"])
            assert 0 <= now["score_value"] <= 100


@pytest.mark.parametrize(("score", "value"), [("HOT", 80), ("WARM", 50), ("COLD", 0)])
def test_a_lead_scored_with_a_word_gets_the_number(database: Database, score: str, value: int) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        assert make(cursor, "leads", score=score)["score_value"] == value


def test_a_score_contradicting_its_value_is_refused(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT422", "contradict"):
            make(cursor, "leads", score="HOT", score_value=30)


def test_converting_a_lead_creates_client_and_deal(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        person = make(
            cursor, "leads", email="ada@x.test", phone="1", company="X", notes="n", tags=["a"], budget=500,
            assigned_to_id=PEOPLE["admin"],
        )  # fmt: skip
        made = call(cursor, "convert_lead", lead_id=person["id"], deal_title="Villa")
        contact = seen(cursor, "contacts", {"id": made["contact_id"]})
        sale = seen(cursor, "deals", {"id": made["deal_id"]})
        after = seen(cursor, "leads", person)
        assert contact
        assert sale
        assert after
        assert (contact["type"], contact["status"]) == ("CLIENT", "ACTIVE")
        for column in ("name", "email", "phone", "company", "notes", "tags", "assigned_to_id", "organization_id"):
            assert contact[column] == person[column]
        assert (sale["title"], sale["value"], sale["lead_id"], sale["contact_id"]) == (
            "Villa", Decimal(500), person["id"], contact["id"],
        )  # fmt: skip
        assert (after["status"], after["converted_contact_id"]) == ("CONVERTED", contact["id"])
        [note] = notes(cursor, "lead_id", person)
        assert note["created_by_id"] == PEOPLE["member"]


def test_converting_without_a_deal_makes_none(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        assert call(cursor, "convert_lead", lead_id=make(cursor, "leads")["id"])["deal_id"] is None
        assert cursor.execute("select from public.deals").rowcount == 0


def test_a_lead_is_converted_once_and_only_by_the_function(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT409", "converted by convert_lead"):
            make(cursor, "leads", status="CONVERTED")
        person = make(cursor, "leads")
        with refused(cursor, "PT409", "converted by convert_lead"):
            change(cursor, "leads", person, status="CONVERTED")
        call(cursor, "convert_lead", lead_id=person["id"])
        with refused(cursor, "PT409", "stays converted"):
            change(cursor, "leads", person, status="NEW_LEAD")
        with refused(cursor, "PT409", "converted already"):
            call(cursor, "convert_lead", lead_id=person["id"])
        assert change(cursor, "leads", person, notes="still mine to annotate")


def test_failing_deal_rolls_back_the_conversion(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        person = make(cursor, "leads")
        with refused(cursor, "23514", "value is not negative"):
            call(cursor, "convert_lead", lead_id=person["id"], deal_value=-1)
        assert seen(cursor, "leads", person) == person
        assert cursor.execute("select from public.contacts").rowcount == 0


def test_concurrent_conversions_of_a_lead_succeed_once(fresh_database: Database) -> None:
    with fresh_database.acting_as("member", commit=True) as cursor:
        person = make(cursor, "leads")
    start = Barrier(6)

    def convert(_: int) -> str:
        with fresh_database.acting_as("member", commit=True) as cursor:
            start.wait(timeout=60)
            try:
                call(cursor, "convert_lead", lead_id=person["id"], deal_value=1)
            except psycopg.Error as error:
                return str(error.sqlstate)
        return "done"

    with ThreadPoolExecutor(6) as pool:
        assert Counter(pool.map(convert, range(6))) == {"done": 1, "PT409": 5}
    with fresh_database.acting_as("member") as cursor:
        for table in ("contacts", "deals", "activities"):
            assert cursor.execute(f"select from public.{table}").rowcount == 1


@pytest.mark.parametrize(
    ("function", "table", "arguments"),
    [
        ("convert_lead", "leads", {}),
        ("move_deal", "deals", {"stage": "PROPOSAL"}),
        ("close_deal", "deals", {"outcome": "WON"}),
        ("reopen_deal", "deals", {}),
    ],
)
def test_attack_move_anothers_business_by_function(
    database: Database, function: str, table: str, arguments: dict[str, str]
) -> None:
    argument = "lead_id" if table == "leads" else "deal_id"
    with scene(database) as cursor:
        ours, theirs = make_for(cursor, ACME, table), make_for(cursor, GLOBEX, table)
        turn(cursor, "viewer")
        with refused(cursor, "42501", "You may not change"):
            call(cursor, function, **{argument: ours["id"]}, **arguments)
        turn(cursor, "platform_admin", ACME)
        with refused(cursor, "42501", "You may not change"):
            call(cursor, function, **{argument: ours["id"]}, **arguments)
        turn(cursor, "owner")
        with refused(cursor, "PT404", "There is no such"):
            call(cursor, function, **{argument: theirs["id"]}, **arguments)
        with refused(cursor, "PT404", "There is no such"):
            call(cursor, function, **{argument: uuid4()}, **arguments)


# Deals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", STAGES)
def test_documented_moves_equal_the_rule(database: Database, here: str) -> None:
    with scene(database) as cursor:
        row = one(
            cursor.execute("select moves_to::text[], probability from private.deal_stages where stage = %s", [here])
        )
        assert set(row["moves_to"]) == {there for there in STAGES if there != here and may_move(here, there)}
        assert row["probability"] == PROBABILITY[here]


stages, reasons = st.sampled_from(STAGES), st.sampled_from([None, "", "Too dear"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("move_deal"), st.fixed_dictionaries({"stage": stages, "lost_reason": reasons})),
        st.tuples(
            st.just("close_deal"),
            st.fixed_dictionaries(
                {"outcome": st.sampled_from(["ACTIVE", "WON", "LOST", "ABANDONED"]), "lost_reason": reasons}
            ),
        ),
        st.tuples(st.just("reopen_deal"), st.fixed_dictionaries({"stage": stages})),
        st.tuples(
            st.just("write"),
            st.fixed_dictionaries(
                {},
                optional={
                    "stage": stages,
                    "status": st.sampled_from(["ACTIVE", "WON", "LOST", "ABANDONED"]),
                    "probability": st.integers(0, 100),
                    "lost_reason": reasons,
                    "actual_close_date": st.sampled_from([None, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]),
                },
            ).filter(bool),
        ),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_no_sequence_of_calls_makes_a_forbidden_deal_move(
    database: Database, steps: list[tuple[str, dict[str, Any]]]
) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        now = make(cursor, "deals")
        moves = 0
        for step, arguments in steps:
            before, refusal = now, None
            try:
                with cursor.connection.transaction():
                    if step == "write":
                        change(cursor, "deals", now, **arguments)
                    else:
                        call(cursor, step, deal_id=now["id"], **arguments)
            except psycopg.Error as error:
                refusal = error.sqlstate
            now = seen(cursor, "deals", now) or pytest.fail("the deal is missing")
            moved = now["stage"] != before["stage"]
            if refusal:
                assert refusal in {"PT409", "PT422", "23514"}
                assert now == before
            elif moved and before["stage"] not in OPEN:
                assert step == "reopen_deal"
                assert now["stage"] in OPEN
            elif moved:
                assert may_move(before["stage"], now["stage"])
                given = arguments.get("probability", before["probability"])
                follows = now["stage"] not in OPEN or given == before["probability"]
                assert now["probability"] == (PROBABILITY[now["stage"]] if follows else given)
            assert not moved or now["stage"] == "CLOSED_LOST" or now["lost_reason"] is None
            moves += moved
            assert now["status"] in {
                "CLOSED_WON": {"WON"}, "CLOSED_LOST": {"LOST", "ABANDONED"},
            }.get(now["stage"], {"ACTIVE"})  # fmt: skip
            assert (now["actual_close_date"] is None) == (now["stage"] in OPEN)
            assert now["stage"] != "CLOSED_LOST" or now["lost_reason"]
        assert len(notes(cursor, "deal_id", now)) == moves


@pytest.mark.parametrize("here", STAGES)
def test_a_written_stage_obeys_the_rule_like_a_called_one(database: Database, here: str) -> None:
    lost = {"lost_reason": "Too dear"}
    with scene(database) as cursor:
        turn(cursor, "member")
        for there in STAGES:
            rows = [make(cursor, "deals", stage=here, **lost) for _ in range(2)]
            if here == there or may_move(here, there):
                written = change(cursor, "deals", rows[0], stage=there, **lost)
                called = call(cursor, "move_deal", deal_id=rows[1]["id"], stage=there, **lost)
                assert written
                assert written["stage"] == called["stage"] == there
            else:
                with refused(cursor, "PT409", "cannot go|cannot move"):
                    change(cursor, "deals", rows[0], stage=there, **lost)
                with refused(cursor, "PT409", "cannot go|cannot move"):
                    call(cursor, "move_deal", deal_id=rows[1]["id"], stage=there, **lost)


def test_server_cannot_move_a_deal_back_two_stages(database: Database) -> None:
    with scene(database) as cursor, refused(cursor, "PT409", "cannot go from CLOSING to LEAD"):
        change(cursor, "deals", make(cursor, "deals", stage="CLOSING"), stage="LEAD")


def test_probability_follows_the_stage_unless_given(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "deals", stage="QUALIFIED")
        assert row["probability"] == 25
        assert make(cursor, "deals", probability=33)["probability"] == 33
        # A value equal to the stored one counts as given.
        assert call(cursor, "move_deal", deal_id=row["id"], stage="PROPOSAL", probability=25)["probability"] == 25
        assert call(cursor, "move_deal", deal_id=row["id"], stage="CLOSING")["probability"] == 90


def test_closed_deal_has_fixed_probability(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        won = change(cursor, "deals", make(cursor, "deals"), stage="CLOSED_WON", probability=40)
        assert won
        assert won["probability"] == 100
        with refused(cursor, "23514", "a won deal has probability 100"):
            change(cursor, "deals", won, probability=99)


def test_only_closed_deals_reopen_into_an_open_stage(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "deals")
        with refused(cursor, "PT409", "This deal is open"):
            call(cursor, "reopen_deal", deal_id=row["id"])
        call(cursor, "close_deal", deal_id=row["id"], outcome="WON")
        with refused(cursor, "PT422", "into an open stage"):
            call(cursor, "reopen_deal", deal_id=row["id"], stage="CLOSED_LOST")
        assert call(cursor, "reopen_deal", deal_id=row["id"])["status"] == "ACTIVE"


def test_lost_deal_requires_a_reason(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "deals")
        with refused(cursor, "PT422", "needs a reason"):
            call(cursor, "close_deal", deal_id=row["id"], outcome="LOST")
        with refused(cursor, "PT422", "needs a reason"):
            change(cursor, "deals", row, stage="CLOSED_LOST", lost_reason="  ")
        with refused(cursor, "PT422", "needs a reason"):
            make(cursor, "deals", stage="CLOSED_LOST")
        lost = call(cursor, "close_deal", deal_id=row["id"], outcome="ABANDONED", lost_reason="Silence")
        assert (lost["stage"], lost["status"], lost["lost_reason"]) == ("CLOSED_LOST", "ABANDONED", "Silence")
        with refused(cursor, "PT422", "needs a reason"):
            change(cursor, "deals", row, lost_reason=None)


def test_attack_win_a_deal_by_its_status_alone(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT422", "status of a deal follows its stage"):
            change(cursor, "deals", make(cursor, "deals"), status="WON")


def test_stage_change_writes_a_note_and_a_feed_entry(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "deals", contact_id=make(cursor, "contacts")["id"])
        call(cursor, "close_deal", deal_id=row["id"], outcome="LOST", lost_reason="Too dear")
        call(cursor, "reopen_deal", deal_id=row["id"], stage="PROPOSAL")
        written = notes(cursor, "deal_id", row)
        assert {(n["title"], n["description"]) for n in written} == {
            ("Deal lost: from LEAD to CLOSED_LOST", "Too dear"),
            ("Deal reopened: from CLOSED_LOST to PROPOSAL", "Too dear"),
        }
        assert {(n["created_by_id"], n["contact_id"]) for n in written} == {(PEOPLE["member"], row["contact_id"])}
        cursor.execute("select * from public.activity_feeds where entity_id = %s::text", [row["id"]])
        assert {(f["action"], f["user_id"]) for f in cursor.fetchall()} == {
            ("lost", PEOPLE["member"]), ("reopened", PEOPLE["member"]),
        }  # fmt: skip


def test_stage_change_by_the_server_names_the_responsible_person(database: Database) -> None:
    with database.acting_as(None, role="service_role", claims={"role": "service_role"}) as cursor:
        row = make(cursor, "deals", assigned_to_id=PEOPLE["member"])
        change(cursor, "deals", row, stage="PROPOSAL")
        [note] = notes(cursor, "deal_id", row)
        assert note["created_by_id"] == PEOPLE["member"]


# Listings ------------------------------------------------------------------------------------------------------------


def test_price_per_square_foot_is_computed_and_cannot_be_written(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "listings", price=250_000, square_feet=1_500)
        assert row["price_per_sqft"] == Decimal("166.67")
        after = change(cursor, "listings", row, square_feet=None)
        assert after
        assert after["price_per_sqft"] is None
        with refused(cursor, "428C9", "generated column"):
            change(cursor, "listings", row, price_per_sqft=1)
        assert make(cursor, "listings", price=Decimal("9999999999.99"), square_feet=1)["price_per_sqft"]


@pytest.mark.parametrize(("years_ahead", "allowed"), [(1, True), (2, False)])
def test_a_house_may_be_built_next_year_at_the_latest(database: Database, years_ahead: int, allowed: bool) -> None:
    year = dt.datetime.now(dt.UTC).year + years_ahead
    with scene(database) as cursor:
        turn(cursor, "member")
        if allowed:
            assert make(cursor, "listings", year_built=year)["year_built"] == year
        else:
            with refused(cursor, "23514", "year_built is 1800 to next year"):
                make(cursor, "listings", year_built=year)


@pytest.mark.parametrize(
    ("table", "columns", "rule"),
    [
        ("listings", {"year_built": 1799}, "year_built is 1800 to next year"),
        ("listings", {"price": -1}, "price is not negative"),
        ("listings", {"square_feet": 0}, "square_feet is positive"),
        (
            "listings",
            {"listing_date": "2026-02-01", "expiration_date": "2026-01-01"},
            "expiration_date is after listing_date",
        ),
        ("listings", {"virtual_tour_url": "javascript:alert(1)"}, "virtual_tour_url is an http"),
        ("contacts", {"preferred_contact_method": "fax"}, "preferred_contact_method is email, phone or text"),
        ("contacts", {"linkedin_url": "javascript:alert(1)"}, "linkedin_url is an http"),
        ("leads", {"name": ""}, "lead name is 1 to 255 characters"),
        ("leads", {"email": "ada"}, "email has an @ between two parts"),
        ("leads", {"score_value": 101}, "score_value is 0 to 100"),
        ("leads", {"budget": -1}, "budget is not negative"),
        ("leads", {"custom_fields": "[]"}, "custom_fields is an object"),
        ("deals", {"value": -1}, "value is not negative"),
        ("deals", {"probability": 101}, "probability is 0 to 100"),
        ("deals", {"actual_close_date": "2026-01-01"}, "a deal has actual_close_date when it is closed"),
        ("activities", {"duration_minutes": -1}, "duration_minutes is not negative"),
    ],
)
def test_value_out_of_range_is_refused_with_the_rule(
    database: Database, table: str, columns: dict[str, Any], rule: str
) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "23514", rule):
            make(cursor, table, **columns)


def test_a_listing_that_changes_status_is_noted(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "listings")
        change(cursor, "listings", row, status="SOLD")
        change(cursor, "listings", row, status="SOLD", price=90)
        [note] = notes(cursor, "listing_id", row)
        assert note["title"] == "Listing changed from ACTIVE to SOLD"


# Plans ---------------------------------------------------------------------------------------------------------------


HOT = {
    "leads": ["status = 'QUALIFIED'", "score = 'HOT'"],
    "contacts": ["type = 'CLIENT'", "status = 'DO_NOT_CONTACT'"],
    "listings": ["status = 'ACTIVE'"],
    "deals": ["status = 'WON'", "stage = 'PROPOSAL'"],
    "activities": ["type = 'SHOWING'"],
}


@pytest.mark.parametrize("table", TABLES)
def test_newest_rows_and_hot_lists_are_ordered_tenant_scans(database: Database, table: str) -> None:
    columns = {"organization_id": "o.id", **{name: f"'{value}'" for name, value in TABLES[table].items()}}
    if table == "activities":
        columns["created_by_id"] = f"'{PEOPLE['member']}'"
    with scene(database) as cursor:
        # Acme's rows are old: a scan by date alone would read all of Globex's first.
        cursor.execute(
            f"insert into public.{table} ({', '.join(columns)}, created_at) select {', '.join(columns.values())},"
            f" now() - i * interval '1 minute' - case when o.slug = 'acme' then interval '1 year' else '0' end"
            f" from public.organizations o, generate_series(1, 1500) i order by i desc"
        )
        cursor.execute(f"analyze public.{table}")
        turn(cursor, "member")
        for where in ["true", *HOT[table]]:
            cursor.execute(
                f"explain (format json) select * from public.{table} where {where} order by created_at desc limit 50"
            )
            scan = one(cursor)["QUERY PLAN"][0]["Plan"]["Plans"][-1]
            assert scan["Node Type"] == "Index Scan", scan
            assert "organization_id" in scan["Index Cond"], scan
            assert "Filter" not in scan, scan


@pytest.mark.parametrize("table", [*TABLES, "activity_feeds"])
def test_every_newest_first_index_starts_with_the_tenant(database: Database, table: str) -> None:
    with scene(database) as cursor:
        # Whether the planner takes the offer hangs on the sizes of the day.
        cursor.execute(
            "select indexdef from pg_catalog.pg_indexes where tablename = %s and indexdef ~ 'btree \\(\\w+_(at|date)'",
            [table],
        )
        assert cursor.fetchall() == []


def test_concurrent_closing_and_reopening_of_a_deal_is_serialized(
    fresh_database: Database,
) -> None:
    with fresh_database.acting_as("member", commit=True) as cursor:
        deal = make(cursor, "deals")
    start = Barrier(6)

    def press(n: int) -> Counter[str]:
        done: Counter[str] = Counter()
        start.wait(timeout=60)
        for turn_of in range(6):
            function = ("close_deal", "reopen_deal")[(n + turn_of) % 2]
            arguments = {"outcome": "WON"} if function == "close_deal" else {}
            with fresh_database.acting_as("member", commit=True) as cursor:
                try:
                    call(cursor, function, deal_id=deal["id"], **arguments)
                except psycopg.Error as error:
                    function = str(error.sqlstate)
                    cursor.connection.rollback()
                done[function] += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        done = sum(pool.map(press, range(6)), Counter[str]())
    with fresh_database.acting_as("member") as cursor:
        titles = Counter(note["title"].split(":")[0] for note in notes(cursor, "deal_id", deal))
        now = seen(cursor, "deals", deal)
        assert now
    assert set(done) <= {"close_deal", "reopen_deal", "PT409"}
    assert titles == {"Deal won": done["close_deal"], "Deal reopened": done["reopen_deal"]}
    assert done["close_deal"] - done["reopen_deal"] == (now["status"] == "WON")
    assert done["close_deal"] > 1
