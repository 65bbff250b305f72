"""AI Garage: orders follow the table of moves and its roles; logs are append-only."""

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.support.statements import Cursor, at_once, insert, meanwhile, one, refused
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

STATUSES = [
    "DRAFT", "SUBMITTED", "IN_REVIEW", "APPROVED", "IN_PROGRESS", "TESTING", "COMPLETED", "DELIVERED", "CANCELLED",
    "REJECTED",
]  # fmt: skip
BEFORE_COMPLETED = ["DRAFT", "SUBMITTED", "IN_REVIEW", "APPROVED", "IN_PROGRESS", "TESTING", "REJECTED"]
MOVES = {
    ("DRAFT", "SUBMITTED"), ("SUBMITTED", "IN_REVIEW"), ("IN_REVIEW", "APPROVED"), ("IN_REVIEW", "REJECTED"),
    ("REJECTED", "DRAFT"), ("APPROVED", "IN_PROGRESS"), ("IN_PROGRESS", "TESTING"), ("TESTING", "IN_PROGRESS"),
    ("TESTING", "COMPLETED"), ("COMPLETED", "DELIVERED"), *((status, "CANCELLED") for status in BEFORE_COMPLETED),
}  # fmt: skip
TO_THE_END = ["SUBMITTED", "IN_REVIEW", "APPROVED", "IN_PROGRESS", "TESTING", "COMPLETED", "DELIVERED"]


def draft(cursor: Cursor, **values: Any) -> Row:
    order = {
        "organization_id": ACME, "title": "Lead bot", "description": "Answers leads", "requirements": {},
        "use_case": "sales", "complexity": "SIMPLE", "agent_config": {}, "tools_config": {},
    }  # fmt: skip
    return insert(cursor, "custom_agent_orders", **order | values)


def advance(cursor: Cursor, order: UUID, status: str, reason: str | None = None) -> Row:
    return one(cursor, "select * from public.advance_order(%s, %s, %s)", order, status, reason)


def in_status(database: Database, status: str, **values: Any) -> UUID:
    """An order of Acme in this state, inserted by the server. Created by `member` by default."""
    order = {
        "organization_id": ACME, "created_by_id": PEOPLE["member"], "title": "Lead bot", "description": "d",
        "requirements": Jsonb({}), "use_case": "u", "complexity": "SIMPLE", "agent_config": Jsonb({}),
        "tools_config": Jsonb({}), "status": status,
    } | values  # fmt: skip
    with database.connect() as connection:
        made = connection.execute(
            f"insert into public.custom_agent_orders ({', '.join(order)}) values ({', '.join(['%s'] * len(order))})"
            " returning id",
            list(order.values()),
        ).fetchone()
    assert made
    return UUID(str(made[0]))


# Orders --------------------------------------------------------------------------------------------------------------


def test_the_estimate_follows_complexity_and_requirements(database: Database) -> None:
    everything = {"integrations": list("abcd"), "custom_ui": True, "multi_model": True, "advanced_memory": True}
    with database.acting_as("member") as cursor:
        order = draft(cursor, complexity="MODERATE", requirements={"integrations": list("abc")})
        assert (order["estimated_hours"], order["estimated_cost"]) == (16, Decimal("2400.00"))
        change = "update public.custom_agent_orders set requirements = %s where id = %s returning *"
        order = one(cursor, change, Jsonb(everything), order["id"])
        assert (order["estimated_hours"], order["estimated_cost"]) == (52, Decimal("7800.00"))  # 16 times 3.276
        shown = one(cursor, "select public.estimate_order('MODERATE', %s) as shown", Jsonb(everything))["shown"]
        assert shown == {"estimated_hours": 52, "estimated_cost": 7800.00}


@pytest.mark.parametrize(
    ("complexity", "hours"), [("SIMPLE", 6), ("MODERATE", 16), ("COMPLEX", 48), ("ENTERPRISE", 120)]
)
def test_hours_without_extras(database: Database, complexity: str, hours: int) -> None:
    with database.acting_as("viewer") as cursor:
        shown = one(cursor, "select public.estimate_order(%s) as shown", complexity)["shown"]
    assert shown == {"estimated_hours": hours, "estimated_cost": hours * 150}


@pytest.mark.parametrize("requirements", [[], {"integrations": "many"}, {"custom_ui": "yes"}, {"multi_model": 1}])
def test_requirements_that_an_estimate_cannot_read_are_refused(database: Database, requirements: Any) -> None:
    with database.acting_as("member") as cursor, refused("23514", "requirements"):
        draft(cursor, requirements=requirements)
    with database.acting_as("member") as cursor, refused("PT400"):
        cursor.execute("select public.estimate_order('SIMPLE', %s)", [Jsonb(requirements)])


def test_submitted_order_has_its_time_milestones_log_and_feed_entry(database: Database) -> None:
    with database.acting_as("member") as cursor:
        made = draft(cursor)
        order = one(cursor, "select * from public.submit_order(%s)", made["id"])
        assert order["status"] == "SUBMITTED"
        assert order["submitted_at"] == order["status_changed_at"] is not None
        stages = cursor.execute(
            "select stage from public.order_milestones where order_id = %s order by sort_order", [order["id"]]
        ).fetchall()
        assert [row["stage"] for row in stages] == ["design", "development", "testing", "deployment"]
        assert one(cursor, "select current_stage from public.custom_agent_orders where id = %s", order["id"]) == {
            "current_stage": "design"
        }
        log = one(cursor, "select * from public.build_logs where order_id = %s", order["id"])
        assert log["stage"] == "status_change"
        assert log["details"] == {"from": "DRAFT", "to": "SUBMITTED", "by": str(PEOPLE["member"])}
        feed = one(cursor, "select * from public.activity_feeds where entity_id = %s", str(order["id"]))
        assert feed["action"] == "submitted"


def test_order_reaches_delivery_and_logs_each_step(database: Database) -> None:
    with database.acting_as("owner") as cursor:
        order = draft(cursor)
        for status in TO_THE_END:
            order = advance(cursor, order["id"], status)
        assert order["status"] == "DELIVERED"
        assert order["progress"] == 100
        assert None not in (order["submitted_at"], order["started_at"], order["completed_at"], order["delivered_at"])
        logged = one(cursor, "select count(*) from public.build_logs where order_id = %s", order["id"])
        assert logged == {"count": len(TO_THE_END)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["authenticated", "service_role"]), st.sampled_from(STATUSES)),
        min_size=1,
        max_size=14,
    )
)
def test_no_sequence_of_calls_makes_a_forbidden_move(database: Database, calls: list[tuple[str, str]]) -> None:
    """Through advance_order() as an owner or by the server at the column: the same moves, each logged once."""
    with database.acting_as("owner") as cursor:
        order = draft(cursor)["id"]
        status, moved = "DRAFT", 0
        for role, wanted in calls:
            cursor.execute("savepoint before")
            cursor.execute(f"set local role {role}")
            refusal = None
            try:
                if role == "authenticated":
                    advance(cursor, order, wanted, "because")
                else:
                    cursor.execute("update public.custom_agent_orders set status = %s where id = %s", [wanted, order])
            except psycopg.Error as error:
                refusal = error.sqlstate
                cursor.execute("rollback to before")
            if (status, wanted) in MOVES:
                assert refusal is None
                status, moved = wanted, moved + 1
            else:
                assert refusal == (None if role == "service_role" and wanted == status else "PT409")
            row = one(cursor, "select status, progress from public.custom_agent_orders where id = %s", order)
            assert row["status"] == status
            assert (row["progress"] == 100) == (status in {"COMPLETED", "DELIVERED"})
        logs = one(
            cursor, "select count(*) from public.build_logs where order_id = %s and stage = 'status_change'", order
        )
        assert logs["count"] == moved


def test_only_the_creator_among_members_cancels_a_submitted_order(database: Database) -> None:
    order = in_status(database, "SUBMITTED", created_by_id=PEOPLE["admin"])
    with database.acting_as("member") as cursor, refused("42501"):
        advance(cursor, order, "CANCELLED", "not mine")


def test_the_assigned_builder_builds(database: Database) -> None:
    order = in_status(database, "APPROVED", created_by_id=PEOPLE["admin"])
    with database.acting_as("owner", commit=True) as cursor:
        for _ in range(2):  # repeated, as after a lost response
            cursor.execute("select public.assign_builder(%s, %s)", [order, PEOPLE["member"]])
    with database.acting_as("member") as cursor:
        assert one(cursor, "select title from public.notifications where entity_id = %s", order) == {
            "title": "Order assigned to you"
        }
        for status in ["IN_PROGRESS", "TESTING", "COMPLETED", "DELIVERED"]:
            assert advance(cursor, order, status)["status"] == status


@pytest.mark.parametrize("stranger", ["globex_member", "viewer", "removed", "outsider"])
def test_attack_assign_a_stranger_as_builder(database: Database, stranger: str) -> None:
    order = in_status(database, "APPROVED")
    with database.acting_as("owner") as cursor, refused("PT422"):
        cursor.execute("select public.assign_builder(%s, %s)", [order, PEOPLE[stranger]])
    with database.connect() as connection, refused("PT422"):
        connection.execute(
            "update public.custom_agent_orders set assigned_to_id = %s where id = %s", [PEOPLE[stranger], order]
        )


@pytest.mark.parametrize("person", ["admin", "member", "viewer"])
def test_attack_assign_a_builder_without_being_owner(database: Database, person: str) -> None:
    order = in_status(database, "APPROVED")
    with database.acting_as(person) as cursor, refused("42501"):
        cursor.execute("select public.assign_builder(%s, %s)", [order, PEOPLE[person]])


def test_order_changes_of_platform_admins_are_audited(database: Database) -> None:
    order = in_status(database, "SUBMITTED")
    with database.acting_as("platform_admin") as cursor:
        advance(cursor, order, "IN_REVIEW")
        cursor.execute("select public.assign_builder(%s, %s)", [order, PEOPLE["platform_admin"]])
        cursor.execute("set local role service_role")
        logged = cursor.execute(
            "select admin_id, description from public.admin_action_logs where target_id = %s", [str(order)]
        ).fetchall()
    assert {row["admin_id"] for row in logged} == {PEOPLE["platform_admin"]}
    assert {row["description"] for row in logged} == {"Order moved to IN_REVIEW", "Builder assigned"}


@pytest.mark.parametrize("to", ["REJECTED", "CANCELLED"])
def test_rejecting_and_cancelling_require_a_reason(database: Database, to: str) -> None:
    order = in_status(database, "IN_REVIEW")
    with database.acting_as("admin") as cursor:
        cursor.execute("savepoint before")
        with refused("PT422", "reason"):
            advance(cursor, order, to, "  ")
        cursor.execute("rollback to before")
        assert advance(cursor, order, to, "too vague")["status_reason"] == "too vague"
        log = one(cursor, "select message, log_level from public.build_logs where order_id = %s", order)
        assert log["message"].endswith(": too vague")
        assert log["log_level"] == "WARN"


def test_attack_creator_cancels_an_order_during_approval(fresh_database: Database) -> None:
    """Permission is checked against the state at the time of the move, not of the request."""
    order = in_status(fresh_database, "IN_REVIEW")

    def cancel() -> None:
        with fresh_database.acting_as("member", commit=True) as cursor, refused("42501"):
            advance(cursor, order, "CANCELLED", "too slow")

    with fresh_database.acting_as("admin") as cursor:
        advance(cursor, order, "APPROVED")
        meanwhile(fresh_database, cursor, cancel)


@pytest.mark.parametrize("person", ["globex_owner", "removed", "outsider", "suspended"])
def test_attack_advance_another_tenants_order(database: Database, person: str) -> None:
    order = in_status(database, "SUBMITTED")
    for unseen in (order, uuid4()):
        with database.acting_as(person) as cursor, refused("PT404", "no such order"):
            advance(cursor, unseen, "IN_REVIEW")


@pytest.mark.parametrize(
    "column",
    [
        "status = 'COMPLETED'", "estimated_cost = 0", "estimated_hours = 0", "submitted_at = null",
        "created_by_id = null", "organization_id = null", "assigned_to_id = null", "current_stage = 'x'",
        "status_reason = 'x'",
    ],
)  # fmt: skip
def test_attack_write_derived_columns(database: Database, column: str) -> None:
    order = in_status(database, "DRAFT")
    with database.acting_as("owner") as cursor, refused("42501"):
        cursor.execute(f"update public.custom_agent_orders set {column} where id = %s", [order])


def test_the_creator_is_the_caller(database: Database) -> None:
    with database.acting_as("member") as cursor:
        assert draft(cursor)["created_by_id"] == PEOPLE["member"]
    with database.acting_as("member") as cursor, refused("42501"):
        draft(cursor, created_by_id=PEOPLE["owner"])


def test_attack_plant_an_order_in_another_tenant(database: Database) -> None:
    with database.acting_as("member") as cursor, refused("42501"):
        draft(cursor, organization_id=GLOBEX)


def test_requirements_are_fixed_once_approved(database: Database) -> None:
    order = in_status(database, "APPROVED")
    with database.acting_as("member") as cursor, refused("PT409"):
        cursor.execute("update public.custom_agent_orders set complexity = 'ENTERPRISE' where id = %s", [order])


def test_attack_delete_a_submitted_order_to_get_its_quota_back(database: Database) -> None:
    with database.acting_as("owner") as cursor:
        order = draft(cursor)
        cursor.execute("select public.submit_order(%s)", [order["id"]])
        with refused("PT409"):
            cursor.execute("delete from public.custom_agent_orders where id = %s", [order["id"]])
    with database.acting_as("owner") as cursor:
        cursor.execute("delete from public.custom_agent_orders where id = %s", [draft(cursor)["id"]])
        assert cursor.rowcount == 1


def test_exhausted_quota_is_402_and_names_the_next_plan(database: Database) -> None:
    with database.acting_as("member") as cursor:
        orders = [draft(cursor)["id"] for _ in range(4)]
        for order in orders[:3]:
            cursor.execute("select public.submit_order(%s)", [order])
        with refused("PT402") as caught:
            cursor.execute("select public.submit_order(%s)", [orders[3]])
    diagnostics = caught.value.diag
    assert str(diagnostics.message_detail).startswith("GROWTH allows 3, and 3 are used. They renew at 20")
    assert str(diagnostics.message_hint).startswith("ELITE allows any number.")


def test_last_months_orders_do_not_count(database: Database) -> None:
    with database.acting_as("member") as cursor:
        for _ in range(3):
            cursor.execute("select public.submit_order(%s)", [draft(cursor)["id"]])
        cursor.execute("set local role service_role")
        cursor.execute(
            "update public.custom_agent_orders set"
            " submitted_at = date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' - interval '1 second'"
        )
        cursor.execute("set local role authenticated")
        assert one(cursor, "select status from public.submit_order(%s)", draft(cursor)["id"]) == {"status": "SUBMITTED"}


def test_attack_race_past_the_quota(fresh_database: Database) -> None:
    orders = [in_status(fresh_database, "DRAFT") for _ in range(8)]

    def submit(index: int) -> str | None:
        try:
            with fresh_database.acting_as("member", commit=True) as cursor:
                cursor.execute("select public.submit_order(%s)", [orders[index]])
        except psycopg.Error as error:
            return error.sqlstate
        return "ok"

    assert sorted(map(str, at_once(8, submit))) == ["PT402"] * 5 + ["ok"] * 3


def test_concurrent_submissions_of_an_order_succeed_once(fresh_database: Database) -> None:
    order = in_status(fresh_database, "DRAFT")

    def submit(_: int) -> str | None:
        try:
            with fresh_database.acting_as("member", commit=True) as cursor:
                cursor.execute("select public.submit_order(%s)", [order])
        except psycopg.Error as error:
            return error.sqlstate
        return "ok"

    assert sorted(map(str, at_once(6, submit))) == ["PT409"] * 5 + ["ok"]
    with fresh_database.acting_as("member") as cursor:
        assert one(cursor, "select count(*) from public.order_milestones where order_id = %s", order) == {"count": 4}


# Milestones and logs -------------------------------------------------------------------------------------------------


def test_progress_follows_milestones_unless_set_by_hand(database: Database) -> None:
    with database.acting_as("member") as cursor:
        order = draft(cursor)["id"]
        cursor.execute("select public.submit_order(%s)", [order])
        read = "select progress, current_stage, progress_is_manual from public.custom_agent_orders where id = %s"

        cursor.execute(
            "update public.order_milestones set is_completed = true where order_id = %s and sort_order = 1", [order]
        )
        assert one(cursor, read, order) == {"progress": 25, "current_stage": "development", "progress_is_manual": False}
        done = one(
            cursor, "select completed_at from public.order_milestones where order_id = %s and is_completed", order
        )
        assert done["completed_at"]

        cursor.execute("update public.custom_agent_orders set progress = 40 where id = %s", [order])
        cursor.execute(
            "update public.order_milestones set is_completed = true where order_id = %s and sort_order = 2", [order]
        )
        assert one(cursor, read, order) == {"progress": 40, "current_stage": "testing", "progress_is_manual": True}

        cursor.execute("update public.custom_agent_orders set progress_is_manual = false where id = %s", [order])
        assert one(cursor, read, order)["progress"] == 50


def test_concurrently_completed_milestones_are_all_counted(fresh_database: Database) -> None:
    order = in_status(fresh_database, "DRAFT")
    with fresh_database.acting_as("member", commit=True) as cursor:
        cursor.execute("select public.submit_order(%s)", [order])

    def complete(index: int) -> None:
        with fresh_database.acting_as("member", commit=True) as cursor:
            cursor.execute(
                "update public.order_milestones set is_completed = true where order_id = %s and sort_order = %s",
                [order, index + 1],
            )

    at_once(4, complete)
    with fresh_database.acting_as("member") as cursor:
        row = one(cursor, "select progress, current_stage from public.custom_agent_orders where id = %s", order)
    assert row == {"progress": 100, "current_stage": None}


def test_attack_hang_a_milestone_or_log_on_another_tenants_order(database: Database) -> None:
    """The error does not reveal whether the order exists."""
    order = in_status(database, "DRAFT")
    answers = set()
    for table in ("order_milestones", "build_logs"):
        for target in (order, uuid4()):
            text = {"name": "n"} if table == "order_milestones" else {"message": "m"}
            with database.acting_as("globex_owner") as cursor, pytest.raises(psycopg.Error) as caught:
                insert(cursor, table, organization_id=GLOBEX, order_id=target, stage="s", **text)
            answers.add((table, caught.value.sqlstate, caught.value.diag.message_primary))
    assert {state for _, state, _ in answers} == {"23503"}
    assert len(answers) == 2


@pytest.mark.parametrize("person", ["authenticated", "service_role", "postgres", "supabase_admin"])
@pytest.mark.parametrize("what", ["update public.build_logs set message = 'x'", "delete from public.build_logs"])
def test_attack_rewrite_a_build_log(database: Database, person: str, what: str) -> None:
    order = in_status(database, "DRAFT")
    with database.acting_as("owner", commit=True) as cursor:
        advance(cursor, order, "CANCELLED", "no")
    statement = what + " where order_id = %s"
    if person in {"authenticated", "service_role"}:
        with database.acting_as("owner", role=person) as cursor, refused("42501"):
            cursor.execute(statement, [order])
    else:
        with database.connect(person) as connection, refused("42501", "append-only"):
            connection.execute(statement, [order])


@pytest.mark.parametrize("person", ["postgres", "supabase_admin"])
def test_attack_truncate_the_build_logs(database: Database, person: str) -> None:
    with database.connect(person) as connection, refused("42501", "append-only"):
        connection.execute("truncate public.build_logs")


@pytest.mark.parametrize("stage", ["status_change", "builder"])
def test_attack_forge_a_system_entry_in_the_build_log(database: Database, stage: str) -> None:
    order = in_status(database, "DRAFT")
    with database.acting_as("owner") as cursor, refused("42501"):
        insert(cursor, "build_logs", organization_id=ACME, order_id=order, stage=stage, message="m")


def test_build_logs_go_with_their_organization(fresh_database: Database) -> None:
    order = in_status(fresh_database, "DRAFT")
    with fresh_database.acting_as("owner", commit=True) as cursor:
        advance(cursor, order, "CANCELLED", "no")
    with fresh_database.connect() as connection:
        connection.execute("delete from public.organizations where id = %s", [ACME])
        left = connection.execute("select count(*) from public.build_logs").fetchone()
    assert left == (0,)
