"""Tasks: without a project, about a record, recurring, and created by follow-up plans."""

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.rows import Cursor, add, call, change, one, refused, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

# The moment of the test's transaction: a run may pass midnight between its collection and a test.
NOW = "select now()"


def todo(cursor: Cursor, **columns: Any) -> Row:
    return add(cursor, "tasks", **{"title": "Call back", **columns})


def todos(cursor: Cursor, due: str, *more: Any) -> list[str]:
    places = ", ".join(["%s"] * (1 + len(more)))
    return [row["title"] for row in cursor.execute(f"select * from public.todos({places})", [due, *more])]


def test_a_task_needs_no_project_and_no_organization_id(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        task = todo(cursor)
        assert (task["organization_id"], task["project_id"], task["created_by"]) == (ACME, None, PEOPLE["member"])


def test_a_task_without_a_project_stays_in_its_tenant(database: Database) -> None:
    with scene(database) as cursor:
        foreign_task = add(cursor, "tasks", organization_id=GLOBEX, title="Theirs")
        foreign_lead = add(cursor, "leads", organization_id=GLOBEX, name="Theirs")
        turn(cursor, "member")
        for link in ({"parent_task_id": foreign_task["id"]}, {"lead_id": foreign_lead["id"]}):
            with refused(cursor, "23503", "foreign key"):
                todo(cursor, **link)


def test_a_subtask_belongs_to_the_project_of_its_parent(database: Database) -> None:
    with scene(database) as cursor:
        project = add(cursor, "projects", organization_id=ACME, name="Move")
        turn(cursor, "member")
        parent = todo(cursor, project_id=project["id"])
        with refused(cursor, "PT422", "same project"):
            todo(cursor, parent_task_id=parent["id"])
        child = todo(cursor, project_id=project["id"], parent_task_id=parent["id"])
        with refused(cursor, "PT422", "below itself"):
            change(cursor, "tasks", parent, parent_task_id=child["id"])


def test_todos_are_overdue_today_of_the_week_or_any(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        now = one(cursor.execute(NOW))["now"]
        noon = now.replace(hour=12)
        for title, due in {
            "late": now - timedelta(days=2), "today": noon, "soon": now + timedelta(days=4),
            "later": now + timedelta(days=30),
        }.items():  # fmt: skip
            todo(cursor, title=title, due_date=due, assigned_to=PEOPLE["member"])
        todo(cursor, title="undated", assigned_to=PEOPLE["member"])
        todo(cursor, title="done", status="DONE", due_date=noon, assigned_to=PEOPLE["member"])
        todo(cursor, title="another's", due_date=noon, assigned_to=PEOPLE["admin"])
        assert "late" in todos(cursor, "overdue")
        assert todos(cursor, "today") == ["today"]
        assert todos(cursor, "week") == ["today", "soon"]
        assert todos(cursor, "any") == ["late", "today", "soon", "later", "undated"]
        assert sorted(todos(cursor, "today", None)) == ["another's", "today"]
        with refused(cursor, "PT400", "overdue, today, week or any"):
            todos(cursor, "never")
        with refused(cursor, "PT400", "no such time zone"):
            todos(cursor, "today", None, "Mars/Olympus")


@pytest.mark.parametrize(
    ("recurrence", "due", "successor"),
    [
        ("DAILY", "2099-03-01 09:00Z", "2099-03-02 09:00Z"),
        ("WEEKDAYS", "2099-03-06 09:00Z", "2099-03-09 09:00Z"),
        ("WEEKLY", "2099-03-01 09:00Z", "2099-03-08 09:00Z"),
        ("MONTHLY", "2099-01-31 09:00Z", "2099-02-28 09:00Z"),
        ("YEARLY", "2099-03-01 09:00Z", "2100-03-01 09:00Z"),
    ],
)
def test_a_recurring_task_that_is_done_has_one_successor(
    database: Database, recurrence: str, due: str, successor: str
) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        task = todo(cursor, recurrence=recurrence, due_date=due)
        for status in ("DONE", "TODO", "DONE"):
            change(cursor, "tasks", task, status=status)
        following = one(
            cursor.execute("select * from public.tasks where recurred_at is null and recurrence is not null")
        )
        assert following["due_date"] == datetime.fromisoformat(successor)
        assert (following["status"], following["recurrence"], following["completed_at"]) == ("TODO", recurrence, None)


def test_a_recurring_task_skips_the_times_that_have_passed(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        now = one(cursor.execute(NOW))["now"]
        change(cursor, "tasks", todo(cursor, recurrence="WEEKLY", due_date=now - timedelta(days=24)), status="DONE")
        following = one(cursor.execute("select * from public.tasks where status = 'TODO'"))
        assert timedelta(days=3) < following["due_date"] - now < timedelta(days=5)


def test_an_overdue_task_recurs_at_the_next_time_without_a_gap(database: Database) -> None:
    with scene(database) as cursor:
        for recurrence, step in (
            ("MONTHLY", "1 month"),
            ("QUARTERLY", "3 months"),
            ("YEARLY", "1 year"),
            ("DAILY", "1 day"),
        ):
            for ago in range(0, 1500, 97):
                due = f"(now() - interval '{ago} days')"
                found = one(
                    cursor.execute(
                        f"select private.next_occurrence('{recurrence}', {due}, 'UTC') as it,"
                        f" (select min(t) from (select ({due} at time zone 'UTC' + n * interval '{step}')"
                        " at time zone 'UTC' as t from generate_series(1, 2000) n) u where t > now()) as expected"
                    )
                )
                assert found["it"] == found["expected"], (recurrence, ago)


@pytest.mark.parametrize(
    ("recurrence", "due", "successor"),
    [
        # Thursday and Friday evening in Chicago, which is Friday and Saturday in UTC.
        ("WEEKDAYS", "2099-01-09 02:00Z", "2099-01-10 02:00Z"),
        ("WEEKDAYS", "2099-01-10 02:00Z", "2099-01-13 02:00Z"),
        # Over the change to daylight-saving time in March.
        ("WEEKLY", "2027-03-10 15:00Z", "2027-03-17 14:00Z"),
    ],
)
def test_a_task_recurs_at_the_time_of_day_of_its_assignee(
    database: Database, recurrence: str, due: str, successor: str
) -> None:
    with scene(database) as cursor:
        cursor.execute("update public.users set time_zone = 'America/Chicago' where id = %s", [PEOPLE["member"]])
        turn(cursor, "admin")
        task = todo(cursor, recurrence=recurrence, due_date=due, assigned_to=PEOPLE["member"])
        change(cursor, "tasks", task, status="DONE")
        following = one(cursor.execute("select * from public.tasks where status = 'TODO' and recurrence is not null"))
        assert following["due_date"] == datetime.fromisoformat(successor)


def plan(cursor: Cursor) -> Row:
    made = add(cursor, "follow_up_plans", name="New buyer")
    for day, kind in ((3, "EMAIL"), (0, "CALL")):
        add(cursor, "follow_up_steps", plan_id=made["id"], day=day, title=f"{kind} them", activity_type=kind)
    return made


def test_follow_up_plan_creates_one_task_at_a_time(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        lead = add(cursor, "leads", name="Ada", organization_id=ACME)
        template = plan(cursor)
        start = "select * from public.start_follow_up_plan(%s, lead_id => %s)"
        tasks = cursor.execute(start, [template["id"], lead["id"]]).fetchall()
        assert [(task["title"], task["activity_type"], task["lead_id"]) for task in tasks] == [
            ("CALL them", "CALL", lead["id"]),
            ("EMAIL them", "EMAIL", lead["id"]),
        ]
        assert tasks[1]["due_date"] - tasks[0]["due_date"] == timedelta(days=3)
        assert {task["assigned_to"] for task in tasks} == {PEOPLE["member"]}
        with refused(cursor, "PT409", "under way"):
            cursor.execute(start, [template["id"], lead["id"]])
        for task in tasks:
            change(cursor, "tasks", task, status="CANCELLED")
        assert cursor.execute(start, [template["id"], lead["id"]]).rowcount == 2


def test_a_plan_is_started_for_one_record_of_the_tenant(database: Database) -> None:
    with scene(database) as cursor:
        foreign = add(cursor, "leads", organization_id=GLOBEX, name="Theirs")
        turn(cursor, "member")
        template = plan(cursor)
        with refused(cursor, "23503", "foreign key"):
            call(cursor, "start_follow_up_plan", plan_id=template["id"], lead_id=foreign["id"])
        with refused(cursor, "PT422", "one record"):
            call(cursor, "start_follow_up_plan", plan_id=template["id"])
        with refused(cursor, "PT404", "no such follow-up plan"):
            call(cursor, "start_follow_up_plan", plan_id=uuid4(), lead_id=foreign["id"])
        change(cursor, "follow_up_plans", template, is_active=False)
        with refused(cursor, "PT409", "not active"):
            call(cursor, "start_follow_up_plan", plan_id=template["id"], lead_id=foreign["id"])
