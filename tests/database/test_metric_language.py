"""The metric language compared with a slow Python implementation, on generated queries and rows."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.flags.conditions import compile_condition
from tests.support.rows import Cursor, call, one, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

PROPERTY = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STATUSES = ["NEW_LEAD", "IN_CONTACT", "QUALIFIED", "UNQUALIFIED", "CONVERTED", "LOST"]
NUMBERS = ["budget", "score_value", "min_bedrooms"]
HOURS = {"h": 1, "d": 24, "w": 24 * 7}


@pytest.fixture(scope="module")
def member(database: Database) -> Iterator[Cursor]:
    """A member of Acme among leads of Acme and Globex; the transaction has one fixed time."""
    chance = Random(8)  # noqa: S311 - the same rows in every run
    with scene(database) as cursor:
        columns = "organization_id name company status score_value budget min_bedrooms assigned_to_id tags created_at"
        cursor.executemany(
            f"insert into public.leads ({columns.replace(' ', ', ')}) values"
            " (%s, %s, %s, %s, %s, %s, %s, %s, %s, now() - %s)",
            [
                (
                    ACME if n % 3 else GLOBEX,
                    chance.choice(["Ada", "Bob", "o'Hara; --"]),
                    chance.choice([None, "Acme", "Globex", ""]),
                    chance.choice(STATUSES),
                    chance.choice([0, 20, 50, 79, 80, 100]),
                    chance.choice([None, 0, 1, 250.5, 10_000]),
                    chance.choice([None, 0, 1, 2, 3]),
                    chance.choice([None, PEOPLE["member"], PEOPLE["owner"]]) if n % 3 else None,
                    chance.sample(["a", "b", "c"], chance.randint(0, 3)),
                    # Some exactly where a period begins.
                    timedelta(days=chance.choice([0, 1, 7, 14, 30, 60, chance.uniform(0, 90), chance.uniform(0, 90)])),
                )
                for n in range(400)
            ],
        )
        turn(cursor, "member")
        yield cursor


@pytest.fixture(scope="module")
def world(member: Cursor) -> tuple[list[Row], datetime]:
    """What a member reads, all of it, as a client would; and now."""
    rows = member.execute("select to_jsonb(l) as lead, l.created_at from public.leads l").fetchall()
    now = one(member.execute("select now() as now"))["now"].astimezone(UTC)
    leads = [{**row["lead"], "created_at": stamp(row["created_at"])} for row in rows]
    assert {lead["organization_id"] for lead in leads} == {str(ACME)}
    return leads, now


# A slow reading ------------------------------------------------------------------------------------------------------


def stamp(moment: datetime) -> str:
    """Times as texts of one form, which compare as the times do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def span(period: str) -> timedelta:
    return timedelta(hours=int(period[:-1]) * HOURS[period[-1]])


def resolved(condition: Any, now: datetime) -> Any:
    """With moments instead of "now-7d"."""
    if isinstance(condition, dict):
        return {key: resolved(value, now) for key, value in condition.items()}
    if isinstance(condition, list):
        return [resolved(value, now) for value in condition]
    if isinstance(condition, str) and condition.startswith("now"):
        return stamp(now + (span(condition[4:]) * (-1 if condition[3] == "-" else 1) if condition[3:] else timedelta()))
    return condition


def aggregated(rows: list[Row], query: Row) -> Any:
    values: list[Any] = rows
    if "column" in query:
        values = [row[query["column"]] for row in rows if row[query["column"]] is not None]
    match query["aggregate"]:
        case "count":
            return len(values)
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values) if values else None
        case "min":
            return min(values, default=None)
    return max(values, default=None)


def bucket(row: Row, unit: str) -> str:
    day = datetime.fromisoformat(row["created_at"]).date()
    if unit == "week":
        day -= timedelta(days=day.weekday())
    return str(day.replace(day=1) if unit == "month" else day)


def read_slowly(leads: list[Row], query: Row, now: datetime) -> Row:
    holds = compile_condition(resolved(query.get("where", {}), now))
    rows = [lead for lead in leads if holds(lead)]
    answer: Row = {}
    if "period" in query:
        begins = now - span(query["period"])
        began = stamp(now - 2 * span(query["period"]))
        before = [row for row in rows if began < row["created_at"] <= stamp(begins)]
        rows = [row for row in rows if stamp(begins) < row["created_at"] <= stamp(now)]
        answer["previous"] = aggregated(before, query)
    answer["value"] = aggregated(rows, query)
    if "group_by" in query:
        by_time = query["group_by"] in {"day", "week", "month"}
        groups: dict[Any, list[Row]] = {}
        if by_time:
            first = begins
            while first <= now + timedelta(days=1):
                if first.date() <= now.date():
                    groups.setdefault(bucket({"created_at": stamp(first)}, query["group_by"]), [])
                first += timedelta(days=1)
        for row in rows:
            groups.setdefault(bucket(row, query["group_by"]) if by_time else row[query["group_by"]], []).append(row)
        answer["series"] = {group: aggregated(found, query) for group, found in groups.items()}
    return answer


def same(ours: Any, slow: Any) -> bool:
    return bool(ours == slow if None in (ours, slow) else ours == pytest.approx(slow, rel=1e-9))


# Made-up queries -----------------------------------------------------------------------------------------------------

amounts = st.sampled_from([0, 1, 2, 50, 79.5, 250.5, 10_000])
texts = st.sampled_from(["Ada", "Acme", "", "o'Hara; --", "nobody", "'); drop table leads; --", "$1", "%s"])
moments = st.sampled_from(["now", "now-1d", "now-7d", "now-30d", "now-2w", "now+1h", "now-36h"])
people = st.sampled_from([str(PEOPLE["member"]), str(PEOPLE["owner"]), str(uuid4())])
tags = st.sampled_from(["a", "b", "c", "d'"])


def operators(values: st.SearchStrategy[Any], *, ordered: bool) -> st.SearchStrategy[Any]:
    plain = st.one_of(values, st.none())
    parts: dict[str, st.SearchStrategy[Any]] = {
        "$eq": plain, "$ne": plain, "$in": st.lists(values, max_size=3), "$nin": st.lists(values, max_size=3),
        "$exists": st.booleans(),
    }  # fmt: skip
    if ordered:
        parts |= dict.fromkeys(["$gt", "$gte", "$lt", "$lte"], values)
    some = st.fixed_dictionaries({}, optional=parts).filter(bool)
    return st.one_of(plain, some, st.fixed_dictionaries({"$not": some}))


listing = st.fixed_dictionaries(
    {},
    optional={
        "$in": st.lists(tags, max_size=2), "$nin": st.lists(tags, max_size=2), "$all": st.lists(tags, max_size=2),
        "$size": st.integers(0, 3), "$not": st.fixed_dictionaries({"$in": st.lists(tags, max_size=2)}),
    },
).filter(bool)  # fmt: skip
generated = st.fixed_dictionaries(
    {},
    optional={
        "status": operators(st.sampled_from(STATUSES), ordered=False),
        "name": operators(texts, ordered=False),
        "company": operators(texts, ordered=False),
        "budget": operators(amounts, ordered=True),
        "score_value": operators(amounts, ordered=True),
        "assigned_to_id": operators(people, ordered=False),
        "created_at": operators(moments, ordered=True),
        "tags": listing,
    },
)
conditions = st.recursive(
    generated,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "$and": st.lists(inner, max_size=2),
            "$or": st.lists(inner, max_size=2),
            "$nor": st.lists(inner, max_size=2),
            "$not": inner,
            "status": st.sampled_from(STATUSES),
        },
    ),
    max_leaves=5,
)


@st.composite
def queries(draw: st.DrawFn) -> Row:
    query: Row = {"source": "leads", "aggregate": draw(st.sampled_from(["count", "sum", "avg", "min", "max"]))}
    if query["aggregate"] != "count":
        query["column"] = draw(st.sampled_from(NUMBERS))
    elif draw(st.booleans()):
        query["column"] = draw(st.sampled_from(["company", *NUMBERS]))
    if draw(st.booleans()):
        query["where"] = draw(conditions)
    groups = ["status", "company", "assigned_to_id"]
    if draw(st.booleans()):
        query["period"] = draw(st.sampled_from(["36h", "7d", "30d", "2w", "60d"]))
        groups += ["day", "week", "month"]
    if draw(st.booleans()):
        query["group_by"] = draw(st.sampled_from(groups))
    return query


@PROPERTY
@given(query=queries())
def test_value_equals_the_slow_implementation(
    member: Cursor, world: tuple[list[Row], datetime], query: dict[str, Any]
) -> None:
    ours = call(member, "evaluate_metric", query=json.dumps(query))
    slow = read_slowly(world[0], query, world[1])
    assert same(ours["value"], slow["value"])
    assert same(ours.get("previous"), slow.get("previous"))
    assert ("change" in ours) == ("period" in query)
    if "group_by" not in query:
        assert "series" not in ours
        return
    series = {point["group"]: point["value"] for point in ours["series"]}
    assert len(series) == len(ours["series"])
    assert series.keys() == slow["series"].keys()
    assert [group for group in series if not same(series[group], slow["series"][group])] == []
    if query["aggregate"] in {"count", "sum"}:
        assert sum(series.values()) == pytest.approx(ours["value"])
    if query["group_by"] in {"day", "week", "month"}:
        assert list(series) == sorted(series)


# Whatever can be made up ---------------------------------------------------------------------------------------------

# The mark reveals whether user input reaches a statement.
MARK = "zqx"
marked = st.builds(
    lambda before, after: f"{before}{MARK}{after}",
    st.sampled_from(["", "'", '"', "\\", "$$", "');", "--", "/*", "$1", "%I", "%1$s", "E'", "U&'", "\n", "s."]),
    st.one_of(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
              st.sampled_from(["'", '"', "; drop table leads", "::regclass", " or true", "' || '"])),
)  # fmt: skip
words = st.sampled_from(
    ["leads", "users", "count", "sum", "status", "budget", "name", "tags", "created_at", "id", "day", "30d", "now",
     "$eq", "$in", "$not", "$or", "$nor", "$exists", "$size", "$all", "$gt", "$regex", "LOST", "organization_id"]
)  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), marked, words
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(words, marked), inner, max_size=4)),
    max_leaves=12,
)
wheres = st.recursive(
    st.dictionaries(st.sampled_from(["status", "name", "budget", "tags", "created_at", MARK]), anything, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or", "$nor", "$not", "name", "tags"]), st.one_of(inner, st.lists(inner, max_size=3)),
        max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip
nonsense = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"source": st.one_of(st.just("leads"), anything), "aggregate": st.one_of(st.just("count"), anything)},
        optional={
            "column": anything, "where": wheres, "period": st.one_of(st.just("30d"), anything),
            "time": anything, "group_by": anything, MARK: anything,
        },
    ),
    # Right but for what is compared.
    st.fixed_dictionaries(
        {
            "source": st.just("leads"), "aggregate": st.just("count"),
            "where": st.fixed_dictionaries(
                {},
                optional={
                    "name": st.one_of(marked, st.fixed_dictionaries({"$in": st.lists(marked, max_size=4)})),
                    "company": st.fixed_dictionaries({"$not": st.fixed_dictionaries({"$ne": marked})}),
                    "tags": st.fixed_dictionaries({"$all": st.lists(marked, max_size=3)}),
                    "$nor": st.lists(st.fixed_dictionaries({"name": marked}), max_size=2),
                    "budget": st.fixed_dictionaries({"$gt": st.floats(allow_nan=False, allow_infinity=False)}),
                },
            ),
        }
    ),
)  # fmt: skip


@settings(PROPERTY, max_examples=500)
@given(query=nonsense)
def test_attack_inject_sql_through_a_query(member: Cursor, query: Any) -> None:
    sent = json.dumps(query)
    try:
        with member.connection.transaction():
            compiled = one(member.execute("select (private.compile_metric(%s)).*", [sent]))
            assert MARK not in compiled["statement"]
            assert "value" in call(member, "evaluate_metric", query=sent)
    except psycopg.Error as error:
        if error.sqlstate != "PT422" or "is invalid" not in str(error):
            raise
    assert one(member.execute("select count(*) as left from public.leads"))["left"] > 200
