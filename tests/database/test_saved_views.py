"""Saved views show the rows of their filter; new listings are reported to members with suitable buyers."""

from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.support.rows import Cursor, add, call, change, one, refused, remove, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

REPORT = "select private.report_matches() as compared"
HOUSE = {"title": "House", "address": "1 Elm", "city": "Austin", "state": "TX", "zip_code": "78701", "price": 100}


def view(cursor: Cursor, source: str = "leads", **columns: Any) -> Row:
    written = {name: Jsonb(value) if name in ("filter", "sort") else value for name, value in columns.items()}
    return add(cursor, "saved_views", **{"name": "View", "source": source, **written})


def names(cursor: Cursor, saved: Row, **page: int) -> list[str]:
    return [row["name"] for row in call(cursor, "view_rows", view_id=saved["id"], **page)]


def test_saved_view_lists_its_columns_in_its_order(database: Database) -> None:
    with scene(database) as cursor:
        for name, score in {"Ada": 90, "Ben": 60, "Cyd": 85, "Dan": 10}.items():
            add(cursor, "leads", organization_id=ACME, name=name, score_value=score)
        add(cursor, "leads", organization_id=GLOBEX, name="Theirs", score_value=99)
        turn(cursor, "member")
        saved = view(
            cursor, filter={"score_value": {"$gte": 50}}, sort=[{"column": "score_value", "direction": "desc"}],
            columns=["name", "score"],
        )  # fmt: skip
        rows = call(cursor, "view_rows", view_id=saved["id"])
        assert [row["name"] for row in rows] == ["Ada", "Cyd", "Ben"]
        assert set(rows[0]) == {"id", "name", "score"}
        assert names(cursor, saved, page_size=2, page=2) == ["Ben"]
        everything = view(cursor)
        counts = cursor.execute("select * from public.view_counts(%s)", [[saved["id"], everything["id"], uuid4()]])
        assert {row["view_id"]: row["rows"] for row in counts} == {saved["id"]: 3, everything["id"]: 4}


@pytest.mark.parametrize(
    ("columns", "place"),
    [
        ({"source": "users"}, "source"),
        ({"filter": {"password": "x"}}, "filter"),
        ({"filter": {"score_value": {"$where": "1"}}}, "filter"),
        ({"sort": [{"column": "tags"}]}, r"sort\[0\]"),
        ({"sort": [{"column": "name", "direction": "desc; drop table"}]}, r"sort\[0\]"),
        ({"columns": ["organization_id"]}, "columns"),
    ],
)
def test_a_view_that_could_not_be_opened_is_not_saved(database: Database, columns: dict[str, Any], place: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT422", "is invalid") as refusal:
            view(cursor, **columns)
        assert refusal.value.diag.message_detail is not None
        assert refusal.value.diag.message_detail.startswith(place.replace("\\", ""))


def test_private_view_is_visible_to_its_owner_only(database: Database) -> None:
    with scene(database) as cursor:
        add(cursor, "leads", organization_id=ACME, name="Ada")
        turn(cursor, "member")
        private, shared = view(cursor), view(cursor, is_shared=True)
        turn(cursor, "admin")
        assert names(cursor, shared) == ["Ada"]
        with refused(cursor, "PT404", "no such view"):
            names(cursor, private)
        assert change(cursor, "saved_views", shared, name="Mine") is None
        assert not remove(cursor, "saved_views", private)
        assert remove(cursor, "saved_views", shared)


SOURCES = """
    leads contacts companies deals listings tasks notes appointments projects activities customers custom_agent_orders
    agent_templates tool_blueprints project_showcases content
""".split()  # noqa: SIM905 - words read better than a list of quotes


@pytest.mark.parametrize("source", SOURCES)
def test_every_list_can_be_a_view(database: Database, source: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        assert call(cursor, "view_rows", view_id=view(cursor, source)["id"]) == []


def test_new_listing_is_reported_once_to_agents_with_matching_buyers(database: Database) -> None:
    with scene(database) as cursor:
        wish = {"organization_id": ACME, "budget": 200, "cities": ["austin"], "is_watching": True}
        add(cursor, "leads", name="Ada", assigned_to_id=PEOPLE["member"], **wish)
        add(cursor, "contacts", name="Ben", assigned_to_id=PEOPLE["member"], **wish)
        add(cursor, "leads", name="Cyd", **wish)
        add(cursor, "leads", name="Poor", assigned_to_id=PEOPLE["admin"], **{**wish, "budget": 50})
        add(cursor, "leads", name="Silent", assigned_to_id=PEOPLE["admin"], **{**wish, "is_watching": False})
        add(cursor, "leads", name="Theirs", **{**wish, "organization_id": GLOBEX})
        add(cursor, "listings", organization_id=ACME, **HOUSE)
        add(cursor, "listings", organization_id=ACME, **{**HOUSE, "status": "SOLD"})
        cursor.execute("delete from private.matches_due where kind <> 'listing'")
        assert [one(cursor.execute(REPORT))["compared"] for _ in range(2)] == [1, 0]
        sent = cursor.execute(
            "select user_id, message from public.notifications where message like 'House%' order by message"
        ).fetchall()
        assert {row["user_id"]: row["message"] for row in sent} == {
            PEOPLE["member"]: "House in Austin suits Ada, Ben.",
            PEOPLE["owner"]: "House in Austin suits Cyd.",
        }


def matched(cursor: Cursor) -> list[tuple[str, str]]:
    """What is reported of what is queued, to whom."""
    people = {id_: name for name, id_ in PEOPLE.items()}
    cursor.execute("delete from public.notifications")
    cursor.execute(REPORT)
    rows = cursor.execute(
        "select user_id, message from public.notifications where kind like 'crm.%.matched'"
    ).fetchall()
    return sorted((people[row["user_id"]], row["message"]) for row in rows)


def test_new_buyer_is_reported_once_to_agents_with_matching_listings(database: Database) -> None:
    with scene(database) as cursor:
        for title, who, price in (
            ("Elm", "member", 100),
            ("Oak", "member", 150),
            ("Ash", None, 90),
            ("Hall", None, 900),
        ):
            house = {**HOUSE, "title": title, "price": price, "assigned_to_id": PEOPLE.get(who or "")}
            add(cursor, "listings", organization_id=ACME, **house)
        add(cursor, "listings", organization_id=GLOBEX, **HOUSE)
        assert matched(cursor) == []
        wish = {"organization_id": ACME, "budget": 120, "cities": ["austin"], "assigned_to_id": PEOPLE["admin"]}
        buyer = add(cursor, "contacts", name="Ada", **wish)
        assert matched(cursor) == [], "she does not watch"
        change(cursor, "contacts", buyer, is_watching=True)
        assert matched(cursor) == [("member", "Ada looks for Elm."), ("owner", "Ada looks for Ash.")]
        change(cursor, "contacts", buyer, budget=200)
        assert matched(cursor) == [("member", "Ada looks for Oak.")], "only what is new"
        change(cursor, "contacts", buyer, min_bedrooms=1)
        change(cursor, "contacts", buyer, min_bedrooms=None, name="Ada L.")
        assert matched(cursor) == []


def test_cheaper_listing_is_reported_to_the_buyers_it_suits_now(database: Database) -> None:
    with scene(database) as cursor:
        wish = {"organization_id": ACME, "budget": 120, "is_watching": True, "assigned_to_id": PEOPLE["admin"]}
        add(cursor, "leads", name="Ada", **wish)
        house = add(cursor, "listings", organization_id=ACME, **{**HOUSE, "price": 150})
        assert matched(cursor) == []
        change(cursor, "listings", house, price=110)
        assert matched(cursor) == [("admin", "House in Austin suits Ada.")]
        change(cursor, "listings", house, price=115)
        assert matched(cursor) == []


def test_matches_of_deleted_records_are_reported_to_nobody(database: Database) -> None:
    with scene(database) as cursor:
        add(cursor, "listings", organization_id=ACME, **HOUSE)
        buyer = add(cursor, "leads", organization_id=ACME, name="Ada", budget=900, is_watching=True)
        remove(cursor, "leads", buyer)
        assert matched(cursor) == []


def test_attack_hold_up_the_matches_of_others(database: Database) -> None:
    """All changed records are compared again; organizations take turns."""
    with scene(database) as cursor:
        buyer = {"budget": 200, "is_watching": True}
        add(cursor, "listings", organization_id=GLOBEX, **HOUSE)
        cursor.execute(
            "insert into public.leads (organization_id, name, budget, is_watching) select %s, 'Eve', 200, true"
            " from generate_series(1, 600)",
            [ACME],
        )
        add(cursor, "leads", organization_id=GLOBEX, name="Ada", assigned_to_id=PEOPLE["globex_member"], **buyer)
        cursor.execute(
            "update private.matches_due set queued_at = now() + interval '1 s' where organization_id = %s", [GLOBEX]
        )
        found = matched(cursor)
        assert ("globex_owner", "Ada looks for House.") in found or (
            "globex_member",
            "House in Austin suits Ada.",
        ) in found


def test_attack_fill_the_database_with_matches(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.listings (organization_id, title, address, city, state, zip_code, price)"
            " select %s, 'House', '1 Elm', 'Austin', 'TX', '78701', 100 from generate_series(1, 300)",
            [ACME],
        )
        cursor.execute(
            "insert into public.leads (organization_id, name, budget, is_watching) select %s, 'Eve', 200, true"
            " from generate_series(1, 300)",
            [ACME],
        )
        for kind in ("listing", "lead"):
            cursor.execute("delete from private.matches")
            cursor.execute("delete from private.matches_due")
            cursor.execute(
                "insert into private.matches_due (kind, record_id, organization_id)"
                f" select %s, id, organization_id from public.{kind}s where organization_id = %s limit 1",
                [kind, ACME],
            )
            cursor.execute(REPORT)
            assert one(cursor.execute("select count(*) from private.matches"))["count"] == 200
