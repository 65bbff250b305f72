"""AI Garage: search by category, tag and words, in pages, only of visible rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.support.acting import Cursor, now_as
from tests.support.statements import refused
from tests.support.world import ACME, GLOBEX, Database

SYSTEM = {
    "Buyer concierge", "Lead qualifier", "Tenant support desk", "Comparable finder", "Listing writer",
    "Closing coordinator", "Market researcher",
}  # fmt: skip
MADE = [
    # name, organization, public, category, tags, usage, description
    ("Ours alone", ACME, False, "SALES", ["Alpha", "beta"], 1, "Zebra crossings, drawn well"),
    ("Ours for all", ACME, True, "SALES", ["alpha"], 5, "Zebras"),
    ("Theirs alone", GLOBEX, False, "SALES", ["alpha"], 9, "A zebra of their own"),
    ("Theirs for all", GLOBEX, True, "SUPPORT", ["alpha", "gamma's \\ 'x' | & !"], 3, "zebra"),
    ("Zebra in the name", GLOBEX, True, "CONTENT", [], 0, "Nothing else"),
]


@pytest.fixture(scope="module", autouse=True)
def made(database: Database) -> dict[str, UUID]:
    with database.connect() as connection:
        rows = {
            name: connection.execute(
                "insert into public.agent_templates (name, organization_id, is_public, category, tags, usage_count,"
                " description, personality_config, model_config, tools_config, memory_config)"
                " values (%s, %s, %s, %s, %s, %s, %s, '{}', '{}', '{}', '{}') returning id",
                [name, *values],
            ).fetchone()
            for name, *values in MADE
        }
    return {name: row[0] for name, row in rows.items() if row}


def search(database: Database, person: str | None = "member", **words: Any) -> list[str]:
    arguments = ", ".join(f"{word} => %({word})s" for word in words)
    with database.acting_as(person) as cursor:
        return [row["name"] for row in cursor.execute(f"select name from public.search_templates({arguments})", words)]


def test_platform_templates_are_found_by_all(database: Database) -> None:
    with database.acting_as("outsider") as cursor:
        rows = cursor.execute("select * from public.agent_templates where is_system").fetchall()
    assert {row["name"] for row in rows} == SYSTEM
    for row in rows:
        assert row["is_public"]
        assert row["tags"]
        assert row["features"]
        assert row["use_cases"]
        assert all(row[f"{kind}_config"] for kind in ("personality", "model", "tools", "memory"))
    assert search(database, "outsider", query="buyer") == ["Buyer concierge"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({"query": "zebra"}, ["Zebra in the name", "Ours for all", "Theirs for all", "Ours alone"]),
        ({"query": "ZEB"}, ["Zebra in the name", "Ours for all", "Theirs for all", "Ours alone"]),
        ({"query": "draw zebra"}, ["Ours alone"]),
        ({"query": "ours"}, ["Ours for all", "Ours alone"]),
        ({"query": "beta"}, ["Ours alone"]),
        ({"query": "zebra", "category": "SUPPORT"}, ["Theirs for all"]),
        ({"tags": ["ALPHA"]}, ["Ours for all", "Theirs for all", "Ours alone"]),
        ({"tags": ["alpha", "Beta"]}, ["Ours alone"]),
        ({"tags": ["alpha"], "category": "SALES"}, ["Ours for all", "Ours alone"]),
        ({"tags": ["alp"]}, []),
        ({"tags": ["gamma's \\ 'x' | & !"]}, ["Theirs for all"]),
        ({"query": "?!"}, []),
        ({"query": "nowhere"}, []),
    ],
)
def test_search_results_match_all_criteria(database: Database, words: dict[str, Any], found: list[str]) -> None:
    """Named so first, then the most used."""
    assert search(database, **words) == found


def test_empty_search_lists_all_visible_templates(database: Database) -> None:
    assert set(search(database, query="  ")) == set(search(database)) == SYSTEM | {
        "Ours alone", "Ours for all", "Theirs for all", "Zebra in the name"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("person", "found"),
    [
        ("viewer", {"Ours for all", "Theirs for all", "Ours alone"}),
        ("globex_owner", {"Ours for all", "Theirs for all", "Theirs alone"}),
        ("outsider", {"Ours for all", "Theirs for all"}),
        ("removed", {"Ours for all", "Theirs for all"}),
        ("suspended", set()),
    ],
)
def test_attack_find_another_tenants_private_template(database: Database, person: str, found: set[str]) -> None:
    assert set(search(database, person, tags=["alpha"])) == found
    assert set(search(database, person, query="FOR ALL", tags=["alpha"])) == found & {"Ours for all", "Theirs for all"}


def test_attack_search_without_signing_in(database: Database) -> None:
    with refused("42501"):
        search(database, None)


@pytest.mark.parametrize(
    "forged", [f"FOR {ACME}", f"'FOR {ACME}'", "FOR ALL", f"x' | 'FOR {ACME}", f"TAG x\\' | 'FOR {ACME}"]
)
def test_attack_forge_the_visibility_of_a_template(database: Database, forged: str) -> None:
    """In the words of a private template, or in what is searched for."""
    assert "Ours alone" not in search(database, "globex_owner", query=forged)
    assert "Ours alone" not in search(database, "globex_owner", tags=[forged])
    with database.acting_as("globex_owner") as cursor:
        cursor.execute(
            "insert into public.agent_templates (organization_id, name, description, category, personality_config,"
            " model_config, tools_config, memory_config, tags) values (%s, 'Forged', %s, 'SALES', '{}', '{}', '{}',"
            " '{}', %s) returning id",
            [GLOBEX, forged, [forged]],
        )
        now_as(cursor, "member")
        seen = cursor.execute("select name from public.search_templates()").fetchall()
    assert "Forged" not in {row["name"] for row in seen}


def test_pages_join_without_a_gap_or_a_double(database: Database) -> None:
    whole = search(database)
    pages: list[str] = []
    after: UUID | None = None
    with database.acting_as("member") as cursor:
        while page := cursor.execute(
            "select id, name from public.search_templates(after => %s, page_size => 3)", [after]
        ).fetchall():
            pages += [row["name"] for row in page]
            after = page[-1]["id"]
    assert pages == whole


@pytest.mark.parametrize("unseen", ["Theirs alone", None])
def test_attack_learn_from_a_page_whether_a_private_template_exists(
    database: Database, made: dict[str, UUID], unseen: str | None
) -> None:
    with refused("PT404", "no template with the id"):
        search(database, after=made[unseen] if unseen else uuid4())


@pytest.mark.parametrize("size", [0, 101, None])
def test_a_page_is_1_to_100_templates(database: Database, size: int | None) -> None:
    with refused("PT400", "page_size"):
        search(database, page_size=size)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300),
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=120), max_size=3),
)
def test_template_search_finds_any_tag_without_errors(database: Database, text: str, tags: list[str]) -> None:
    with database.acting_as("member") as cursor:
        made = cursor.execute(
            "insert into public.agent_templates (organization_id, name, description, category, personality_config,"
            " model_config, tools_config, memory_config, tags, features) values (%s, 'Any', %s, 'SALES', %s, '{}',"
            " '{}', '{}', %s, %s) returning id",
            [ACME, text, Jsonb({}), tags, [text]],
        ).fetchone()
        assert made
        cursor.execute("select * from public.search_templates(query => %s, tags => %s)", [text, tags])
        found = cursor.execute("select id from public.search_templates(tags => %s, page_size => 100)", [tags])
        assert made in found.fetchall()


@contextmanager
def writing(database: Database) -> Iterator[Cursor]:
    """As the owner of the tables, who may continue as a person; rolled back."""
    with database.connect() as connection, connection.transaction(force_rollback=True):
        yield connection.cursor(row_factory=dict_row)


def add(cursor: Cursor, name: str, usage: int = 0, **columns: Any) -> UUID:
    columns = {"description": "", "is_public": True, "organization_id": ACME, "category": "SALES"} | columns
    columns |= dict.fromkeys(("personality_config", "model_config", "tools_config", "memory_config"), "{}")
    marks = ", ".join(["%s"] * len(columns))
    row = cursor.execute(
        f"insert into public.agent_templates (name, usage_count, {', '.join(columns)}) values (%s, %s, {marks})"
        " returning id",
        [name, usage, *columns.values()],
    ).fetchone()
    assert row
    return UUID(str(row["id"]))


def test_matches_of_the_name_come_first_and_pages_cross_the_border(database: Database) -> None:
    pages, after = [], None
    with writing(database) as cursor:
        add(cursor, "Nothing", 9, description="quokka")
        add(cursor, "The Quokkas", 1, is_public=False)
        add(cursor, "Quokka", 2)
        add(cursor, "More", 8, description="quokka", is_public=False)
        now_as(cursor, "member")
        whole = cursor.execute("select name from public.search_templates(query => 'quokka')").fetchall()
        while page := cursor.execute(
            "select id, name from public.search_templates(query => 'quokka', after => %s, page_size => 1)", [after]
        ).fetchall():
            pages += [row["name"] for row in page]
            after = page[-1]["id"]
    assert pages == [row["name"] for row in whole] == ["Quokka", "The Quokkas", "Nothing", "More"]


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_a_search_follows_every_change_of_a_template(database: Database, role: str) -> None:
    """Also where rows are loaded without triggers, as a restore does."""
    with writing(database) as cursor:

        def found(person: str, **words: Any) -> bool:
            now_as(cursor, person)
            arguments = ", ".join(f"{word} => %({word})s" for word in words)
            rows = cursor.execute(f"select id from public.search_templates({arguments})", words).fetchall()
            cursor.execute("reset role")
            return template in [row["id"] for row in rows]

        def change(assignment: str) -> None:
            cursor.execute(f"update public.agent_templates set {assignment} where id = %s", [template])

        cursor.execute("select set_config('session_replication_role', %s, true)", [role])
        template = add(cursor, "Numbat", is_public=False)
        assert found("member", query="numbat")
        assert not found("globex_owner", query="numbat")
        change("is_public = true")
        assert found("globex_owner", query="numbat")
        change("name = 'Bilby', tags = '{Night}'")
        assert not found("member", query="numbat")
        assert found("member", query="bilby", tags=["night"])
        change("category = 'CONTENT'")
        assert not found("member", query="bilby", category="SALES")
        add(cursor, "Bilby", 1)
        assert not found("member", query="bilby", page_size=1)
        change("usage_count = 2")
        assert found("member", query="bilby", page_size=1)
        cursor.execute("delete from public.agent_templates where id = %s", [template])
        assert not found("member", query="bilby")
        left = cursor.execute("select from private.template_search where template_id = %s", [template])
        assert not left.fetchall()
