"""The metric language: results, refusals, and which values are shared."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.rows import Cursor, add, call, change, one, refused, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

LEADS = {"source": "leads", "aggregate": "count"}


def metric(cursor: Cursor, org: Any = ACME, query: Any = LEADS, **columns: Any) -> Row:
    given = {"name": "Leads", "category": "SALES", "query": json.dumps(query)} | columns
    return add(cursor, "dashboard_metrics", organization_id=org, **given)


def leads(cursor: Cursor, *rows: dict[str, Any], org: Any = ACME) -> None:
    for row in rows:
        add(cursor, "leads", organization_id=org, **{"name": "Ada"} | row)


def evaluate(cursor: Cursor, **query: Any) -> Any:
    return call(cursor, "evaluate_metric", query=json.dumps(query))


# What it counts ------------------------------------------------------------------------------------------------------


def test_a_period_is_compared_with_the_one_before(database: Database) -> None:
    with scene(database) as cursor:
        ages = ["0 s", "29 days", "29 days 23:59:59", "30 days", "59 days", "59 days 23:59:59", "60 days", "61 days"]
        cursor.execute(
            "insert into public.leads (organization_id, name, budget, created_at)"
            " select %s, 'Ada', 10, now() - a::interval from unnest(%s::text[]) a",
            [ACME, ages],
        )
        turn(cursor, "viewer")
        answer = evaluate(cursor, source="leads", aggregate="sum", column="budget", period="30d")
    assert answer == {"value": 30, "previous": 30, "change": 0}


def test_series_include_days_without_rows(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("set local timezone = 'Pacific/Auckland'")
        cursor.execute(
            "insert into public.leads (organization_id, name, created_at)"
            " values (%s, 'Ada', now() - interval '2 days')",
            [ACME],
        )
        turn(cursor, "viewer")
        days = one(
            cursor.execute(
                "select array(select (now() at time zone 'UTC')::date - i from generate_series(3, 0, -1) i) d"
            )
        )
        count = evaluate(cursor, source="leads", aggregate="count", period="3d", group_by="day")
        highest = evaluate(cursor, source="leads", aggregate="max", column="score_value", period="3d", group_by="day")
    named = [str(day) for day in days["d"]]
    assert [point["group"] for point in count["series"]] == named
    assert [point["value"] for point in count["series"]] == [0, 1, 0, 0]
    assert [point["value"] for point in highest["series"]] == [None, 0, None, None]


def test_groups_come_largest_first_and_at_most_fifty(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.leads (organization_id, name, company)"
            " select %s, 'Ada', 'Company ' || n from generate_series(1, 60) n, generate_series(1, n)",
            [ACME],
        )
        leads(cursor, {"company": None})
        turn(cursor, "viewer")
        answer = evaluate(cursor, source="leads", aggregate="count", group_by="company")
    assert (answer["value"], answer["more"]) == (60 * 61 / 2 + 1, True)
    assert answer["series"] == [{"group": f"Company {n}", "value": n} for n in range(60, 10, -1)]


def test_empty_source_has_count_and_sum_0_no_mean(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "viewer")
        values = {
            aggregate: evaluate(cursor, source="leads", aggregate=aggregate, column="budget")["value"]
            for aggregate in ("count", "sum", "avg", "min", "max")
        }
        grouped = evaluate(cursor, source="leads", aggregate="count", group_by="status")
    assert values == {"count": 0, "sum": 0, "avg": None, "min": None, "max": None}
    assert grouped == {"value": 0, "series": [], "more": False}


def test_moments_are_relative_to_now(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.deals (organization_id, title, value, expected_close_date)"
            " select %s, 'x', n, now() + n * interval '1 day' from generate_series(1, 9) n",
            [ACME],
        )
        turn(cursor, "viewer")
        due = {"expected_close_date": {"$gt": "now+2d", "$lte": "now+1w"}, "status": "ACTIVE"}
        assert evaluate(cursor, source="deals", aggregate="sum", column="value", where=due) == {
            "value": 3 + 4 + 5 + 6 + 7
        }


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ({"budget": {"$gt": 5}}, 1),
        ({"$not": {"budget": {"$gt": 5}}}, 2),
        ({"$nor": [{"budget": {"$gt": 5}}]}, 2),
        ({"budget": {"$not": {"$gt": 5}}}, 2),
        ({"budget": {"$ne": 9}}, 2),
        ({"budget": {"$nin": [9]}}, 2),
        ({"$not": {"$not": {"budget": {"$gt": 5}}}}, 1),
        ({"budget": None}, 1),
        ({"budget": {"$exists": True}}, 2),
    ],
)
def test_missing_value_matches_no_comparison(database: Database, where: Any, value: int) -> None:
    with scene(database) as cursor:
        leads(cursor, {"budget": None}, {"budget": 1}, {"budget": 9})
        turn(cursor, "viewer")
        assert evaluate(cursor, **LEADS, where=where) == {"value": value}


@pytest.mark.parametrize(
    ("value", "warning", "critical", "target", "status"),
    [
        (5, 10, 20, None, "normal"),
        (10, 10, 20, None, "warning"),
        (20, 10, 20, None, "critical"),
        # Lower is worse.
        (25, 20, 10, None, "normal"),
        (20, 20, 10, None, "warning"),
        (10, 20, 10, None, "critical"),
        (0, 20, 10, None, "critical"),
        # With one threshold, values on the side opposite to the target are worse.
        (5, None, 10, None, "normal"),
        (15, None, 10, None, "critical"),
        (5, None, 10, 100, "critical"),
        (15, None, 10, 100, "normal"),
        (5, 10, None, 100, "warning"),
        (15, 10, None, 3, "warning"),
        (15, None, None, 3, None),
        (None, 10, 20, None, None),
    ],
)
def test_status_honours_thresholds_in_both_directions(
    database: Database, value: Any, warning: Any, critical: Any, target: Any, status: Any
) -> None:
    with database.acting_as("viewer") as cursor:
        cursor.execute(
            "select private.metric_status(%s::numeric, %s::float8, %s::float8, %s::float8) as status",
            [value, target, warning, critical],
        )
        assert one(cursor)["status"] == status


# What it refuses -----------------------------------------------------------------------------------------------------

WRONG: list[tuple[Any, str, str]] = [
    ({}, "query.source: found nothing", "leads"),
    ({"source": "users", "aggregate": "count"}, 'query.source: found "users"', "leads"),
    ({"source": "leads; drop table leads", "aggregate": "count"}, "query.source: found", "leads"),
    ({"source": ["leads"], "aggregate": "count"}, "query.source: found", "leads"),
    ({"source": "leads"}, "query.aggregate: found nothing", "count, sum, avg, min, max"),
    ({**LEADS, "aggregate": "stddev"}, 'query.aggregate: found "stddev"', "count, sum"),
    ({**LEADS, "aggregate": "sum"}, "query.column: found nothing", "budget"),
    ({**LEADS, "aggregate": "sum", "column": "name"}, 'query.column: found "name"', "budget"),
    ({**LEADS, "column": "notes"}, 'query.column: found "notes"', "budget"),
    ({**LEADS, "column": "organization_id"}, 'query.column: found "organization_id"', "budget"),
    ({**LEADS, "limit": 5}, 'query: found "limit"', "only source, aggregate"),
    ({**LEADS, "period": "30"}, 'query.period: found "30"', '"30d"'),
    ({**LEADS, "period": "0d"}, "query.period", '"30d"'),
    ({**LEADS, "period": "100y"}, "query.period", '"30d"'),
    ({**LEADS, "period": 30}, "query.period: found 30", '"30d"'),
    ({**LEADS, "time": "created_at"}, "query.period: found nothing", '"30d"'),
    ({**LEADS, "time": "status", "period": "1d"}, 'query.time: found "status"', "created_at, updated_at"),
    ({**LEADS, "group_by": "day"}, "query.period: found nothing", '"30d"'),
    ({**LEADS, "group_by": "day", "period": "401d"}, 'query.group_by: found "day"', "at most 400"),
    ({**LEADS, "group_by": "budget"}, 'found "budget"', "status"),
    ({**LEADS, "where": []}, "query.where: found []", "an object"),
    ({**LEADS, "where": {"custom_fields": 1}}, 'query.where: found "custom_fields"', "budget"),
    ({**LEADS, "where": {"status": "HOT"}}, 'query.where.status.$eq: found "HOT"', "NEW_LEAD"),
    ({**LEADS, "where": {"status": {"$in": ["LOST", 1]}}}, "query.where.status.$in[1]: found 1", "NEW_LEAD"),
    ({**LEADS, "where": {"status": {"$gt": "LOST"}}}, 'query.where.status: found "$gt"', "$eq, $ne"),
    ({**LEADS, "where": {"status": {}}}, "query.where.status: found {}", "$eq, $ne"),
    ({**LEADS, "where": {"name": {"$regex": "^A"}}}, 'found "$regex"', "$eq, $ne"),
    ({**LEADS, "where": {"name": "x" * 256}}, "query.where.name.$eq", "255 characters"),
    ({**LEADS, "where": {"budget": "5"}}, 'query.where.budget.$eq: found "5"', "a number"),
    ({**LEADS, "where": {"budget": 1e16}}, "query.where.budget.$eq", "a number up to"),
    ({**LEADS, "where": {"budget": {"$in": 5}}}, "query.where.budget.$in: found 5", "a list"),
    ({**LEADS, "where": {"budget": {"$in": list(range(101))}}}, "query.where.budget.$in", "100"),
    ({**LEADS, "where": {"budget": {"$gt": None}}}, "query.where.budget.$gt: found null", "a number"),
    ({**LEADS, "where": {"created_at": "yesterday"}}, 'found "yesterday"', "now-7d"),
    ({**LEADS, "where": {"created_at": {"$gt": "2026-02-30"}}}, 'found "2026-02-30"', "a date"),
    ({**LEADS, "where": {"created_at": {"$gt": "now - 1d"}}}, 'found "now - 1d"', "now-7d"),
    ({**LEADS, "where": {"assigned_to_id": "me"}}, 'found "me"', "an id"),
    ({**LEADS, "where": {"tags": "a"}}, 'query.where.tags: found "$eq"', "$in, $nin, $all"),
    ({**LEADS, "where": {"tags": {"$size": -1}}}, "found -1", "a whole number"),
    ({**LEADS, "where": {"$xor": []}}, 'query.where: found "$xor"', "$and, $or"),
    ({**LEADS, "where": {"$or": {}}}, "query.where.$or: found {}", "a list"),
    ({**LEADS, "where": {"$or": [{"status": "LOST"}, 5]}}, "query.where.$or[1]: found 5", "an object"),
    ({**LEADS, "where": {"name": {"$exists": 1}}}, "query.where.name.$exists: found 1", "true or false"),
]


def test_invalid_query_error_names_found_and_accepted_values(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        for query, found, accepted in WRONG:
            for attempt in (lambda: evaluate(cursor, **query), lambda: metric(cursor, query=query)):  # noqa: B023
                with refused(cursor, "PT422", "is invalid") as caught:
                    attempt()
                assert found in str(caught.value.diag.message_detail)
                assert accepted in str(caught.value.diag.message_detail)


def test_metric_cannot_be_updated_to_an_invalid_query(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        row = metric(cursor)
        with refused(cursor, "PT422", "is invalid"):
            change(cursor, "dashboard_metrics", row, query='{"source": "leads"}')
        # Nor by the server.
        turn(cursor, None)
        with refused(cursor, "PT422", "is invalid"):
            change(cursor, "dashboard_metrics", row, query='{"source": "leads"}')


@pytest.mark.parametrize(
    "where",
    [
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"$not":' * 5000 + "{}" + "}" * 5000,
        '{"status": {"$not":' * 3000 + "1" + "}}" * 3000,
        '{"$or": [' * 11 + "{}" + "]}" * 11,
        json.dumps({"name": {"$in": ["x" * 200] * 100}}),
        json.dumps({"name": "x" * 1_000_000}),
        '{"budget": 1' + "0" * 100_000 + "}",
        '{"budget": 1e-10000}',
    ],
    ids=["names", "not", "operators", "or", "list", "text", "number", "fraction"],
)
def test_attack_a_query_that_explodes(database: Database, where: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "viewer")
        with refused(cursor, "PT422", "is invalid"):
            cursor.execute(
                f"""select public.evaluate_metric('{{"source": "leads", "aggregate": "count", "where": {where}}}')"""
            )


def test_too_expensive_query_is_refused_with_a_hint(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.leads (organization_id, name, created_at)"
            " select %s, 'Ada', now() - n * interval '1 day' from generate_series(1, 1000) n",
            [ACME],
        )
        cursor.execute("analyze public.leads")
        turn(cursor, "viewer")
        assert evaluate(cursor, **LEADS) == {"value": 1000}
        # As if each row were a thousand.
        cursor.execute("set local cpu_tuple_cost = 1000")
        with refused(cursor, "PT422", "would read too much") as caught:
            evaluate(cursor, **LEADS)
        assert "period" in str(caught.value.diag.message_hint)
        assert "at most 200000" in str(caught.value.diag.message_detail)
        assert evaluate(cursor, **LEADS, period="30d")["value"] == 29


def test_the_planner_knows_how_large_this_tenant_is(database: Database) -> None:
    """Only the policy filters it, so the estimate would be that of an average tenant."""
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.leads (organization_id, name) select o.id, 'Ada' from public.organizations o,"
            " generate_series(1, case when o.id = %s then 9000 else 10 end)",
            [ACME],
        )
        cursor.execute("analyze public.leads")
        cursor.execute("set local cpu_tuple_cost = 1000")
        turn(cursor, "globex_member")
        assert evaluate(cursor, **LEADS) == {"value": 10}
        turn(cursor, "member")
        with refused(cursor, "PT422", "would read too much"):
            evaluate(cursor, **LEADS)


# Who sees what -------------------------------------------------------------------------------------------------------


def test_attack_read_another_tenant_through_a_metric(database: Database) -> None:
    with scene(database) as cursor:
        leads(cursor, {"name": "Secret", "budget": 7}, org=GLOBEX)
        row = metric(cursor, GLOBEX)
        turn(cursor, "owner")
        assert evaluate(cursor, source="leads", aggregate="max", column="budget", group_by="name")["series"] == []
        for clause in (
            {},
            {"$or": [{}, {"name": "Secret"}]},
            {"$not": {"name": "x' or true --"}},
            {"$nor": [{"budget": 1}]},
        ):
            assert evaluate(cursor, **LEADS, where=clause) == {"value": 0}
        with refused(cursor, "PT404", "no such metric"):
            call(cursor, "metric_value", metric_id=row["id"])
        # Calling the inner function with another organization keeps the rights of the caller.
        cursor.execute("select private.evaluate(%s, %s) as answer", [json.dumps(LEADS), GLOBEX])
        assert one(cursor)["answer"] == {"value": 0}
        for person in ("outsider", "removed", "globex_owner"):
            turn(cursor, person, ACME)
            with refused(cursor, "42501", "You may not do this"):
                evaluate(cursor, **LEADS)
        turn(cursor, "platform_admin", GLOBEX)
        assert evaluate(cursor, **LEADS) == {"value": 1}


def test_attack_read_a_metric_without_its_permissions(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        row = metric(cursor, permissions=["finance"])
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] == 0
        turn(cursor, "member")
        with refused(cursor, "PT404", "no such metric"):
            call(cursor, "metric_value", metric_id=row["id"])


def test_system_metric_is_counted_for_each_caller(database: Database) -> None:
    with scene(database) as cursor:
        leads(cursor, {}, {})
        leads(cursor, {}, org=GLOBEX)
        row = metric(cursor, None, warning_threshold=1, critical_threshold=2)
        refresh(cursor)
        for person, value, status in (("member", 2, "critical"), ("globex_member", 1, "warning")):
            turn(cursor, person)
            answer = call(cursor, "metric_value", metric_id=row["id"])
            assert (answer["value"], answer["status"], answer["name"]) == (value, status, "Leads")


# What is kept --------------------------------------------------------------------------------------------------------


def refresh(cursor: Cursor) -> Any:
    turn(cursor, None)
    run = one(cursor.execute("select private.perform_run(private.start_run('refresh_dashboard_metrics')) as run"))[
        "run"
    ]
    assert run["outcome"] == "DONE", run
    return run["result"]


def test_metric_uses_the_same_index_as_handwritten_sql(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.leads (organization_id, name, status, created_at)"
            " select o.id, 'Ada', (enum_range(null::\"LeadStatus\"))[1 + n %% 6], now() - n * interval '1 hour'"
            " from public.organizations o, generate_series(1, 3000) n where o.id <> %s or n %% 3 = 0",
            [ACME],
        )
        cursor.execute("analyze public.leads")
        query = {**LEADS, "where": {"status": "LOST"}, "period": "30d", "group_by": "week"}
        turn(cursor, "viewer")
        compiled = one(cursor.execute("select (private.compile_metric(%s)).*", [json.dumps(query)]))
        assert compiled["given"] == []
        statement = compiled["statement"]
        month = "now() - interval '30 d'"
        for place, value in {
            "$2": f"'{ACME}'::uuid",
            "$3": month,
            "$4": "now() - interval '60 d'",
            "$5": "now()",
        }.items():
            statement = statement.replace(place, value)
        plan = str(one(cursor.execute(f"explain (format json) {statement}")))
        assert "leads_status_lost_idx" in plan
        # The policy is evaluated once, not for each row.
        assert "One-Time Filter" in plan
        assert "'Seq Scan'" not in plan


def test_every_allowed_column_exists_with_its_type(database: Database) -> None:
    with database.connect() as connection:
        wrong = connection.execute(
            "select m.source, m.name, m.kind, c.udt_name"
            " from private.metric_columns m left join information_schema.columns c"
            " on c.table_schema = 'public' and c.table_name = m.source and c.column_name = m.name"
            " where c.udt_name is null or (m.kind = 'choice') <> (m.labels is not null and c.data_type <> 'ARRAY')"
            " or (m.kind = 'list') <> (c.data_type = 'ARRAY') or (m.kind = 'time') <> (c.udt_name = 'timestamptz')"
        ).fetchall()
        assert wrong == []
        times = connection.execute(
            "select count(distinct source) from private.metric_columns where kind = 'time'"
        ).fetchone()
        assert times == (24,)


def test_cached_value_is_returned_until_stale(database: Database) -> None:
    with scene(database) as cursor:
        leads(cursor, {})
        row = metric(cursor, refresh_rate=60)
        assert refresh(cursor)["failed"] == 0
        kept = one(cursor.execute("select * from public.dashboard_metrics where id = %s", [row["id"]]))
        assert (kept["cached_value"], kept["cached_result"]) == (1, {"value": 1})
        assert kept["updated_at"] == row["updated_at"]
        leads(cursor, {})
        turn(cursor, "viewer")
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] == 1
        turn(cursor, None)
        cursor.execute("update public.dashboard_metrics set last_calculated = now() - interval '60 s'")
        turn(cursor, "viewer")
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] == 2
        refresh(cursor)
        turn(cursor, "viewer")
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] == 2


def test_a_fresh_value_is_not_counted_again(database: Database) -> None:
    with scene(database) as cursor:
        metric(cursor)
        refresh(cursor)
        assert refresh(cursor) == {"refreshed": 0, "failed": 0}


def test_changed_query_drops_the_cached_value(database: Database) -> None:
    with scene(database) as cursor:
        leads(cursor, {"status": "LOST"})
        row = metric(cursor)
        refresh(cursor)
        turn(cursor, "admin")
        same = change(cursor, "dashboard_metrics", row, name="All leads", query=json.dumps(LEADS))
        assert same
        assert same["cached_value"] == 1
        other = change(cursor, "dashboard_metrics", row, query=json.dumps({**LEADS, "where": {"status": "QUALIFIED"}}))
        assert other
        assert (other["cached_value"], other["cached_result"], other["last_calculated"]) == (None, None, None)
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] == 0


@pytest.mark.parametrize("source", ["notifications", "ai_conversations", "activity_logs"])
def test_attack_read_the_cached_value_of_another_member(database: Database, source: str) -> None:
    """Members see different rows of these: no value is cached, each member gets their own."""
    with scene(database) as cursor:
        cursor.execute("delete from public.notifications")
        cursor.execute(
            "select public.notify_members(%s, 'INFO', 'x', 'x', %s)",
            [ACME, [PEOPLE["owner"]]],
        )
        turn(cursor, "owner")
        cursor.execute("insert into public.ai_conversations (organization_id, ai_model) values (%s, 'x')", [ACME])
        turn(cursor, None)
        cursor.execute(
            "insert into public.activity_logs (organization_id, action, resource_type) values (%s, 'x', 'x')", [ACME]
        )
        row = metric(cursor, query={"source": source, "aggregate": "count"})
        refresh(cursor)
        kept = one(cursor.execute("select * from public.dashboard_metrics where id = %s", [row["id"]]))
        assert (kept["cached_value"], kept["cached_result"], kept["last_calculated"]) == (None, None, None)
        turn(cursor, "owner")
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] >= 1
        turn(cursor, "viewer")
        assert call(cursor, "metric_value", metric_id=row["id"])["value"] == 0


def test_failing_metric_does_not_stop_the_others(database: Database) -> None:
    with scene(database) as cursor:
        bad, good = metric(cursor), metric(cursor)
        cursor.execute("alter table public.dashboard_metrics disable trigger understand")
        change(cursor, "dashboard_metrics", bad, query='{"source": "leads", "aggregate": "median"}')
        cursor.execute("alter table public.dashboard_metrics enable trigger understand")
        result = refresh(cursor)
        assert result["failed"] == 1
        kept = one(cursor.execute("select cached_value from public.dashboard_metrics where id = %s", [good["id"]]))
        assert kept["cached_value"] == 0
        turn(cursor, "member")
        with refused(cursor, "PT422", "is invalid"):
            call(cursor, "metric_value", metric_id=bad["id"])


def test_unknown_metrics_are_404(database: Database) -> None:
    with database.acting_as("member") as cursor, refused(cursor, "PT404", "no such metric"):
        call(cursor, "metric_value", metric_id=uuid4())
