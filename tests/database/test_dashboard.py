"""Widgets, layouts, the activity feed, quick actions and metrics: permissions and counts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from tests.support.rows import Cursor, add, call, change, one, refused, remove, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

PLACE = '{"x": 0, "y": 0, "w": 2, "h": 1}'
TABLES: dict[str, dict[str, Any]] = {
    "dashboard_widgets": {"name": "Pipeline", "type": "CALENDAR", "config": "{}", "position": PLACE},
    "activity_feeds": {
        "title": "Done", "type": "USER_ACTION", "entity_type": "deal", "entity_id": "1", "action": "done",
    },
    "quick_actions": {"name": "New lead", "icon": "plus", "action_type": "NAVIGATION", "target_url": "/leads/new"},
    "dashboard_metrics": {"name": "Leads", "category": "SALES", "query": '{"source": "leads", "aggregate": "count"}'},
}  # fmt: skip
MANAGED = ["dashboard_widgets", "quick_actions", "dashboard_metrics"]
OF_THE_SYSTEM = ["quick_actions", "dashboard_metrics"]


def make(cursor: Cursor, table: str, **columns: Any) -> Row:
    return add(cursor, table, **{"organization_id": ACME, **TABLES[table], **columns})


def make_for(cursor: Cursor, org: Any, table: str, **columns: Any) -> Row:
    """Insert a row as the owner of the table, regardless of who acts in the transaction."""
    author = {"created_by": PEOPLE["owner" if org == ACME else "globex_owner"]} if table == "dashboard_widgets" else {}
    return add(cursor, table, organization_id=org, **{**TABLES[table], **author, **columns})


def seen(cursor: Cursor, table: str, row: Row) -> Row | None:
    return cursor.execute(f"select * from public.{table} where id = %s", [row["id"]]).fetchone()


def pages(cursor: Cursor, size: int) -> list[Row]:
    """The whole feed, page after page, as a client reads it."""
    entries: list[Row] = []
    page = cursor.execute("select * from public.feed_page(page_size => %s)", [size]).fetchall()
    while page:
        entries += page
        last = page[-1]["created_at"], page[-1]["id"]
        page = cursor.execute("select * from public.feed_page(%s, %s, %s)", [*last, size]).fetchall()
    return entries


# Who may do what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", MANAGED)
def test_admins_manage_the_dashboard_and_members_read_it(database: Database, table: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        row = make(cursor, table)
        assert row["created_by"] == PEOPLE["admin"]
        for person in ("member", "viewer"):
            turn(cursor, person)
            assert seen(cursor, table, row) == row
            with refused(cursor, "42501", "row-level security"):
                make(cursor, table)
            assert change(cursor, table, row, name="Mine") is None
            assert not remove(cursor, table, row)
        turn(cursor, "admin")
        assert change(cursor, table, row, name="Ours")
        assert remove(cursor, table, row)


@pytest.mark.parametrize("table", TABLES)
def test_attack_reach_another_tenants_dashboard(database: Database, table: str) -> None:
    columns = {"title": "x"} if table == "activity_feeds" else {"name": "x"}
    with scene(database) as cursor:
        row = make_for(cursor, ACME, table)
        for person in ("globex_owner", "outsider", "removed", "suspended"):
            for org in (None, ACME):
                turn(cursor, person, org)
                assert seen(cursor, table, row) is None
                with refused(cursor, "42501", "row-level security"):
                    make(cursor, table)
                assert not remove(cursor, table, row)
                if table in MANAGED:
                    assert change(cursor, table, row, **columns) is None
        turn(cursor, "platform_admin", ACME)
        assert seen(cursor, table, row) == row
        with refused(cursor, "42501", "row-level security"):
            make(cursor, table)
        assert not remove(cursor, table, row)


@pytest.mark.parametrize("table", MANAGED)
def test_attack_move_a_row_into_another_own_organization(database: Database, table: str) -> None:
    with scene(database) as cursor:
        add(cursor, "organization_members", user_id=PEOPLE["admin"], organization_id=GLOBEX, role="ADMIN")
        row = make_for(cursor, ACME, table)
        cursor.execute(f"delete from public.{table} where id <> %s", [row["id"]])
        turn(cursor, "admin", ACME)
        with refused(cursor, "42501", "row-level security"):
            change(cursor, table, row, organization_id=GLOBEX)
        # Without a condition or RETURNING, only the update policy checks the new row.
        with refused(cursor, "42501", "row-level security"):
            cursor.execute(f"update public.{table} set organization_id = %s", [GLOBEX])


@pytest.mark.parametrize("table", OF_THE_SYSTEM)
def test_only_platform_admins_write_system_rows(database: Database, table: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "platform_admin")
        row = make(cursor, table, organization_id=None)
        for person in ("member", "globex_member", "outsider"):
            turn(cursor, person)
            assert seen(cursor, table, row) == row
        turn(cursor, "suspended")
        assert seen(cursor, table, row) is None
        for person in ("owner", "outsider"):
            turn(cursor, person)
            with refused(cursor, "42501", "row-level security"):
                make(cursor, table, organization_id=None)
            assert change(cursor, table, row, name="Mine") is None
            assert not remove(cursor, table, row)
        turn(cursor, "platform_admin")
        assert change(cursor, table, row, name="Ours")
        assert remove(cursor, table, row)


@pytest.mark.parametrize("table", OF_THE_SYSTEM)
def test_attack_owner_turns_a_row_into_a_system_row(database: Database, table: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        row = make(cursor, table)
        with refused(cursor, "42501", "row-level security"):
            change(cursor, table, row, organization_id=None)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("dashboard_widgets", "created_by", PEOPLE["member"]),
        ("quick_actions", "created_by", PEOPLE["member"]),
        ("quick_actions", "usage_count", 1000),
        ("quick_actions", "last_used", "2026-01-01"),
        ("dashboard_metrics", "created_by", PEOPLE["member"]),
        ("dashboard_metrics", "cached_value", 1000),
        ("dashboard_metrics", "last_calculated", "2026-01-01"),
        ("activity_feeds", "created_at", "2020-01-01"),
    ],
)
def test_attack_forge_server_columns(database: Database, table: str, column: str, value: Any) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        row = make(cursor, table)
        with refused(cursor, "42501", "permission denied"):
            make(cursor, table, **{column: value})
        with refused(cursor, "42501", "permission denied"):
            change(cursor, table, row, **{column: value})


# Widgets and metrics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["dashboard_widgets", "dashboard_metrics"])
def test_member_sees_only_rows_covered_by_all_permissions(database: Database, table: str) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, table, permissions=["finance", "sales"])
        for held, visible in ([], False), (["sales"], False), (["hr", "sales", "finance"], True):
            turn(cursor, None)
            cursor.execute(
                "update public.organization_members set permissions = %s where user_id = %s", [held, PEOPLE["member"]]
            )
            turn(cursor, "member")
            assert (seen(cursor, table, row) is not None) == visible
        turn(cursor, "viewer")
        assert seen(cursor, table, row) is None


@pytest.mark.parametrize("table", ["dashboard_widgets", "dashboard_metrics"])
def test_dashboard_admins_see_all_of_it(database: Database, table: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        row = make(cursor, table, permissions=["finance"])
        for person in ("admin", "owner", "platform_admin"):
            turn(cursor, person, ACME)
            assert seen(cursor, table, row)


def test_permissions_apply_to_one_organization_only(database: Database) -> None:
    with scene(database) as cursor:
        add(
            cursor, "organization_members", user_id=PEOPLE["member"], organization_id=GLOBEX, role="MEMBER",
            permissions=["finance"],
        )  # fmt: skip
        row = make_for(cursor, ACME, "dashboard_widgets", permissions=["finance"])
        turn(cursor, "member", ACME)
        assert seen(cursor, "dashboard_widgets", row) is None


@pytest.mark.parametrize(
    "position",
    [
        "{}",
        "[]",
        "null",
        '"0"',
        '{"x": 0, "y": 0, "w": 1}',
        '{"x": -1, "y": 0, "w": 1, "h": 1}',
        '{"x": 0, "y": -1, "w": 1, "h": 1}',
        '{"x": 0, "y": 0, "w": 0, "h": 1}',
        '{"x": 0, "y": 0, "w": 1, "h": 0}',
        '{"x": 0.5, "y": 0, "w": 1, "h": 1}',
        '{"x": "0", "y": 0, "w": 1, "h": 1}',
        '{"x": [0], "y": 0, "w": 1, "h": 1}',
        '{"x": null, "y": 0, "w": 1, "h": 1}',
        '[{"x": 0, "y": 0, "w": 1, "h": 1}]',
    ],
)
def test_a_place_that_is_none_is_refused(database: Database, position: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        with refused(cursor, "23502" if position == "null" else "23514", "position"):
            make(cursor, "dashboard_widgets", position=position)


@pytest.mark.parametrize(
    ("table", "columns", "rule"),
    [
        ("dashboard_widgets", {"refresh_rate": 59}, "refresh_rate is at least 60 seconds"),
        ("dashboard_widgets", {"config": "[]"}, "config is an object"),
        ("dashboard_widgets", {"name": "x" * 256}, "widget name is 1 to 255 characters"),
        ("dashboard_metrics", {"query": "[]"}, "query is an object"),
        ("dashboard_metrics", {"format": "money"}, "format is number, currency or percentage"),
        ("dashboard_metrics", {"refresh_rate": 0}, "refresh_rate is positive"),
        ("quick_actions", {"target_url": "javascript:alert(1)"}, "target_url is a path or an http"),
        ("quick_actions", {"target_url": "java\nscript:alert(1)"}, "target_url is a path or an http"),
        ("quick_actions", {"api_endpoint": "data:text/html,x"}, "api_endpoint is a path or an http"),
        ("quick_actions", {"required_role": ["BOSS"]}, "required_role lists organization roles"),
        ("quick_actions", {"required_tier": ["GOLD"]}, "required_tier lists subscription tiers"),
        ("activity_feeds", {"title": ""}, "feed title is 1 to 255 characters"),
    ],
)
def test_value_out_of_range_is_refused_with_the_rule(
    database: Database, table: str, columns: dict[str, Any], rule: str
) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        with refused(cursor, "23514", rule):
            make(cursor, table, **columns)


# Layouts -------------------------------------------------------------------------------------------------------------


def test_a_layout_belongs_to_one_person(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("delete from public.user_dashboards")
        turn(cursor, "viewer")
        mine = add(cursor, "user_dashboards", layout="{}")
        assert mine["user_id"] == PEOPLE["viewer"]
        for person in ("owner", "platform_admin", "suspended", "globex_owner"):
            turn(cursor, person, None if person == "globex_owner" else ACME)
            assert seen(cursor, "user_dashboards", mine) is None
            assert change(cursor, "user_dashboards", mine, theme="DARK") is None
            assert not remove(cursor, "user_dashboards", mine)
            # Without a condition, too: then the select policy does not apply.
            assert cursor.execute("update public.user_dashboards set theme = 'DARK'").rowcount == 0
            assert cursor.execute("delete from public.user_dashboards").rowcount == 0
        turn(cursor, "viewer")
        assert change(cursor, "user_dashboards", mine, theme="DARK")
        assert remove(cursor, "user_dashboards", mine)


def test_attack_create_or_transfer_a_layout_for_another_user(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("delete from public.user_dashboards")
        turn(cursor, "member")
        # Without RETURNING, only the insert policy checks the row.
        with refused(cursor, "42501", "row-level security"):
            cursor.execute("insert into public.user_dashboards (layout, user_id) values ('{}', %s)", [PEOPLE["owner"]])
        mine = add(cursor, "user_dashboards", layout="{}")
        with refused(cursor, "42501", "row-level security"):
            change(cursor, "user_dashboards", mine, user_id=PEOPLE["owner"])
        with refused(cursor, "42501", "row-level security"):
            cursor.execute("update public.user_dashboards set user_id = %s", [PEOPLE["owner"]])
        with refused(cursor, "23505", "user_id is unique in user_dashboards"):
            add(cursor, "user_dashboards", layout="{}")


def test_a_layout_is_saved_by_upsert(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        for theme in ("LIGHT", "DARK"):
            cursor.execute(
                "insert into public.user_dashboards (user_id, layout, theme) values (%s, '{}', %s)"
                " on conflict (user_id) do update"
                " set user_id = excluded.user_id, layout = excluded.layout, theme = excluded.theme",
                [PEOPLE["member"], theme],
            )
        cursor.execute("select theme from public.user_dashboards")
        assert cursor.fetchall() == [{"theme": "DARK"}]


# The feed ------------------------------------------------------------------------------------------------------------


def test_attack_write_feed_entries_for_another_user(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        assert make(cursor, "activity_feeds")["user_id"] == PEOPLE["member"]
        for user in (PEOPLE["owner"], None):
            with refused(cursor, "42501", "row-level security"):
                make(cursor, "activity_feeds", user_id=user)


def test_feed_entries_are_immutable(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        row = make(cursor, "activity_feeds")
        for column, value in {"title": "x", "user_id": PEOPLE["member"], "organization_id": GLOBEX}.items():
            with refused(cursor, "42501", "permission denied"):
                change(cursor, "activity_feeds", row, **{column: value})


def test_only_admins_delete_feed_entries(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "activity_feeds")
        call(cursor, "mark_feed_read", ids=[row["id"]])
        assert not remove(cursor, "activity_feeds", row)
        turn(cursor, "admin")
        assert remove(cursor, "activity_feeds", row)
        turn(cursor, "member")
        assert cursor.execute("select from public.activity_feed_reads").rowcount == 0


@pytest.mark.parametrize("size", [1, 7, 100])
def test_feed_pages_hold_every_entry_once_newest_first(database: Database, size: int) -> None:
    with scene(database) as cursor:
        # Ten entries share each timestamp: the timestamp alone would lose or repeat entries between pages.
        cursor.execute(
            "insert into public.activity_feeds"
            " (organization_id, title, type, entity_type, entity_id, action, created_at)"
            " select o.id, 'x', 'USER_ACTION', 'x', 'x', 'x', now() - (i / 10) * interval '1 s'"
            " from public.organizations o, generate_series(1, 35) i"
        )
        cursor.execute(
            "select id from public.activity_feeds where organization_id = %s order by created_at desc, id desc", [ACME]
        )
        expected = [row["id"] for row in cursor.fetchall()]
        turn(cursor, "viewer")
        assert [entry["id"] for entry in pages(cursor, size)] == expected


def test_archived_entry_is_hidden_for_all_until_restored(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "activity_feeds")
        assert call(cursor, "archive_feed_entries", ids=[row["id"]]) == 1
        turn(cursor, "owner")
        assert pages(cursor, 10) == []
        cursor.execute("select id from public.feed_page(archived => true)")
        assert cursor.fetchall() == [{"id": row["id"]}]
        call(cursor, "archive_feed_entries", ids=[row["id"]], archived=False)
        assert [entry["id"] for entry in pages(cursor, 10)] == [row["id"]]


def test_pinning_changes_only_the_pin(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        row = make(cursor, "activity_feeds")
        assert call(cursor, "pin_feed_entries", ids=[row["id"]]) == 1
        assert seen(cursor, "activity_feeds", row) == {**row, "is_pinned": True}


def test_reading_is_everyones_own(database: Database) -> None:
    with scene(database) as cursor:
        rows = [make_for(cursor, ACME, "activity_feeds") for _ in range(2)]
        turn(cursor, "viewer")
        assert call(cursor, "mark_feed_read", ids=[rows[0]["id"]]) == 1
        assert call(cursor, "mark_feed_read", ids=[row["id"] for row in rows]) == 1
        assert [entry["is_read"] for entry in pages(cursor, 10)] == [True, True]
        turn(cursor, "member")
        assert [entry["is_read"] for entry in pages(cursor, 10)] == [False, False]
        # Settled for everyone is read for everyone.
        change(cursor, "activity_feeds", rows[0], is_read=True)
        turn(cursor, "owner")
        assert {entry["id"] for entry in pages(cursor, 10) if entry["is_read"]} == {rows[0]["id"]}
        assert cursor.execute("select from public.activity_feed_reads").rowcount == 0


def test_attack_read_in_anothers_name_or_tenant(database: Database) -> None:
    with scene(database) as cursor:
        ours, theirs = make_for(cursor, ACME, "activity_feeds"), make_for(cursor, GLOBEX, "activity_feeds")
        turn(cursor, "member")
        place = {"organization_id": ACME, "activity_feed_id": ours["id"]}
        for forged in ({"user_id": PEOPLE["owner"]}, {"organization_id": GLOBEX, "activity_feed_id": theirs["id"]}):
            with refused(cursor, "42501", "row-level security"):
                add(cursor, "activity_feed_reads", **{**place, **forged})
        with refused(cursor, "23503", "foreign key"):
            add(cursor, "activity_feed_reads", **{**place, "activity_feed_id": theirs["id"]})
        add(cursor, "activity_feed_reads", **place)
        turn(cursor, "owner")
        assert cursor.execute("delete from public.activity_feed_reads").rowcount == 0
        turn(cursor, "member")
        assert cursor.execute("delete from public.activity_feed_reads").rowcount == 1


def test_feed_read_state_belongs_to_one_organization(database: Database) -> None:
    with scene(database) as cursor:
        add(cursor, "organization_members", user_id=PEOPLE["member"], organization_id=GLOBEX, role="MEMBER")
        row = make_for(cursor, ACME, "activity_feeds")
        turn(cursor, "member", ACME)
        call(cursor, "mark_feed_read", ids=[row["id"]])
        turn(cursor, "member", GLOBEX)
        assert cursor.execute("select from public.activity_feed_reads").rowcount == 0
        assert cursor.execute("delete from public.activity_feed_reads").rowcount == 0


@pytest.mark.parametrize("function", ["mark_feed_read", "pin_feed_entries", "archive_feed_entries"])
def test_feed_entries_are_changed_all_or_none(database: Database, function: str) -> None:
    with scene(database) as cursor:
        ours, theirs = make_for(cursor, ACME, "activity_feeds"), make_for(cursor, GLOBEX, "activity_feeds")
        turn(cursor, "member")
        for other in (theirs["id"], uuid4()):
            with refused(cursor, "PT404", "no such feed entry"):
                call(cursor, function, ids=[ours["id"], other])
        for ids in ([], [uuid4() for _ in range(101)]):
            with refused(cursor, "PT422", "1 to 100 entries"):
                call(cursor, function, ids=ids)
        assert [entry["is_read"] for entry in pages(cursor, 10)] == [False]
        assert seen(cursor, "activity_feeds", ours) == ours


@pytest.mark.parametrize("function", ["pin_feed_entries", "archive_feed_entries"])
@pytest.mark.parametrize("person", ["viewer", "platform_admin", "globex_owner", "removed"])
def test_only_members_change_the_feed_for_all(database: Database, function: str, person: str) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, "activity_feeds")
        turn(cursor, person, ACME)
        with refused(cursor, "42501", "You may not change the feed"):
            call(cursor, function, ids=[row["id"]])
        assert change(cursor, "activity_feeds", row, is_pinned=True) is None


@pytest.mark.parametrize("size", [0, 101, None])
def test_a_page_size_out_of_range_is_refused(database: Database, size: int | None) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT400", "page_size is 1 to 100"):
            cursor.execute("select * from public.feed_page(page_size => %s)", [size])


# Quick actions -------------------------------------------------------------------------------------------------------


def test_running_an_action_counts_it_and_returns_its_target(database: Database) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, "quick_actions")
        turn(cursor, "member")
        answer = call(cursor, "run_quick_action", action_id=row["id"])
        assert (answer["id"], answer["target_url"]) == (str(row["id"]), "/leads/new")
        after = seen(cursor, "quick_actions", row)
        assert after
        assert (after["usage_count"], after["last_used"] is not None) == (1, True)


@pytest.mark.parametrize(
    ("columns", "sqlstate", "message"),
    [
        ({"is_enabled": False}, "PT409", "is disabled"),
        ({"required_role": ["OWNER", "ADMIN"]}, "42501", "Your role may not"),
        ({"required_tier": ["ELITE", "ENTERPRISE"]}, "PT402", "does not include this action"),
    ],
)
def test_forbidden_action_is_not_listed_run_or_counted(
    database: Database, columns: dict[str, Any], sqlstate: str, message: str
) -> None:
    with scene(database) as cursor:
        row = make_for(cursor, ACME, "quick_actions", **columns)
        turn(cursor, "member")
        assert cursor.execute("select * from public.my_quick_actions()").fetchall() == []
        with refused(cursor, sqlstate, message):
            call(cursor, "run_quick_action", action_id=row["id"])
        assert seen(cursor, "quick_actions", row) == row


def test_actions_for_role_and_tier_are_listed_and_run(database: Database) -> None:
    with scene(database) as cursor:
        make_for(cursor, ACME, "quick_actions", sort_order=2, required_role=["MEMBER"], required_tier=["GROWTH"])
        make_for(cursor, None, "quick_actions", sort_order=1)
        make_for(cursor, GLOBEX, "quick_actions", sort_order=0)
        turn(cursor, "member")
        offered = cursor.execute("select id, sort_order from public.my_quick_actions()").fetchall()
        assert [row["sort_order"] for row in offered] == [1, 2]
        for row in offered:
            assert call(cursor, "run_quick_action", action_id=row["id"])


def test_attack_run_an_action_of_another_tenant(database: Database) -> None:
    with scene(database) as cursor:
        ours, theirs = make_for(cursor, ACME, "quick_actions"), make_for(cursor, GLOBEX, "quick_actions")
        of_the_system = make_for(cursor, None, "quick_actions")
        turn(cursor, "member")
        for unknown in (theirs["id"], uuid4()):
            with refused(cursor, "PT404", "no such action"):
                call(cursor, "run_quick_action", action_id=unknown)
        for person in ("outsider", "removed", "suspended", "platform_admin"):
            turn(cursor, person, ACME)
            for row in (ours, of_the_system):
                with refused(cursor, "42501", "Only members can run actions"):
                    call(cursor, "run_quick_action", action_id=row["id"])


def test_concurrent_runs_of_an_action_are_counted_exactly(fresh_database: Database) -> None:
    with fresh_database.acting_as("admin", commit=True) as cursor:
        row = make(cursor, "quick_actions")

    def run(_: int) -> None:
        with fresh_database.acting_as("member", commit=True) as cursor:
            call(cursor, "run_quick_action", action_id=row["id"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(24)))
    with fresh_database.acting_as("member") as cursor:
        after = seen(cursor, "quick_actions", row)
        assert after
        assert after["usage_count"] == 24
        assert after["updated_at"] == row["updated_at"]


# Plans ---------------------------------------------------------------------------------------------------------------


def test_feed_page_is_an_ordered_scan_of_one_tenant(database: Database) -> None:
    feed = (
        "insert into public.activity_feeds"
        " (organization_id, title, type, entity_type, entity_id, action, is_archived, created_at)"
        " select o.id, 'x', 'USER_ACTION', 'x', 'x', 'x', i %% 2 = 0,"
        " now() - i * interval '1 minute' - case when o.id = %s then interval '1 year' else '0' end"
        " from public.organizations o, generate_series(1, 3000) i order by i desc"
    )
    with scene(database) as cursor:
        cursor.execute(feed, [ACME])
        cursor.execute("analyze public.activity_feeds")
        turn(cursor, "member")
        for statement in (
            "select * from public.activity_feeds order by created_at desc limit 50",
            "select * from public.activity_feeds where not is_archived order by created_at desc, id desc limit 50",
            "select * from public.activity_feeds where severity = 'CRITICAL' order by created_at desc limit 50",
            "select * from public.activity_feeds where is_pinned order by created_at desc limit 50",
        ):
            plan = one(cursor.execute(f"explain (format json) {statement}"))["QUERY PLAN"][0]["Plan"]
            scan = plan["Plans"][-1]
            assert (plan["Node Type"], scan["Node Type"]) == ("Limit", "Index Scan"), plan
            assert "organization_id" in scan["Index Cond"], plan
        cursor.execute("select * from public.feed_page()")
        buffers = one(cursor.execute("explain (analyze, buffers, format json) select * from public.feed_page()"))
        assert buffers["QUERY PLAN"][0]["Plan"]["Shared Hit Blocks"] < 100
