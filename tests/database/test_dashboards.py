"""Widgets: their settings and data, layouts, the default dashboard, and the first screen."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.rows import Cursor, add, call, change, one, refused, remove, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

COUNT = {"source": "leads", "aggregate": "count"}
PLACE = {"x": 0, "y": 0, "w": 2, "h": 1}


def widget(cursor: Cursor, kind: str = "CALENDAR", config: Any = None, org: Any = ACME, **columns: Any) -> Row:
    given = {"name": "Mine", "type": kind, "config": json.dumps(config or {}), "position": json.dumps(PLACE)}
    return add(cursor, "dashboard_widgets", organization_id=org, **given | columns)


def planted(cursor: Cursor, org: UUID = ACME, **columns: Any) -> Row:
    """Insert a widget as the owner of the table, regardless of who acts in the transaction."""
    return widget(cursor, org=org, created_by=PEOPLE["owner" if org == ACME else "globex_owner"], **columns)


def metric(cursor: Cursor, org: Any = ACME, query: Any = COUNT, **columns: Any) -> Row:
    given = {"name": "Leads", "category": "SALES", "query": json.dumps(query)} | columns
    return add(cursor, "dashboard_metrics", organization_id=org, **given)


def lead(cursor: Cursor, org: Any = ACME, **columns: Any) -> Row:
    return add(cursor, "leads", organization_id=org, **{"name": "Ada"} | columns)


def data(cursor: Cursor, row: Row) -> Any:
    return call(cursor, "widget_data", widget_id=row["id"])


def arrange(cursor: Cursor, person: str = "member", **columns: Any) -> Row:
    """Somebody changes their dashboard."""
    turn(cursor, person)
    mine = one(cursor.execute("select * from public.user_dashboards where user_id = %s", [PEOPLE[person]]))
    given = {name: json.dumps(value) if name == "layout" else value for name, value in columns.items()}
    changed = change(cursor, "user_dashboards", mine, **given)
    assert changed
    return changed


def at(row: Row, x: int, y: float, w: int = 1, h: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": str(row["id"]), "x": x, "y": y, "w": w, "h": h} | more


def snapshot(cursor: Cursor, **request: Any) -> Any:
    return call(cursor, "dashboard_snapshot", request=json.dumps(request))


# What a widget is set to ---------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, str | None, str, str]] = [
    ("KPI_CARD", {"query": COUNT, "metric_id": str(uuid4())}, None, "config: found", "either metric_id or query"),
    ("KPI_CARD", {"metric_id": str(uuid4())}, None, "config.metric_id: found", "a metric of the organization"),
    ("KPI_CARD", {"metric_id": 5}, None, "config.metric_id: found 5", "an id"),
    ("KPI_CARD", {"query": {"source": "users"}}, None, 'query.source: found "users"', "leads"),
    ("CHART", {"query": COUNT}, None, "config: found", "group_by"),
    ("PROGRESS_TRACKER", {"query": COUNT, "target": "9"}, None, 'config.target: found "9"', "a number"),
    ("TABLE", {"columns": ["name"]}, None, "data_source: found nothing", "leads"),
    ("TABLE", {"columns": ["email"]}, "users", 'data_source: found "users"', "leads"),
    ("TABLE", {"columns": []}, "leads", "config.columns: found []", "1 to 12"),
    ("TABLE", {"columns": ["notes"]}, "leads", 'config.columns[0]: found "notes"', "budget"),
    ("TABLE", {"columns": ["name", "id; --"]}, "leads", "config.columns[1]", "budget"),
    ("TABLE", {"columns": ["name"], "limit": 51}, "leads", "config.limit: found 51", "1 to 50"),
    ("TABLE", {"columns": ["name"], "where": {"budget": "x"}}, "leads", "config.where.budget", "a number"),
    ("ACTIVITY_FEED", {"limit": 0}, None, "config.limit: found 0", "1 to 50"),
    ("ACTIVITY_FEED", {"limit": 1.5}, None, "config.limit: found 1.5", "1 to 50"),
    ("CALENDAR", {"days": 63}, None, "config.days: found 63", "1 to 62"),
    ("MODULE_SHORTCUTS", {"modules": ["CRM"]}, None, 'modules: found ["CRM"]', "lower-case"),
    ("MODULE_SHORTCUTS", {"modules": ["crm", "crm"]}, None, "modules: found", "different"),
    ("WEATHER", {"place": ""}, None, 'config.place: found ""', "a place"),
    ("CALENDAR", {"mine": {"x": "y" * 30_000}}, None, "config: found", "at most 20000"),
]


UNFINISHED = [("KPI_CARD", "metric_id or query"), ("CHART", "metric_id or query"), ("TABLE", "1 to 12 columns")]


@pytest.mark.parametrize(("kind", "missing"), UNFINISHED)
def test_incomplete_widget_is_kept_and_names_what_is_missing(database: Database, kind: str, missing: str) -> None:
    mine = {"colour": "blue", "display": "compact"}
    with scene(database) as cursor:
        turn(cursor, "admin")
        unfinished = widget(cursor, kind, mine, data_source="leads")
        shown = next(each for each in snapshot(cursor)["widgets"] if each["id"] == str(unfinished["id"]))
        with refused(cursor, "PT422", "is invalid") as caught:
            call(cursor, "widget_data", widget_id=unfinished["id"])
    assert shown["config"] == mine
    assert shown["data"] is None
    assert missing in shown["error"]["details"]
    assert missing in str(caught.value.diag.message_detail)


def test_invalid_widget_error_names_found_and_accepted_values(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        good = widget(cursor)
        for kind, config, source, found, accepted in WRONG:
            with refused(cursor, "PT422", "is invalid") as caught:
                widget(cursor, kind, config, data_source=source)
            assert found in str(caught.value.diag.message_detail)
            assert accepted in str(caught.value.diag.message_detail)
            with refused(cursor, "PT422", "is invalid"):
                change(cursor, "dashboard_widgets", good, type=kind, config=json.dumps(config), data_source=source)


def test_attack_set_a_widget_to_the_metric_of_another_tenant(database: Database) -> None:
    with scene(database) as cursor:
        theirs = metric(cursor, GLOBEX)
        turn(cursor, "admin")
        # Errors do not reveal whether the id exists in another tenant.
        for unknown in (theirs["id"], uuid4()):
            with refused(cursor, "PT422", "is invalid") as caught:
                widget(cursor, "KPI_CARD", {"metric_id": str(unknown)})
            assert str(caught.value.diag.message_detail).replace(str(unknown), "…") == (
                'config.metric_id: found "…", expected the id of a metric of the organization or the system.'
            )
        # The server is refused, too, although no policy applies to it.
        turn(cursor, None)
        with refused(cursor, "PT422", "is invalid"):
            planted(cursor, kind="KPI_CARD", config={"metric_id": str(theirs["id"])})


# What a widget shows -------------------------------------------------------------------------------------------------


def test_cards_and_charts_show_their_metric_or_query(database: Database) -> None:
    with scene(database) as cursor:
        lead(cursor, status="LOST")
        lead(cursor)
        row = metric(cursor, query={**COUNT, "group_by": "status"}, target_value=8)
        turn(cursor, "admin")
        by_id = {"metric_id": str(row["id"])}
        card, chart = widget(cursor, "KPI_CARD", by_id), widget(cursor, "CHART", by_id)
        tracker = widget(cursor, "PROGRESS_TRACKER", by_id)
        own = widget(cursor, "PROGRESS_TRACKER", {"query": COUNT, "target": 4})
        turn(cursor, "viewer")
        assert (data(cursor, card)["name"], data(cursor, card)["value"]) == ("Leads", 2)
        assert {p["group"]: p["value"] for p in data(cursor, chart)["series"]} == {"NEW_LEAD": 1, "LOST": 1}
        assert (data(cursor, tracker)["target_value"], data(cursor, tracker)["progress"]) == (8, 0.25)
        assert data(cursor, own) == {"value": 2, "target_value": 4, "progress": 0.5}


def test_a_table_shows_the_newest_of_the_tenants_own_rows(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.leads (organization_id, name, budget, created_at)"
            " select o.id, 'Lead ' || n, n, now() - n * interval '1 hour'"
            " from public.organizations o, generate_series(1, 9) n"
        )
        turn(cursor, "admin")
        config = {"columns": ["name", "budget"], "where": {"budget": {"$gt": 2}}, "limit": 3}
        table = widget(cursor, "TABLE", config, data_source="leads")
        turn(cursor, "viewer")
        shown = data(cursor, table)
        assert [(row["name"], row["budget"]) for row in shown] == [("Lead 3", 3), ("Lead 4", 4), ("Lead 5", 5)]
        assert all(row.keys() == {"id", "name", "budget"} for row in shown)
        turn(cursor, "admin")
        assert change(cursor, "dashboard_widgets", table, data_source="notifications", config='{"columns": ["title"]}')
        turn(cursor, None)
        cursor.execute(
            "select public.notify_members(%s, 'INFO', 'Yours', 'x', %s)",
            [ACME, [PEOPLE["owner"]]],
        )
        turn(cursor, "viewer")
        assert data(cursor, table) == []
        turn(cursor, "owner")
        assert data(cursor, table)[0]["title"] == "Yours"


def test_panels_show_rows_of_the_caller(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("delete from public.notifications")
        cursor.execute(
            "select public.notify_members(%s, 'INFO', 'For you', 'x', %s)",
            [ACME, [PEOPLE["member"]]],
        )
        mine = add(cursor, "quick_actions", organization_id=ACME, name="B", icon="x", action_type="MODAL_FORM")
        add(cursor, "quick_actions", organization_id=ACME, name="A", icon="x", action_type="MODAL_FORM")
        add(cursor, "quick_actions", organization_id=ACME, name="C", icon="x", action_type="MODAL_FORM",
            required_role=["OWNER"])  # fmt: skip
        turn(cursor, "admin")
        rows = {kind: widget(cursor, kind) for kind in ("QUICK_ACTIONS", "MODULE_SHORTCUTS", "NOTIFICATION_PANEL")}
        rows["WEATHER"] = widget(cursor, "WEATHER", {"place": "Graz"})
        arrange(cursor, quick_actions=[mine["id"]], pinned_modules=["crm", "ai-garage"])
        assert [action["name"] for action in data(cursor, rows["QUICK_ACTIONS"])] == ["B", "A"]
        assert data(cursor, rows["MODULE_SHORTCUTS"]) == ["crm", "ai-garage"]
        assert data(cursor, rows["WEATHER"]) == {"place": "Graz"}
        panel = data(cursor, rows["NOTIFICATION_PANEL"])
        assert (panel["unread"], [each["title"] for each in panel["newest"]]) == (1, ["For you"])
        turn(cursor, "viewer")
        assert data(cursor, rows["NOTIFICATION_PANEL"]) == {"unread": 0, "newest": []}


def test_calendar_shows_upcoming_days_only(database: Database) -> None:
    with scene(database) as cursor:
        for title, hours in (("Past", -30), ("Now", -1), ("Soon", 30), ("Late", 100)):
            cursor.execute(
                "insert into public.appointments (organization_id, title, start_time, end_time) values"
                " (%s, %s, now() + %s * interval '1 h', now() + %s * interval '1 h')",
                [ACME, title, hours, hours + 2],
            )
        turn(cursor, "admin")
        calendar = widget(cursor, "CALENDAR", {"days": 3})
        turn(cursor, "viewer")
        assert [entry["title"] for entry in data(cursor, calendar)] == ["Now", "Soon"]


def test_attack_read_another_tenant_through_a_widget(database: Database) -> None:
    with scene(database) as cursor:
        lead(cursor, GLOBEX, name="Secret")
        theirs = planted(cursor, GLOBEX, kind="TABLE", config={"columns": ["name"]}, data_source="leads")
        guarded = planted(cursor, permissions=["finance"])
        for person in ("owner", "member"):
            turn(cursor, person)
            with refused(cursor, "PT404", "no such widget"):
                data(cursor, theirs)
        with refused(cursor, "PT404", "no such widget"):
            data(cursor, guarded)
        turn(cursor, "member", GLOBEX)
        with refused(cursor, "42501", "You may not do this"):
            data(cursor, theirs)
        # The row itself as argument is refused, too.
        turn(cursor, "member")
        cursor.execute(
            "select private.widget_content(jsonb_populate_record(null::public.dashboard_widgets, %s), %s) as content",
            [json.dumps({**theirs, "config": theirs["config"]}, default=str), GLOBEX],
        )
        assert one(cursor)["content"] == []


# Layouts -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(database: Database) -> Any:
    with scene(database) as cursor:
        yield cursor, [planted(cursor, name=f"Widget {n}") for n in range(3)]


def test_a_layout_places_widgets_beside_each_other(three: tuple[Cursor, list[Row]]) -> None:
    cursor, (a, b, c) = three
    places = [at(a, 0, 0, 6, 2), at(b, 6, 0, 6, 2), at(c, 0, 2, 12, 1)]
    for layout in ({"columns": 12, "widgets": places}, {"widgets": places}, places, places[::-1], [], {}):
        assert arrange(cursor, layout=layout)["layout"] == layout


def test_invalid_layout_is_refused(three: tuple[Cursor, list[Row]]) -> None:
    cursor, (a, b, _) = three
    wrong: list[tuple[Any, str]] = [
        ([at(a, 0, 0, 2, 2), at(b, 1, 1, 2, 2)], "layout.widgets[0] and [1]"),
        ([at(a, 0, 0), at(a, 3, 3)], "layout.widgets: found"),
        ([at(a, -1, 0)], "layout.widgets[0].x: found -1"),
        ([at(a, 0, 0.5)], "layout.widgets[0].y: found 0.5"),
        ([at(a, 0, 0, 0)], "layout.widgets[0].w: found 0"),
        ([at(a, 0, 0, 1, 0)], "layout.widgets[0].h: found 0"),
        (
            {"columns": 12, "widgets": [at(a, 8, 0, 5)]},
            "layout.widgets[0].x: found 8, expected a whole number from 0 to 7",
        ),
        ({"columns": 12, "widgets": [at(a, 0, 0, 13)]}, "layout.widgets[0].w: found 13"),
        ({"columns": 0}, "layout.columns: found 0"),
        ({"rows": 3}, 'layout: found "rows"'),
        ({"widgets": {}}, "layout.widgets: found {}"),
        ([at(a, 0, 0, color="red")], "layout.widgets[0]: found"),
        ([at(a, 0, 0, is_visible="no")], "layout.widgets[0].is_visible"),
        ([{"x": 0, "y": 0, "w": 1, "h": 1}], "layout.widgets[0].id: found nothing"),
        ([at({"id": "x"}, 0, 0)], 'layout.widgets[0].id: found "x"'),
        ([at({"id": uuid4()}, 0, 0)], "layout.widgets: found"),
        ([at({"id": uuid4()}, n, 0) for n in range(101)], "layout.widgets: found"),
        ({"widgets": [{"id": "x" * 60_000}]}, "layout: found"),
    ]
    for layout, found in wrong:
        with refused(cursor, "PT422", "is invalid") as caught:
            arrange(cursor, layout=layout)
        assert found in str(caught.value.diag.message_detail), layout


def test_hidden_and_foreign_widgets_do_not_occupy_the_grid(
    three: tuple[Cursor, list[Row]],
) -> None:
    cursor, (a, b, _) = three
    theirs = planted(cursor, GLOBEX)
    arrange(cursor, layout=[at(a, 0, 0, 2, 2), at(b, 0, 0, 2, 2, is_visible=False)])
    turn(cursor, None)
    add(cursor, "organization_members", user_id=PEOPLE["member"], organization_id=GLOBEX, role="MEMBER")
    arrange(cursor, layout=[at(a, 0, 0, 2, 2), at(theirs, 0, 0, 2, 2)])


@pytest.mark.parametrize("column", ["layout", "widgets", "quick_actions"])
def test_attack_probe_ids_of_another_tenant(three: tuple[Cursor, list[Row]], column: str) -> None:
    cursor, _ = three
    action = add(cursor, "quick_actions", organization_id=GLOBEX, name="x", icon="x", action_type="MODAL_FORM")
    foreign = action if column == "quick_actions" else planted(cursor, GLOBEX)
    guarded = planted(cursor, permissions=["finance"])
    errors = set()
    for row in (foreign, {"id": uuid4()}, *([] if column == "quick_actions" else [guarded])):
        with refused(cursor, "PT422", "is invalid") as caught:
            wanted: Any = {column: [at(row, 0, 0)] if column == "layout" else [row["id"]]}
            arrange(cursor, **wanted)
        errors.add(str(caught.value.diag.message_detail).replace(str(row["id"]), "…"))
    assert len(errors) == 1


def test_lists_of_ids_and_modules_are_short_and_without_repetition(three: tuple[Cursor, list[Row]]) -> None:
    cursor, (a, _, _) = three
    wrong: list[tuple[str, Any]] = [
        ("widgets", [a["id"], a["id"]]),
        ("widgets", [None]),
        ("widgets", [uuid4() for _ in range(101)]),
        ("pinned_modules", ["a", "a"]),
        ("pinned_modules", ["javascript:alert(1)"]),
        ("pinned_modules", [f"m{n}" for n in range(21)]),
    ]
    for column, ids in wrong:
        wanted: Any = {column: ids}
        with refused(cursor, "PT422", "is invalid"):
            arrange(cursor, **wanted)
    arrange(cursor, widgets=[a["id"]], pinned_modules=["crm"])


def test_a_layout_outlives_the_widgets_it_places(three: tuple[Cursor, list[Row]]) -> None:
    cursor, (a, b, _) = three
    arrange(cursor, layout=[at(a, 0, 0), at(b, 1, 0)], widgets=[b["id"], a["id"]])
    turn(cursor, "admin")
    assert remove(cursor, "dashboard_widgets", a)
    assert arrange(cursor, theme="DARK")["theme"] == "DARK"
    assert [each["id"] for each in snapshot(cursor)["widgets"]] == [str(b["id"])]


places = st.builds(
    lambda x, y, w, h, seen: {"x": x, "y": y, "w": w, "h": h, "is_visible": seen},
    st.integers(0, 5), st.integers(0, 5), st.integers(1, 3), st.integers(1, 3), st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(placed=st.lists(places, min_size=3, max_size=3))
def test_layout_is_accepted_only_without_overlapping_cells(
    three: tuple[Cursor, list[Row]], placed: list[dict[str, Any]]
) -> None:
    cursor, rows = three
    covered = [
        (x, y)
        for each in placed
        if each["is_visible"]
        for x in range(each["x"], each["x"] + each["w"])
        for y in range(each["y"], each["y"] + each["h"])
    ]
    layout = [{"id": str(row["id"])} | one for row, one in zip(rows, placed, strict=True)]
    if len(set(covered)) == len(covered):
        arrange(cursor, layout=layout)
    else:
        with refused(cursor, "PT422", "is invalid") as caught:
            arrange(cursor, layout=layout)
        assert "do not overlap" in str(caught.value.diag.message_detail)


# The default dashboard ------------------------------------------------------------------------------------------------


def test_a_new_user_and_a_new_organization_have_a_dashboard(database: Database) -> None:
    with scene(database) as cursor:
        who = uuid4()
        cursor.execute("insert into auth.users (id, email) values (%s, 'new@strive.test')", [who])
        mine = one(cursor.execute("select * from public.user_dashboards where user_id = %s", [who]))
        assert (mine["theme"], mine["widgets"], mine["layout"]) == ("LIGHT", [], {"columns": 12})
        org = one(cursor.execute("insert into public.organizations (name, slug) values ('New', 'new') returning id"))[
            "id"
        ]
        for owner in (who, PEOPLE["outsider"]):
            add(cursor, "organization_members", user_id=owner, organization_id=org, role="OWNER")
        turn(cursor, "outsider", org)
        seen = snapshot(cursor)
    assert [each["error"] for each in seen["widgets"] + seen["metrics"]] == [None] * 13
    assert {each["type"] for each in seen["widgets"]} >= {"KPI_CARD", "CHART", "ACTIVITY_FEED", "QUICK_ACTIONS"}
    cells = [
        (x, y)
        for place in (each["position"] for each in seen["widgets"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 11


def test_deleted_default_widgets_are_not_created_again(
    database: Database,
) -> None:
    with scene(database) as cursor:
        cursor.execute("delete from public.dashboard_widgets where organization_id = %s", [ACME])
        add(cursor, "organization_members", user_id=PEOPLE["outsider"], organization_id=ACME, role="MEMBER")
        turn(cursor, "outsider", ACME)
        assert snapshot(cursor)["widgets"] == []


# The first screen ----------------------------------------------------------------------------------------------------


def test_the_first_screen_holds_everything(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("delete from public.notifications")
        cursor.execute(
            "select public.notify_members(%s, 'INFO', 'Hello', 'x', %s)",
            [ACME, [PEOPLE["member"]]],
        )
        add(cursor, "system_alerts", title="Down", message="x", level="WARNING", category="SYSTEM", is_global=True,
            created_by=PEOPLE["super_admin"])  # fmt: skip
        action = add(cursor, "quick_actions", organization_id=None, name="New lead", icon="x", action_type="MODAL_FORM")
        lead(cursor)
        turn(cursor, "member")
        for n in range(3):
            add(cursor, "activity_feeds", organization_id=ACME, title=f"Entry {n}", type="USER_ACTION", entity_type="x",
                entity_id="x", action="x")  # fmt: skip
        seen = snapshot(cursor, feed_size=2)
        assert seen["organization"] == {
            "id": str(ACME), "name": "Acme", "slug": "acme", "tier": "GROWTH", "role": "MEMBER",
        }  # fmt: skip
        assert len(seen["feed"]) == 2
        assert [each["id"] for each in seen["quick_actions"]] == [str(action["id"])]
        assert [each["title"] for each in seen["alerts"]] == ["Down"]
        assert seen["unread"] == 1
        assert {each["name"]: each["value"] for each in seen["metrics"]}["New leads"] == 1
        card = next(each for each in seen["widgets"] if each["name"] == "New leads")
        assert (card["data"]["value"], card["error"]) == (1, None)
        assert len(seen["widgets"]) == 9


def test_first_screen_uses_the_layout_of_its_owner(three: tuple[Cursor, list[Row]]) -> None:
    cursor, (a, b, c) = three
    arrange(
        cursor, theme="DARK", widgets=[c["id"], a["id"], b["id"]],
        layout=[at(a, 3, 4, 2, 2), at(b, 0, 0, is_visible=False)],
    )  # fmt: skip
    seen = snapshot(cursor)
    assert seen["dashboard"]["theme"] == "DARK"
    assert [(each["id"], each["position"]) for each in seen["widgets"]] == [
        (str(c["id"]), PLACE),
        (str(a["id"]), {"x": 3, "y": 4, "w": 2, "h": 2}),
    ]
    turn(cursor, "viewer")
    assert len(snapshot(cursor)["widgets"]) == 9 + 3
    turn(cursor, "admin")
    assert change(cursor, "dashboard_widgets", a, is_visible=False)
    turn(cursor, "member")
    assert [each["id"] for each in snapshot(cursor)["widgets"]] == [str(c["id"])]


def test_failing_widget_shows_an_error_in_its_place(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        deleted, secret = metric(cursor), metric(cursor, permissions=["finance"])
        broken = widget(cursor, "KPI_CARD", {"metric_id": str(deleted["id"])})
        hidden = widget(cursor, "KPI_CARD", {"metric_id": str(secret["id"])})
        assert remove(cursor, "dashboard_metrics", deleted)
        turn(cursor, "member")
        shown = {each["id"]: each for each in snapshot(cursor)["widgets"]}
        for row in (broken, hidden):
            entry = shown[str(row["id"])]
            assert entry["data"] is None
            assert (entry["error"]["code"], entry["error"].keys()) == ("PT404", {"code", "message", "details", "hint"})
        assert sum(each["error"] is None for each in shown.values()) == 9


def test_unexpected_failure_shows_its_code_only(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "create or replace function public.agenda("
            " since timestamptz, until timestamptz, assigned_to uuid default null)"
            ' returns table (id uuid, title text, type "AppointmentType", status "AppointmentStatus",'
            " start_time timestamptz, end_time timestamptz, location text, meeting_url text, assigned_to_id uuid,"
            " lead_id uuid, contact_id uuid, deal_id uuid, listing_id uuid, clashes uuid[]) language plpgsql as"
            " $$ begin perform secret from inner_workings; end $$"
        )
        turn(cursor, "member")
        (error,) = [each["error"] for each in snapshot(cursor)["widgets"] if each["error"]]
    assert error == {"code": "42P01", "message": "This could not be shown", "details": None, "hint": None}


def test_too_expensive_metric_does_not_fail_the_screen(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("set local cpu_tuple_cost = 1000000")
        turn(cursor, "member")
        seen = snapshot(cursor)
        assert {each["error"]["code"] for each in seen["metrics"]} == {"PT422"}
        kinds = {each["type"]: each["error"] for each in seen["widgets"]}
        assert kinds["ACTIVITY_FEED"] is None
        assert "read too much" in kinds["CHART"]["message"]


def test_the_work_is_bounded(database: Database) -> None:
    with scene(database) as cursor:
        for _ in range(60):
            metric(cursor)
            planted(cursor)
        turn(cursor, "member")
        seen = snapshot(cursor)
        assert (len(seen["metrics"]), len(seen["widgets"])) == (50, 50)
        cursor.execute("select private.snapshot_metrics(%s, clock_timestamp() - interval '1 s') as late", [ACME])
        assert {each["error"]["code"] for each in one(cursor)["late"]} == {"PT503"}


def test_attack_read_hidden_rows_through_the_first_screen(database: Database) -> None:
    with scene(database) as cursor:
        lead(cursor, GLOBEX)
        planted(cursor, permissions=["finance"])
        metric(cursor, permissions=["finance"], name="Secret")
        turn(cursor, "globex_member")
        theirs = json.dumps(snapshot(cursor))
        turn(cursor, "viewer")
        mine = snapshot(cursor)
        for table in ("widgets", "metrics"):
            cursor.execute(f"select id::text from public.dashboard_{table}")
            assert {each["id"] for each in mine[table]} == {row["id"] for row in cursor}
            assert not any(each["id"] in theirs for each in mine[table])
        assert "Secret" not in json.dumps(mine)
        for person in ("outsider", "removed", "globex_owner"):
            turn(cursor, person, ACME)
            with refused(cursor, "42501", "You may not do this"):
                snapshot(cursor)
        turn(cursor, "suspended")
        with refused(cursor, "PT403", "suspended"):
            snapshot(cursor)
        turn(cursor, "platform_admin", ACME)
        assert snapshot(cursor)["organization"]["role"] is None


@pytest.mark.parametrize("size", [0, 51, "5", 1.5, None])
def test_a_page_of_the_feed_has_1_to_50_entries(database: Database, size: Any) -> None:
    with database.acting_as("member") as cursor, refused(cursor, "PT422", "is invalid"):
        snapshot(cursor, feed_size=size)
