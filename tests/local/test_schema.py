"""What is generated from the schema says what the schema says, and a diagram can be read."""

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from local import ROOT
from local.schema import files
from local.schema.layout import Edge, arrange
from tests.support.world import Database


def test_the_generated_files_are_those_of_the_schema(database: Database) -> None:
    with database.connect() as connection:
        made = files(connection)
    drifted = [
        str(path.relative_to(ROOT)) for path, text in made.items() if not path.exists() or path.read_text() != text
    ]
    assert drifted == [], "make schema makes them again"
    assert set((ROOT / "docs/schema").glob("*.svg")) == {path for path in made if path.suffix == ".svg"}


def test_a_change_of_the_schema_is_a_drift(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        before = files(connection)
        connection.execute("alter table public.leads add colour text")
        connection.execute("alter type public.\"OrderStatus\" rename value 'SUBMITTED' to 'SENT'")
        after = files(connection)
    changed = {str(path.relative_to(ROOT)) for path in after if after[path] != before[path]}
    assert changed == {
        "shared/schema.py",
        "docs/schema/crm-3.svg",
        "docs/reference/crm.md",
        "shared/app/reference/catalog.json",
    }


def test_every_diagram_is_shown_in_the_docs() -> None:
    page = (ROOT / "docs/schema.md").read_text()
    for picture in (ROOT / "docs/schema").glob("*.svg"):
        assert f"](schema/{picture.name})" in page


NAMES = "abcdefgh"


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(40, 400), min_size=1),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=10),
)
def test_no_table_covers_another_and_no_line_crosses_a_table(
    heights: dict[str, float], keys: list[tuple[str, str]]
) -> None:
    edges = [
        Edge(child, 30, parent, many=True)
        for child, parent in keys
        if child != parent and {child, parent} <= set(heights)
    ]
    layout = arrange({name: (100.0, height) for name, height in heights.items()}, edges, 14)
    assert set(layout.boxes) == set(heights)
    for one, other in combinations(layout.boxes.values(), 2):
        assert (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
    for strokes in layout.strokes.values():
        for (x0, y0), (x1, y1) in (piece for stroke in strokes for piece in pairwise(stroke)):
            for box in layout.boxes.values():
                beside = max(x0, x1) <= box.x or min(x0, x1) >= box.x + box.width
                assert beside or max(y0, y1) <= box.y or min(y0, y1) >= box.y + box.height
