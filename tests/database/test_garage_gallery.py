"""AI Garage: templates, blueprints and showcases: shared reading, own writing, exact counts."""

from contextlib import ExitStack
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.statements import AT_COMMIT, Cursor, at_once, insert, meanwhile, one, refused
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row


def template(cursor: Cursor, **values: Any) -> Row:
    configs: dict[str, Any] = {f"{kind}_config": {} for kind in ("personality", "model", "tools", "memory")}
    whole = {"organization_id": ACME, "name": "Seller", "description": "Sells", "category": "SALES", **configs}
    return insert(cursor, "agent_templates", **whole | values)


def blueprint(cursor: Cursor, **values: Any) -> Row:
    whole = {
        "organization_id": ACME, "name": "Sync", "description": "Syncs", "category": "API", "configuration": {},
        "components": [{"id": "a"}, {"id": "b"}], "connections": [{"source": "a", "target": "b"}],
        "complexity": "SIMPLE",
    }  # fmt: skip
    return insert(cursor, "tool_blueprints", **whole | values)


def showcase(cursor: Cursor, **values: Any) -> Row:
    whole = {"organization_id": ACME, "title": "Bot", "description": "A bot", "category": "AI_AGENT"}
    return insert(cursor, "project_showcases", **whole | values)


# Templates and reviews -----------------------------------------------------------------------------------------------


def test_only_public_templates_are_visible_to_other_organizations(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        shared, own = template(cursor, is_public=True)["id"], template(cursor)["id"]
    seen = "select id from public.agent_templates where id = any (%s)"
    sees = {"viewer": {shared, own}, "globex_member": {shared}, "outsider": {shared}, "suspended": set()}
    for person, expected in sees.items():
        with database.acting_as(person) as cursor:
            assert {row["id"] for row in cursor.execute(seen, [[shared, own]])} == expected, person
    with database.acting_as(None) as cursor, refused("42501"):
        cursor.execute(seen, [[shared, own]])


@pytest.mark.parametrize("table", ["agent_templates", "tool_blueprints", "project_showcases"])
@pytest.mark.parametrize("person", ["globex_owner", "outsider", "viewer", "platform_admin"])
def test_attack_write_another_tenants_public_row(database: Database, table: str, person: str) -> None:
    make = {"agent_templates": template, "tool_blueprints": blueprint, "project_showcases": showcase}[table]
    with database.acting_as("owner", commit=True) as cursor:
        row = make(cursor, is_public=True)["id"]
    with database.acting_as(person, org=ACME if person in {"viewer", "platform_admin"} else None) as cursor:
        cursor.execute(f"update public.{table} set description = 'mine' where id = %s", [row])
        assert cursor.rowcount == 0
        cursor.execute(f"delete from public.{table} where id = %s", [row])
        assert cursor.rowcount == 0
    with database.acting_as("owner", commit=True) as cursor:
        cursor.execute(f"delete from public.{table} where id = %s", [row])


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("agent_templates", "usage_count = 99"), ("agent_templates", "rating = 5"),
        ("agent_templates", "is_system = true"), ("agent_templates", "created_by_id = null"),
        ("agent_templates", "organization_id = null"),
        ("tool_blueprints", "usage_count = 99"), ("tool_blueprints", "organization_id = null"),
        ("project_showcases", "views = 99"), ("project_showcases", "likes = 99"),
        ("project_showcases", "is_featured = true"),
        ("template_reviews", "reviewer_id = null"), ("template_reviews", "template_id = null"),
    ],
)  # fmt: skip
def test_attack_forge_authority_columns(database: Database, table: str, column: str) -> None:
    with database.acting_as("owner") as cursor, refused("42501"):
        cursor.execute(f"update public.{table} set {column}")


def test_only_platform_admins_make_and_change_system_templates(database: Database) -> None:
    with database.acting_as("owner") as cursor, refused("42501"):
        template(cursor, organization_id=None, is_system=True)
    with database.acting_as("owner") as cursor, refused("23514", "only a system template belongs to no organization"):
        template(cursor, is_system=True)
    with database.acting_as("platform_admin", commit=True) as cursor:
        system = template(cursor, organization_id=None, is_system=True)["id"]
    with database.acting_as("globex_owner") as cursor:
        assert one(cursor, "select is_system from public.agent_templates where id = %s", system) == {"is_system": True}
        cursor.execute("update public.agent_templates set name = 'mine' where id = %s", [system])
        assert cursor.rowcount == 0
    with database.acting_as("platform_admin", commit=True) as cursor:
        cursor.execute("delete from public.agent_templates where id = %s", [system])
        assert cursor.rowcount == 1


def test_templates_and_blueprints_are_limited_by_the_plan(database: Database) -> None:
    with database.acting_as("globex_member") as cursor:
        for _ in range(10):
            template(cursor, organization_id=GLOBEX)
        with refused("PT402", "no more templates"):
            template(cursor, organization_id=GLOBEX)
    with database.acting_as("globex_member") as cursor:
        for _ in range(5):
            blueprint(cursor, organization_id=GLOBEX)
        with refused("PT402", "no more blueprints"):
            blueprint(cursor, organization_id=GLOBEX)


def test_rating_is_the_mean_of_one_review_per_reviewer(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = template(cursor, is_public=True)["id"]
    read = "select rating, is_popular from public.agent_templates where id = %s"
    for person, org, stars in [("member", ACME, 5), ("globex_member", GLOBEX, 4), ("admin", ACME, 4)]:
        with database.acting_as(person, commit=True) as cursor:
            review = insert(cursor, "template_reviews", organization_id=org, template_id=row, rating=stars)
            assert review["reviewer_id"] == PEOPLE[person]
    with database.acting_as("admin") as cursor:
        cursor.execute(AT_COMMIT)
        assert one(cursor, read, row)["rating"] == Decimal("4.33")
        cursor.execute("update public.template_reviews set rating = 1 where template_id = %s", [row])
        assert cursor.rowcount == 1, "only the author's own"
        assert one(cursor, read, row)["rating"] == Decimal("3.33")
        with refused("23505"):
            insert(cursor, "template_reviews", organization_id=ACME, template_id=row, rating=5)
    with database.connect() as connection:
        connection.execute("delete from public.template_reviews where template_id = %s", [row])
    with database.acting_as("admin") as cursor:
        assert one(cursor, read, row)["rating"] is None


def test_concurrent_reviews_are_all_counted(fresh_database: Database) -> None:
    with fresh_database.acting_as("owner", commit=True) as cursor:
        row = template(cursor, is_public=True)["id"]

    def second() -> None:
        with fresh_database.acting_as("globex_owner", commit=True) as cursor:
            insert(cursor, "template_reviews", organization_id=GLOBEX, template_id=row, rating=2)

    with fresh_database.acting_as("owner") as cursor:
        insert(cursor, "template_reviews", organization_id=ACME, template_id=row, rating=5)
        cursor.execute(AT_COMMIT)
        meanwhile(fresh_database, cursor, second)
    with fresh_database.acting_as("owner") as cursor:
        assert one(cursor, "select rating from public.agent_templates where id = %s", row)["rating"] == Decimal("3.50")


def test_attack_learn_from_a_review_whether_a_private_template_exists(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = template(cursor)["id"]
    refusals = set()
    for target in (row, uuid4()):
        with database.acting_as("globex_owner") as cursor, pytest.raises(psycopg.Error) as caught:
            insert(cursor, "template_reviews", organization_id=GLOBEX, template_id=target, rating=1)
        refusals.add((caught.value.sqlstate, caught.value.diag.message_primary))
    assert refusals == {("PT404", "There is no such template")}


def test_template_is_popular_above_ten_uses_and_four_stars(database: Database) -> None:
    with database.acting_as("owner") as cursor:
        cursor.execute(AT_COMMIT)
        row = template(cursor)["id"]
        insert(cursor, "template_reviews", organization_id=ACME, template_id=row, rating=4)
        read = "select usage_count, is_popular from public.agent_templates where id = %s"
        for _ in range(10):
            cursor.execute("select public.use_template(%s)", [row])
        assert one(cursor, read, row) == {"usage_count": 10, "is_popular": False}
        cursor.execute("select public.use_template(%s)", [row])
        assert one(cursor, read, row) == {"usage_count": 11, "is_popular": True}
        cursor.execute("update public.template_reviews set rating = 3 where template_id = %s", [row])
        assert one(cursor, read, row) == {"usage_count": 11, "is_popular": False}


def test_attack_use_another_tenants_private_template(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = template(cursor)["id"]
    with database.acting_as("globex_owner") as cursor, refused("PT404"):
        cursor.execute("select public.use_template(%s)", [row])


# Blueprints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "1.0", "01.0.0", "v1.0.0", "1.0.0 ", "1.0.0-", "1" * 18 + ".0.0"])
def test_a_version_that_is_not_semantic_is_refused(database: Database, version: str) -> None:
    with database.acting_as("member") as cursor, refused("23514", "version is semantic"):
        blueprint(cursor, version=version)


@pytest.mark.parametrize(
    ("components", "connections"),
    [
        ([{"id": "a"}], [{"source": "a", "target": "b"}]),
        ([{"id": "a"}, {"id": "a"}], []),
        ([{"name": "a"}], []),
        ([{"id": "a"}], [{"source": "a"}]),
        ([{"id": "a"}], ["a"]),
        ("a", []),
    ],
)
def test_a_blueprint_that_is_no_graph_is_refused(database: Database, components: Any, connections: Any) -> None:
    with database.acting_as("member") as cursor, refused("23514"):
        blueprint(cursor, components=Jsonb(components), connections=connections)


def test_clone_is_private_and_counts_one_use(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = blueprint(cursor, is_public=True, name="x" * 100, version="2.1.0")["id"]
    with database.acting_as("globex_member") as cursor:
        cursor.execute(AT_COMMIT)
        copy = one(cursor, "select * from public.clone_blueprint(%s)", row)
        assert copy["name"] == "x" * 93 + " (Copy)"
        assert (copy["organization_id"], copy["created_by_id"]) == (GLOBEX, PEOPLE["globex_member"])
        assert (copy["is_public"], copy["usage_count"], copy["version"]) == (False, 0, "2.1.0")
        assert one(cursor, "select usage_count from public.tool_blueprints where id = %s", row) == {"usage_count": 1}


def test_attack_clone_another_tenants_private_blueprint(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = blueprint(cursor)["id"]
    with database.acting_as("globex_member") as cursor, refused("PT404"):
        cursor.execute("select public.clone_blueprint(%s)", [row])
    with database.acting_as("viewer") as cursor, refused("42501"):
        cursor.execute("select public.clone_blueprint(%s)", [row])


@pytest.mark.parametrize(("part", "version"), [("major", "2.0.0"), ("minor", "1.3.0"), ("patch", "1.2.4")])
def test_a_version_is_bumped(database: Database, part: str, version: str) -> None:
    with database.acting_as("member") as cursor:
        row = blueprint(cursor, version="1.2.3-beta")["id"]
        bumped = one(cursor, "select version from public.bump_blueprint(%s, %s)", row, part)
    assert bumped == {"version": version}


# Showcases -----------------------------------------------------------------------------------------------------------


def test_concurrent_likes_and_views_are_all_counted(fresh_database: Database) -> None:
    crowd = [uuid4() for _ in range(24)]
    with fresh_database.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into auth.users (id, email) values (%s, %s)", [(who, f"{who}@strive.test") for who in crowd]
        )
    with fresh_database.acting_as("owner", commit=True) as cursor:
        row = showcase(cursor, is_public=True)["id"]

    def visit(index: int) -> None:
        claims = {"sub": str(crowd[index]), "role": "authenticated"}
        for call in ("view_showcase", "like_showcase", "like_showcase"):
            with fresh_database.acting_as(None, claims=claims, commit=True) as cursor:
                cursor.execute(f"select public.{call}(%s)", [row])

    at_once(len(crowd), visit)
    with fresh_database.acting_as("globex_member") as cursor:
        counted = one(cursor, "select views, likes from public.project_showcases where id = %s", row)
    assert counted == {"views": len(crowd), "likes": len(crowd)}

    with fresh_database.connect() as connection:
        left = connection.execute("select count(*) from private.tallies").fetchone()
        assert left == (0,)
        connection.execute("delete from auth.users where id = %s", [crowd[0]])
        likes = connection.execute("select likes from public.project_showcases where id = %s", [row]).fetchone()
    assert likes == (len(crowd) - 1,), "the like of a deleted user is not counted"


def test_burst_of_counts_is_rolled_up_completely(fresh_database: Database) -> None:
    """A view counted while a batch commits is neither lost nor left without a worker."""
    with fresh_database.acting_as("owner", commit=True) as cursor:
        row = showcase(cursor, is_public=True)["id"]
    with ExitStack() as closing:
        counters = [closing.enter_context(fresh_database.connect()) for _ in range(8)]

        def count(index: int) -> None:
            for _ in range(10):
                counters[index].execute("select private.tally('showcase_views', %s, 1)", [row])

        for burst in range(1, 61):
            at_once(len(counters), count)
            seen = counters[0].execute("select views from public.project_showcases where id = %s", [row]).fetchone()
            assert seen == (burst * 80,)
        held = counters[0].execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
    assert held == (0,)


def test_count_of_a_locked_row_is_left_to_the_job(fresh_database: Database) -> None:
    with fresh_database.acting_as("owner", commit=True) as cursor:
        row = showcase(cursor, is_public=True)["id"]
    with fresh_database.connect() as one_, fresh_database.connect() as other:
        other.autocommit = False
        other.execute("select from public.project_showcases where id = %s for update", [row])
        one_.execute("select private.tally('showcase_views', %s, 1)", [row])
        held = one_.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
        assert held == (0,)
        other.rollback()
        assert one_.execute("select private.roll_up_tallies()").fetchone() == (1,)
        assert one_.execute("select views from public.project_showcases where id = %s", [row]).fetchone() == (1,)


def test_removed_like_can_be_added_again(database: Database) -> None:
    with database.acting_as("viewer") as cursor:
        cursor.execute("set local role service_role")
        row = showcase(cursor, created_by_id=PEOPLE["owner"])["id"]
        cursor.execute("set local role authenticated")
        for call, likes in [("like", 1), ("like", 1), ("unlike", 0), ("unlike", 0), ("like", 1)]:
            assert one(cursor, f"select public.{call}_showcase(%s) as likes", row) == {"likes": likes}


def test_counts_of_a_failed_rollup_are_rolled_up_later(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        row = connection.execute(
            "insert into public.project_showcases (organization_id, created_by_id, title, description, category)"
            " values (%s, %s, 't', 'd', 'WORKFLOW') returning id",
            [ACME, PEOPLE["owner"]],
        ).fetchone()
        assert row
        connection.execute(
            "insert into private.tallies (counter, subject_id, change)"
            " select 'showcase_views', %s, 1 from generate_series(1, 7)",
            row,
        )
        assert connection.execute("select private.roll_up_tallies()").fetchone() == (1,)
        assert connection.execute("select views from public.project_showcases where id = %s", row).fetchone() == (7,)


def test_attack_like_or_view_another_tenants_private_showcase(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = showcase(cursor)["id"]
    for call in ("view_showcase", "like_showcase", "unlike_showcase"):
        for person in ("globex_owner", "suspended"):
            with database.acting_as(person) as cursor, refused("PT404"):
                cursor.execute(f"select public.{call}(%s)", [row])


def test_only_platform_admins_feature_showcases(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = showcase(cursor, is_public=True)["id"]
    with database.acting_as("owner") as cursor, refused("42501"):
        cursor.execute("select public.feature_showcase(%s)", [row])
    with database.acting_as("platform_admin") as cursor:
        assert one(cursor, "select is_featured from public.feature_showcase(%s)", row) == {"is_featured": True}


@pytest.mark.parametrize(
    "call",
    [
        "private.tally('showcase_likes', gen_random_uuid(), 1000)", "private.roll_up_tallies()",
        "private.fold_tallies('showcase_likes', gen_random_uuid())",
        "private.require_room(gen_random_uuid(), 'templates')", "private.visible_order(gen_random_uuid())",
        "private.notify_members(gen_random_uuid(), 'INFO', 'a', 'b', null, null, null, null)",
    ],
)  # fmt: skip
def test_attack_call_a_definer_function_directly(database: Database, call: str) -> None:
    with database.acting_as("owner") as cursor, refused("42501", "permission denied for function"):
        cursor.execute(f"select {call}")
