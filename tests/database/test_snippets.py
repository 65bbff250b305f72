"""The saved queries of the SQL editor run, and each starts with its question."""

from pathlib import Path

import pytest

from local import ROOT
from tests.support.world import Database

SNIPPETS = sorted((ROOT / "supabase/snippets").glob("*.sql"))


def test_there_are_twenty_questions() -> None:
    assert len(SNIPPETS) >= 20


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.stem)
def test_a_snippet_answers_its_question(database: Database, path: Path) -> None:
    text = path.read_text()
    assert text.startswith("-- ")
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(text)
