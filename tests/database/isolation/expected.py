"""Reads the table of expectations."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.database.isolation.actors import ACTORS, API_KEYS, Actor

FILE = Path(__file__).with_name("expected.toml")
ACTIONS = ("select", "insert", "upsert", "update", "delete")
WRITING = "insert+upsert+update+delete"
Cells = dict[str, dict[str, str]]
"""Label of a line → column → expected outcome."""


def parse(grid: str) -> Cells:
    """One grid of the table of expectations; a line with too many or too few cells is an error.

    `ours insert+upsert` is two lines in one.
    """
    head, *lines = grid.strip().splitlines()
    columns = head.split()
    if columns != [actor.column for actor in ACTORS]:
        raise ValueError(f"The columns are {[actor.column for actor in ACTORS]}, found {columns}")
    cells: Cells = {}
    for line in filter(str.strip, lines):
        label, *outcomes = line.strip().rsplit(maxsplit=len(columns))
        label = " ".join(label.split())
        for one in spelled_out(label):
            if len(outcomes) != len(columns) or one in cells:
                raise ValueError(f"Every line has {len(columns)} cells, once: {line}")
            cells[one] = dict(zip(columns, outcomes, strict=True))
    return cells


def spelled_out(label: str) -> list[str]:
    kind, _, actions = label.rpartition(" ")
    known = actions.replace("write", WRITING).split("+")
    return [f"{kind} {action}" for action in known] if set(known) <= set(ACTIONS) else [label]


@dataclass(frozen=True)
class Expected:
    lines: Mapping[str, Cells]
    """Table → line (`<kind> <action>`) → column → outcome."""
    personal: set[str]
    """Tables whose rows belong to a person whatever organization is named."""
    without: Mapping[str, list[str]]
    """Table → twins that are not tried on it."""
    functions: Cells
    exceptions: Mapping[str, str]
    """`<table>: <line> as <actor>` → outcome, for a twin that differs for a reason."""
    before: Mapping[str, str]
    """Statement to run before a function is called."""
    columns: Mapping[str, Mapping[str, str]]
    enums: Mapping[str, str]
    buckets: Mapping[str, Mapping[str, Any]]
    definer_functions: Mapping[str, list[str]]
    keys_across_tenants: Mapping[str, list[str]]
    key_tables: Mapping[str, tuple[str, bool]]
    """Table that API keys reach → domain of its scopes, and whether keys write it."""
    key_functions: list[str]

    @classmethod
    def read(cls) -> "Expected":
        text = tomllib.loads(FILE.read_text())
        lines: dict[str, Cells] = {}
        personal: set[str] = set()
        without: dict[str, list[str]] = {}
        for one in text["class"].values():
            cells = parse(one["cells"])
            for table in one["tables"]:
                if table in lines:
                    raise ValueError(f"{table} is in two classes")
                lines[table] = cells
                without[table] = one.get("without", [])
                if one.get("personal"):
                    personal.add(table)
        functions = text["functions"]
        return cls(
            lines,
            personal,
            without,
            parse(functions["cells"]),
            text["exceptions"],
            functions["before"],
            {
                table: {**dict.fromkeys(("insert", "update"), c.get("both", "")), **c}
                for table, c in text["columns"].items()
            },
            text["enums"],
            text["buckets"],
            text["definer_functions"],
            text["keys_across_tenants"],
            {
                table: (domain, written)
                for group, written in (("read", False), ("written", True))
                for domain, tables in text["api_keys"][group].items()
                for table in tables
            },
            text["api_keys"]["functions"],
        )

    def of_key(self, table: str, line: str, key: Actor) -> str:
        """A key with the scope reads what a VIEWER reads, writes listed tables as a MEMBER, deletes nothing."""
        cells, action = self.lines[table][line], line.rpartition(" ")[2]
        if table not in self.key_tables:
            return cells["anon"]
        domain, is_written = self.key_tables[table]
        _, scopes = API_KEYS[key.name]
        reads, writes = f"{domain}_READ" in scopes, f"{domain}_WRITE" in scopes
        if action == "select":
            return cells["view"] if reads or cells["view"] == "no" else "."
        if action == "delete" or not is_written:
            return "no"
        if not writes:  # its row is not there to be changed, or is refused
            return "no" if action != "update" or cells["memb"] == "no" else "."
        return cells["memb"]

    def kinds(self, table: str) -> list[str]:
        """The kinds of row this table has lines for; each kind has a line for every action."""
        kinds = list(dict.fromkeys(line.rpartition(" ")[0] for line in self.lines[table]))
        wanted = {f"{kind} {action}" for kind in kinds for action in ACTIONS}
        if missing := wanted ^ set(self.lines[table]):
            raise ValueError(f"{table}: lines missing or unknown: {sorted(missing)}")
        return kinds
