"""The pipeline over time: lost reasons, stage history, forecast, goals; the same rules for every way to move a deal."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.support.rows import Cursor, add, call, change, one, refused, scene, turn
from tests.support.world import GLOBEX, PEOPLE, Database, Row

# The month of the test's transaction: a run may pass midnight between its collection and a test.
MONTH = "select date_trunc('month', now() at time zone 'utc')::date as month"


def deal(cursor: Cursor, **columns: Any) -> Row:
    return add(cursor, "deals", **{"title": "Sale", "value": 100, **columns})


def outcome(cursor: Cursor, work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """The new state of the deal, or the code and message of the refusal."""
    try:
        with cursor.connection.transaction():
            row = work(cursor, *arguments, **more)
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_primary
    return {name: str(row[name]) for name in ("stage", "status", "probability", "lost_reason", "lost_reason_id")}


STAGES = ["LEAD", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CLOSING", "CLOSED_WON", "CLOSED_LOST"]


@pytest.mark.parametrize("origin", STAGES)
def test_stage_update_follows_the_rules_of_move_deal(database: Database, origin: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        add(cursor, "lost_reasons", name="Price")
        turn(cursor, "member")
        reason = {"lost_reason": "Price"} if origin == "CLOSED_LOST" else {}
        for goal in STAGES:
            closing = {"lost_reason": "price", "probability": 33} if goal in ("CLOSED_WON", "CLOSED_LOST") else {}
            for given in ({}, {"lost_reason": "price"}, {"lost_reason": " "}, closing):
                updated, moved = (deal(cursor, stage=origin, **reason) for _ in range(2))
                by_update = outcome(cursor, change, "deals", updated, stage=goal, **given)
                by_call = outcome(cursor, call, "move_deal", deal_id=moved["id"], stage=goal, **given)
                assert by_update == by_call, (goal, given)


def test_a_lost_reason_is_chosen_by_id_or_by_name(database: Database) -> None:
    with scene(database) as cursor:
        foreign = add(cursor, "lost_reasons", organization_id=GLOBEX, name="Theirs")
        turn(cursor, "admin")
        price = add(cursor, "lost_reasons", name="Price")
        turn(cursor, "member")
        by_id = change(cursor, "deals", deal(cursor), stage="CLOSED_LOST", lost_reason_id=price["id"]) or {}
        assert (by_id["lost_reason"], by_id["lost_reason_id"]) == ("Price", price["id"])
        by_name = call(cursor, "close_deal", deal_id=deal(cursor)["id"], outcome="LOST", lost_reason=" price ")
        assert by_name["lost_reason_id"] == str(price["id"])
        free = call(cursor, "close_deal", deal_id=deal(cursor)["id"], outcome="ABANDONED", lost_reason="Moved away")
        assert free["lost_reason_id"] is None
        with refused(cursor, "PT422", "needs a reason"):
            change(cursor, "deals", deal(cursor), stage="CLOSED_LOST", lost_reason_id=foreign["id"])
        report = cursor.execute("select reason, deals from public.lost_reasons_report()").fetchall()
        assert [(row["reason"], row["deals"]) for row in report] == [("Price", 2), ("Other", 1)]
        reopened = call(cursor, "reopen_deal", deal_id=by_id["id"])
        assert (reopened["lost_reason"], reopened["lost_reason_id"]) == (None, None)


def test_stage_history_has_times(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        moved = deal(cursor)
        for stage in ("QUALIFIED", "PROPOSAL", "QUALIFIED"):
            call(cursor, "move_deal", deal_id=moved["id"], stage=stage)
        change(cursor, "deals", moved, value=200)
        stages = cursor.execute("select * from public.deal_stages(%s)", [moved["id"]]).fetchall()
        assert [row["stage"] for row in stages] == ["LEAD", "QUALIFIED", "PROPOSAL", "QUALIFIED"]
        assert [row["left_at"] for row in stages[:-1]] == [row["entered_at"] for row in stages[1:]]
        assert {row["moved_by"] for row in stages} == {PEOPLE["member"]}
        durations = cursor.execute("select stage, visits from public.stage_durations()").fetchall()
        assert [(row["stage"], row["visits"]) for row in durations] == [("LEAD", 1), ("QUALIFIED", 1), ("PROPOSAL", 1)]


def test_the_forecast_adds_up_by_month(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        deal(cursor, value=1000, stage="PROPOSAL", expected_close_date="2020-01-01")
        month = one(cursor.execute(MONTH))["month"]
        deal(cursor, value=500, stage="CLOSING", expected_close_date=f"{month}T12:00Z")
        call(cursor, "close_deal", deal_id=deal(cursor, value=70)["id"], outcome="WON")
        deal(cursor, value=9, expected_close_date="2099-01-01")
        first, *others = cursor.execute("select * from public.forecast(3)").fetchall()
        assert (first["month"], first["open_deals"], first["open_value"]) == (month, 2, 1500)
        assert (first["weighted_value"], first["won_deals"], first["won_value"]) == (950, 1, 70)
        assert [row["open_value"] for row in others] == [0, 0]
        with refused(cursor, "PT400", "1 to 36"):
            cursor.execute("select * from public.forecast(0)")


def test_goals_show_what_each_member_reached(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        month = one(cursor.execute(MONTH))["month"]
        for measure, target in {"WON_VALUE": 1000, "WON_DEALS": 4, "NEW_LEADS": 2, "ACTIVITIES": 1}.items():
            add(cursor, "sales_goals", user_id=PEOPLE["member"], month=month, measure=measure, target=target)
        turn(cursor, "member")
        for value in (250, 500):
            sold = deal(cursor, value=value, assigned_to_id=PEOPLE["member"])
            call(cursor, "close_deal", deal_id=sold["id"], outcome="WON")
        add(cursor, "leads", name="Ada", assigned_to_id=PEOPLE["member"])
        add(cursor, "activities", type="CALL", title="Call")
        report = {row["measure"]: row["share"] for row in cursor.execute("select * from public.goals_report()")}
        assert report == {"WON_VALUE": 0.75, "WON_DEALS": 0.5, "NEW_LEADS": 0.5, "ACTIVITIES": 1}


# Defaults that help --------------------------------------------------------------------------------------------------


def test_organization_id_defaults_to_the_current_organization(database: Database) -> None:
    house = {"address": "1 Elm", "city": "Austin", "state": "TX", "zip_code": "78701", "price": 1}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("leads", {"name": "Ada"}), ("contacts", {"name": "Ada"}), ("listings", {"title": "House", **house}),
        ("deals", {"title": "Sale", "value": 1}), ("customers", {"name": "Ada"}), ("projects", {"name": "Move"}),
        ("content", {"title": "A", "slug": "a", "content": "x"}),
    ]  # fmt: skip
    with scene(database) as cursor:
        turn(cursor, "globex_member")
        for table, columns in rows:
            assert add(cursor, table, **columns)["organization_id"] == GLOBEX
        turn(cursor, "outsider")
        for table, columns in rows:
            with refused(cursor, "42501", "row-level security"):
                add(cursor, table, **columns)


def test_a_missing_file_size_is_reported_as_missing(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        lead = add(cursor, "leads", name="Ada")
        place = call(cursor, "attachment_path", entity_type="leads", entity_id=lead["id"], file_name="a/b.pdf")
        with refused(cursor, "23502", "file_size"):
            add(
                cursor, "attachments", entity_type="leads", entity_id=lead["id"], file_name="b.pdf", mime_type="a/b",
                file_path=place["path"],
            )  # fmt: skip


def test_the_path_of_an_attachment_is_made_for_a_record(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        lead = add(cursor, "leads", name="Ada")

        def path(name: str, kind: str = "leads", record: Any = lead["id"]) -> str:
            answer = call(cursor, "attachment_path", entity_type=kind, entity_id=record, file_name=name)
            return str(answer["path"]).rpartition("/")[2]

        assert path("../../plan.pdf") == ".._.._plan.pdf"
        assert path("plan.pdf") == "plan.pdf"
        add(
            cursor, "attachments", entity_type="leads", entity_id=lead["id"], file_name="plan.pdf", mime_type="a/b",
            file_size=1, file_path=f"{lead['organization_id']}/leads/{lead['id']}/plan.pdf",
        )  # fmt: skip
        assert path("plan.pdf") == "plan (2).pdf"
        with refused(cursor, "PT400", "no attachments of this type"):
            path("plan.pdf", "lead")
        with refused(cursor, "PT404", "no such leads"):
            path("plan.pdf", record=uuid4())


@pytest.mark.parametrize("action_type", ["NAVIGATION", "EXTERNAL_LINK"])
def test_an_action_that_leads_somewhere_needs_its_target(database: Database, action_type: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        with refused(cursor, "23514", "need target_url"):
            add(cursor, "quick_actions", name="Go", icon="x", action_type=action_type)
