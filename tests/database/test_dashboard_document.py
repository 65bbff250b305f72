"""docs/dashboard.md is correct: its examples are evaluated, its tables are complete."""

import json
import re

import pytest

from local import ROOT
from tests.support.rows import call
from tests.support.world import Database

DOCUMENT = (ROOT / "docs" / "dashboard.md").read_text()
EXAMPLES = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without ticks."""
    lines = DOCUMENT.partition(f"# {heading}\n")[2].partition("\n#")[0].splitlines()
    rows = [line.strip("| ").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip(" `") for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_evaluated(database: Database, example: str) -> None:
    with database.acting_as("viewer") as cursor:
        answer = call(cursor, "evaluate_metric", query=example)
    query = json.loads(example)
    assert answer["value"] == 0
    assert ("previous" in answer, "series" in answer) == ("period" in query, "group_by" in query)


def test_every_source_is_described(database: Database) -> None:
    with database.connect() as connection:
        sources = connection.execute(
            "select s.name, (select c.name from private.metric_columns c where c.source = s.name and c.kind = 'time'"
            " order by c.place limit 1), case when s.is_shared then 'yes' else 'no' end from private.metric_sources s"
            " order by 1"
        ).fetchall()
    assert [tuple(row) for row in table("Sources")] == sources


def test_every_type_of_widget_is_described(database: Database) -> None:
    with database.connect() as connection:
        types = connection.execute('select unnest(enum_range(null::"WidgetType"))::text').fetchall()
    assert {row[0] for row in table("Widgets")} == {name for (name,) in types}


def test_every_word_of_the_language_is_described(database: Database) -> None:
    with database.connect() as connection:
        body = connection.execute("select prosrc from pg_proc where proname = 'compile_metric'").fetchone()
    assert body
    known = re.search(r"known constant text\[\] := '\{(.*?)\}'", body[0])
    assert known
    assert {row[0] for row in table("Metrics")} == set(known[1].split(","))


def test_refusal_reports_the_cost_it_was_based_on(database: Database) -> None:
    with database.connect() as connection:
        body = connection.execute("select prosrc from pg_proc where proname = 'refuse_costly'").fetchone()
    assert body
    highest = re.search(r"highest constant numeric := (\d+);", body[0])
    assert highest
    assert f"{int(highest[1]):,}" in DOCUMENT
