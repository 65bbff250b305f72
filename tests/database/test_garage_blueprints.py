"""AI Garage blueprints: valid graphs, growing versions, exact copies."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.database.test_garage_gallery import blueprint
from tests.support.statements import Cursor, at_once, one
from tests.support.world import GLOBEX, Database

examples = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

IDS: st.SearchStrategy[Any] = st.sampled_from(["a", "b", "c", "", "é", "1"]) | st.sampled_from(
    [1, None, True, [], {"id": "a"}]
)
NODES = st.fixed_dictionaries({}, optional={"id": IDS, "type": st.just("tool")})
ENDS = ("source", "from"), ("target", "to")
EDGES = st.fixed_dictionaries({}, optional={end: IDS for pair in ENDS for end in pair})
THINGS: st.SearchStrategy[Any] = st.sampled_from(["a", 1, None, []])
COMPONENTS = (
    st.lists(NODES | THINGS, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "b", "c", ""]), NODES | THINGS, max_size=3)
    | THINGS
)
GOOD_COMPONENTS = st.lists(st.sampled_from("abc"), unique=True, min_size=1).map(lambda ids: [{"id": i} for i in ids])
GOOD_EDGES = st.fixed_dictionaries({"source": st.sampled_from("abc"), "target": st.sampled_from("abc")})
CONNECTIONS = (
    st.lists(EDGES | GOOD_EDGES | THINGS, max_size=3)
    | st.dictionaries(st.sampled_from("xyz"), EDGES | GOOD_EDGES, max_size=2)
    | THINGS
)


def as_id(value: Any) -> str | None:
    """What an end of a connection names, if anything."""
    if value is None:
        return None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else f"no id: {value}"


def is_graph(components: Any, connections: Any) -> bool:
    """A second implementation of the graph rules, to compare with the database."""
    if not isinstance(components, list | dict) or not isinstance(connections, list | dict):
        return False
    if isinstance(components, dict):
        ids: list[str | None] = list(components)
    else:
        ids = [as_id(c.get("id")) if isinstance(c, dict) else None for c in components]
        if any(i is not None and i.startswith("no id") for i in ids):
            return False
    if None in ids or "" in ids or len(set(ids)) < len(ids):
        return False
    edges = connections.values() if isinstance(connections, dict) else connections
    return all(
        isinstance(edge, dict)
        and all(as_id(edge.get(a) if edge.get(a) is not None else edge.get(b)) in ids for a, b in ENDS)
        for edge in edges
    )


def drawn(cursor: Cursor, components: Any, connections: Any) -> bool:
    try:
        with cursor.connection.transaction(force_rollback=True):  # the plan allows only a few
            blueprint(cursor, components=Jsonb(components), connections=Jsonb(connections))
    except psycopg.errors.CheckViolation:
        return False
    return True


@pytest.mark.parametrize("components", [COMPONENTS, GOOD_COMPONENTS], ids=["any", "good"])
def test_blueprint_is_accepted_only_as_a_valid_graph(database: Database, components: st.SearchStrategy[Any]) -> None:
    with database.acting_as("member") as cursor:

        @examples
        @given(components, CONNECTIONS)
        def check(components: Any, connections: Any) -> None:
            assert drawn(cursor, components, connections) == is_graph(components, connections)

        check()


def test_a_change_cannot_leave_a_connection_without_its_component(database: Database) -> None:
    with database.acting_as("member") as cursor:
        row = blueprint(cursor)["id"]
        with pytest.raises(psycopg.errors.CheckViolation):
            cursor.execute("""update public.tool_blueprints set components = '[{"id": "a"}]' where id = %s""", [row])


NUMBERS = st.tuples(*[st.integers(0, 999)] * 3)


def test_version_bump_resets_the_lower_numbers(database: Database) -> None:
    with database.acting_as("member") as cursor:
        row = blueprint(cursor)["id"]

        @examples
        @given(NUMBERS, st.sampled_from(["", "-rc.1", "+b7"]), st.sampled_from(["major", "minor", "patch"]))
        def check(numbers: tuple[int, int, int], rest: str, part: str) -> None:
            version = ".".join(map(str, numbers)) + rest
            cursor.execute("update public.tool_blueprints set version = %s where id = %s", [version, row])
            bumped = one(cursor, "select version from public.bump_blueprint(%s, %s)", row, part)["version"]
            place = ["major", "minor", "patch"].index(part)
            assert tuple(map(int, bumped.split("."))) == (*numbers[:place], numbers[place] + 1, *[0] * (2 - place))

        check()


def test_concurrent_bumps_give_two_versions(fresh_database: Database) -> None:
    with fresh_database.acting_as("member", commit=True) as cursor:
        row = blueprint(cursor)["id"]

    def bump(_: int) -> str:
        with fresh_database.acting_as("member", commit=True) as cursor:
            return str(one(cursor, "select version from public.bump_blueprint(%s)", row)["version"])

    assert sorted(at_once(4, bump)) == ["1.0.1", "1.0.2", "1.0.3", "1.0.4"]


def test_a_clone_is_the_same_drawing(database: Database) -> None:
    same = "components, connections, configuration, version, category, complexity, tags, description"
    with database.acting_as("owner", commit=True) as cursor:
        row = blueprint(cursor, is_public=True, configuration={"deep": [1]}, version="3.2.1")
    with database.acting_as("globex_member") as cursor:
        copy = one(cursor, f"select {same}, name, organization_id from public.clone_blueprint(%s)", row["id"])
        assert copy.pop("organization_id") == GLOBEX
        assert copy.pop("name") == "Sync (Copy)"
        assert copy == {name: row[name] for name in same.split(", ")}
