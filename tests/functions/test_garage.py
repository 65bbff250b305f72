"""AI Garage on the whole stack through supabase-py, for each role."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supabase_functions.errors import FunctionsHttpError

from supabase import Client
from tests.database.test_garage import MOVES, STATUSES
from tests.support.agency import account, call, code, email_of, open_agencies

# name → (organization, role there)
PEOPLE = {
    "olga": ("agency", "OWNER"),
    "ada": ("agency", "ADMIN"),
    "max": ("agency", "MEMBER"),
    "bea": ("agency", "MEMBER"),
    "vera": ("agency", "VIEWER"),
    "gus": ("rival", "OWNER"),
}
Garage = dict[str, Client]


@pytest.fixture(scope="module")
def ids(server: Client) -> dict[str, str]:
    return open_agencies(server, PEOPLE)


@pytest.fixture(scope="module")
def garage(ids: dict[str, str], clients: Callable[[str], Client], server: Client) -> Garage:
    assert ids
    people = {name: clients(email_of(name)) for name in PEOPLE}
    return people | {"platform": clients("admin@strive.test"), "server": server}


@pytest.fixture(autouse=True)
def whole_quota(ids: dict[str, str], server: Client) -> Iterator[None]:
    yield
    server.table("custom_agent_orders").delete().eq("organization_id", ids["agency"]).execute()


def draft(client: Client, organization: str, **values: Any) -> str:
    order = {
        "organization_id": organization, "title": "Lead bot", "description": "Answers leads", "requirements": {},
        "use_case": "sales", "complexity": "SIMPLE", "agent_config": {}, "tools_config": {},
    }  # fmt: skip
    row: Any = client.table("custom_agent_orders").insert(order | values).execute().data
    return str(row[0]["id"])


def submit(client: Client, order: str, **changes: Any) -> Any:
    options = {"body": {"order_id": order, **changes}, "headers": {"Idempotency-Key": order}, "responseType": "json"}
    return client.functions.invoke("submit-order", options)


# Orders --------------------------------------------------------------------------------------------------------------


def test_estimate_and_remaining_quota_are_shown(garage: Garage) -> None:
    wanted = {"integrations": list("abcd"), "custom_ui": True}
    for person in ("vera", "max", "gus"):
        shown = call(garage[person], "estimate_order", complexity="COMPLEX", requirements=wanted)
        assert shown == {"estimated_hours": 94, "estimated_cost": 14100}
    quota = call(garage["vera"], "order_quota")
    assert (quota["tier"], quota["allowed"], quota["used"]) == ("GROWTH", 3, 0)


def test_order_moves_from_draft_to_delivery(garage: Garage, ids: dict[str, str]) -> None:
    order = draft(garage["max"], ids["agency"])
    with pytest.raises(FunctionsHttpError) as refused:
        submit(garage["vera"], order)
    assert refused.value.status == 403
    submitted = submit(garage["max"], order, complexity="MODERATE")
    assert submitted == submit(garage["max"], order, complexity="MODERATE")
    assert (submitted["status"], submitted["estimated_cost"], submitted["quota"]["used"]) == ("SUBMITTED", 2400, 1)

    def advance(person: str, to: str) -> Any:
        return call(garage[person], "advance_order", order_id=order, to_status=to)

    assert code(lambda: advance("max", "IN_REVIEW")) == "42501"
    assert code(lambda: advance("gus", "IN_REVIEW")) == "PT404"
    assert code(lambda: advance("ada", "COMPLETED")) == "PT409"
    advance("platform", "IN_REVIEW")
    advance("ada", "APPROVED")
    assert code(lambda: call(garage["ada"], "assign_builder", order_id=order, builder_id=ids["bea"])) == "42501"
    assert code(lambda: call(garage["olga"], "assign_builder", order_id=order, builder_id=ids["gus"])) == "PT422"
    call(garage["olga"], "assign_builder", order_id=order, builder_id=ids["bea"])
    assert code(lambda: advance("max", "IN_PROGRESS")) == "42501"
    advance("bea", "IN_PROGRESS")
    for done, milestone in enumerate(submitted["milestones"][:3], 1):
        garage["bea"].table("order_milestones").update({"is_completed": True}).eq("id", milestone["id"]).execute()
        row: Any = garage["vera"].table("custom_agent_orders").select("progress").eq("id", order).execute().data
        assert row == [{"progress": 25 * done}]
    for status in ("TESTING", "IN_PROGRESS", "TESTING", "COMPLETED"):
        advance("bea", status)
    finished = advance("bea", "DELIVERED")
    assert (finished["progress"], finished["assigned_to_id"]) == (100, ids["bea"])
    times = [finished[f"{step}_at"] for step in ("submitted", "started", "completed", "delivered")]
    assert times == sorted(times)

    notices: Any = garage["max"].table("notifications").select("title").eq("entity_id", order).execute().data
    assert len(notices) == 8, "submitting was their own action"
    assert call(garage["bea"], "unread_notification_count") == 1
    audited: Any = garage["platform"].table("admin_action_logs").select("description").eq("target_id", order).execute()
    assert [entry["description"] for entry in audited.data] == ["Order moved to IN_REVIEW"]


def test_rejected_order_is_revised_or_cancelled_with_a_reason(garage: Garage, ids: dict[str, str]) -> None:
    order = draft(garage["max"], ids["agency"])
    submit(garage["max"], order)
    call(garage["platform"], "advance_order", order_id=order, to_status="IN_REVIEW")
    assert code(lambda: call(garage["ada"], "reject_order", order_id=order, reason=" ")) == "PT422"
    assert call(garage["ada"], "reject_order", order_id=order, reason="Too vague")["status_reason"] == "Too vague"
    call(garage["max"], "advance_order", order_id=order, to_status="DRAFT")
    garage["max"].table("custom_agent_orders").update({"requirements": {"goal": "clear"}}).eq("id", order).execute()
    assert call(garage["max"], "submit_order", order_id=order)["status"] == "SUBMITTED"
    assert code(lambda: call(garage["bea"], "cancel_order", order_id=order, reason="mine")) == "42501"
    assert call(garage["max"], "cancel_order", order_id=order, reason="No budget")["status"] == "CANCELLED"
    assert call(garage["max"], "order_moves", order_id=order) == []


def test_build_log_pages_without_gaps_and_is_append_only(garage: Garage, ids: dict[str, str]) -> None:
    order = draft(garage["max"], ids["agency"])
    entry = {"organization_id": ids["agency"], "order_id": order, "stage": "development"}
    lines = [entry | {"message": str(n)} for n in range(7)]
    garage["bea"].table("build_logs").insert(lines).execute()
    submit(garage["max"], order)
    seen: list[Any] = []
    page: Any = call(garage["vera"], "build_log_page", order_id=order, page_size=3)
    while page:
        seen += page
        last = page[-1]
        page = call(
            garage["vera"], "build_log_page", order_id=order, page_size=3, before=last["created_at"],
            before_id=last["id"],
        )  # fmt: skip
    assert seen[0]["stage"] == "status_change"
    assert sorted(line["message"] for line in seen[1:]) == [str(n) for n in range(7)]
    assert call(garage["gus"], "build_log_page", order_id=order) == []
    for person in ("bea", "server"):
        change = garage[person].table("build_logs").update({"message": "x"}).eq("order_id", order)
        assert code(change.execute) == "42501"


CALLERS = {
    "olga": lambda client, order, to: call(client, "advance_order", order_id=order, to_status=to, reason="why"),
    "max": lambda client, order, to: call(client, "advance_order", order_id=order, to_status=to, reason="why"),
    "platform": lambda client, order, to: call(client, "advance_order", order_id=order, to_status=to, reason="why"),
    "server": lambda client, order, to: (
        client.table("custom_agent_orders").update({"status": to}).eq("id", order).execute()
    ),
}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(sorted(CALLERS)), st.sampled_from(STATUSES)), min_size=3, max_size=10))
def test_no_sequence_of_requests_makes_a_forbidden_move(
    garage: Garage, ids: dict[str, str], requests: list[tuple[str, str]]
) -> None:
    order = draft(garage["max"], ids["agency"])
    status = "DRAFT"
    for person, to in requests:
        refusal = code(lambda person=person, to=to: CALLERS[person](garage[person], order, to))  # type: ignore[misc]
        row: Any = garage["vera"].table("custom_agent_orders").select("status").eq("id", order).execute().data
        now = row[0]["status"]
        if now != status:
            assert (status, now) in MOVES
            assert (refusal, now) == (None, to)
        elif refusal is None:
            assert (person, to) == ("server", status)
        else:
            assert (status, to) not in MOVES or person in {"max", "platform"} or refusal == "PT402"
        status = now
    # The next example starts with the full monthly quota.
    garage["server"].table("custom_agent_orders").delete().eq("id", order).execute()


# Gallery -------------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, Any] = {f"{kind}_config": {} for kind in ("personality", "model", "tools", "memory")}


def test_template_is_shared_but_only_its_organization_changes_it(garage: Garage, ids: dict[str, str]) -> None:
    word = f"w{uuid4().hex}"
    whole = {"organization_id": ids["agency"], "name": "Seller", "description": word, "category": "SALES", **CONFIGS}
    row: Any = garage["max"].table("agent_templates").insert(whole | {"is_public": True, "tags": ["t"]}).execute().data
    template = row[0]["id"]
    for person in ("gus", "vera", "platform"):
        found = call(garage[person], "search_templates", query=word[:20].upper(), tags=["T"], category="SALES")
        assert [one["id"] for one in found] == [template], person
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: call(garage[("gus", "max")[n % 2]], "use_template", template_id=template), range(12)))
    assert code(lambda: call(garage["vera"], "use_template", template_id=template)) == "PT404"

    def review(person: str, stars: int) -> Any:
        reviewed = {"organization_id": ids[PEOPLE[person][0]], "template_id": template, "rating": stars}
        return garage[person].table("template_reviews").insert(reviewed).execute().data

    review("gus", 2)
    mine = review("bea", 5)[0]["id"]
    assert code(lambda: review("bea", 1)) == "23505"
    reviews = garage["max"].table("template_reviews")
    assert reviews.update({"rating": 1}).eq("id", mine).execute().data == []
    assert garage["bea"].table("template_reviews").update({"rating": 4}).eq("id", mine).execute().data
    (shown,) = call(garage["gus"], "search_templates", query=word)
    assert (shown["usage_count"], shown["rating"], shown["is_popular"]) == (12, 3.0, False)
    garage["gus"].table("agent_templates").update({"name": "Mine"}).eq("id", template).execute()
    (shown,) = call(garage["vera"], "search_templates", query=word)
    assert shown["name"] == "Seller"


def test_a_blueprint_is_a_graph_that_others_clone(garage: Garage, ids: dict[str, str]) -> None:
    whole = {
        "organization_id": ids["agency"], "name": "Sync", "description": "Syncs", "category": "API",
        "configuration": {}, "complexity": "SIMPLE", "components": [{"id": "a"}, {"id": "b"}], "is_public": True,
    }  # fmt: skip
    table = garage["max"].table("tool_blueprints")
    assert code(table.insert(whole | {"connections": [{"source": "a", "target": "gone"}]}).execute) == "23514"
    row: Any = table.insert(whole | {"connections": [{"source": "a", "target": "b"}]}).execute().data
    original = row[0]["id"]
    assert call(garage["max"], "bump_blueprint", blueprint_id=original, part="minor")["version"] == "1.1.0"
    copy = call(garage["gus"], "clone_blueprint", blueprint_id=original)
    assert (copy["name"], copy["organization_id"], copy["version"]) == ("Sync (Copy)", ids["rival"], "1.1.0")
    assert (copy["is_public"], copy["usage_count"]) == (False, 0)
    assert code(lambda: call(garage["gus"], "bump_blueprint", blueprint_id=original)) == "PT404"
    seen: Any = garage["vera"].table("tool_blueprints").select("id, usage_count").eq("category", "API").execute().data
    assert {"id": original, "usage_count": 1} in seen
    assert copy["id"] not in {one["id"] for one in seen}


def test_concurrent_likes_and_views_are_exact(
    garage: Garage, ids: dict[str, str], clients: Callable[[str], Client]
) -> None:
    shown = {"organization_id": ids["agency"], "title": "Bot", "description": "A bot", "category": "AI_AGENT"}
    row: Any = garage["max"].table("project_showcases").insert(shown | {"is_public": True}).execute().data
    showcase = row[0]["id"]
    crowd = [garage[name] for name in PEOPLE]
    for n in range(6):
        account(garage["server"], f"fan{n}")
        crowd.append(clients(email_of(f"fan{n}")))

    def visit(fan: Client) -> None:
        call(fan, "view_showcase", showcase_id=showcase)
        for _ in range(2):
            call(fan, "like_showcase", showcase_id=showcase)

    with ThreadPoolExecutor(len(crowd)) as pool:
        list(pool.map(visit, crowd))
    call(crowd[0], "unlike_showcase", showcase_id=showcase)
    counted: Any = garage["gus"].table("project_showcases").select("views, likes").eq("id", showcase).execute().data
    assert counted == [{"views": len(crowd), "likes": len(crowd) - 1}]


def test_only_platform_admins_feature_showcases(garage: Garage, ids: dict[str, str]) -> None:
    shown = {"organization_id": ids["agency"], "title": "Best", "description": "A bot", "category": "WORKFLOW"}
    table = garage["max"].table("project_showcases")
    rows: Any = table.insert([shown | {"is_public": True}, shown | {"is_public": False}]).execute().data
    public, hidden = (row["id"] for row in sorted(rows, key=lambda row: not row["is_public"]))
    assert code(table.update({"is_featured": True}).eq("id", public).execute) == "42501"
    assert code(lambda: call(garage["olga"], "feature_showcase", showcase_id=public)) == "42501"
    assert code(lambda: call(garage["platform"], "feature_showcase", showcase_id=hidden)) == "PT404"
    call(garage["platform"], "feature_showcase", showcase_id=public)

    def featured() -> set[str]:
        listed = garage["gus"].table("project_showcases").select("id").eq("is_featured", True)
        found: Any = listed.order("created_at", desc=True).limit(20).execute().data
        return {row["id"] for row in found} & {public, hidden}

    assert featured() == {public}
    call(garage["platform"], "feature_showcase", showcase_id=public, featured=False)
    assert featured() == set()
