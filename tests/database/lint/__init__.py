"""Rules for the catalog, each with a planted defect that it finds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.world import Connection

Find = str | Callable[[Connection], list[str]]


@dataclass(frozen=True)
class Rule:
    """`finds` returns one text per offence: none in a valid schema, at least one after `defect`."""

    name: str
    finds: Find
    defect: str

    def offences(self, connection: Connection) -> list[str]:
        """`connection` is the superuser's, after prepare()."""
        if callable(self.finds):
            return sorted(self.finds(connection))
        return sorted(str(row[0]) for row in connection.execute(self.finds))


def prepare(connection: Connection) -> None:
    """The views of the catalog that the rules read; they belong to the session."""
    connection.execute((Path(__file__).parent / "catalog.sql").read_text())
