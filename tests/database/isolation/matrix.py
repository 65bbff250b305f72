"""The matrix: every row, action and actor of the table of expectations, run against the database."""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.database.isolation.actors import KEYS, MALFORMED, WITHOUT_USER, Actor, populate_crossing
from tests.database.isolation.catalog import buckets, granted, policy_roles, tables
from tests.database.isolation.expected import Expected
from tests.database.isolation.probes import EVERYBODY, PROBE, Probe, TableProbes, literal, run
from tests.database.isolation.specimens import Specimens
from tests.support.world import Connection, Row

REFUSED = "42501"
POLICIES_ALONE = ("move", "forge")
"""Move a row to another tenant or person, create one for another person: forbidden for all, whatever is granted."""


@dataclass(frozen=True)
class Cell:
    place: str
    line: str
    actor: Actor
    expected: str
    found: str
    at_most: bool = False
    """An error or no effect is accepted, too."""
    why: str = ""

    @property
    def holds(self) -> bool:
        return self.expected == self.found or (self.at_most and self.found not in {"ok", "moved"})

    def __str__(self) -> str:
        reason = f" ({self.why})" if self.why else ""
        return f"{self.place}: {self.line} as {self.actor.name}: expected {self.expected}, found {self.found}{reason}"


@dataclass
class Matrix:
    """A database with a row of every kind in every table; `connection` is the superuser's."""

    connection: Connection
    expected: Expected = field(default_factory=Expected.read)

    def __post_init__(self) -> None:
        self.catalog = tables(self.connection)
        self.connection.execute(PROBE)
        self.specimens = Specimens(self.catalog)

    def populate(self, owner: Connection) -> None:
        """`owner` is the connection of `postgres`, who like our server is bound by constraints but not by policies."""
        self.buckets = buckets(self.connection)
        populate_crossing(owner)
        kinds = {name: self.expected.kinds(name) for name in self.catalog if name in self.expected.lines}
        self.specimens.store(owner, kinds)
        # Storing some rows notifies people; the notifications that are tested are stored themselves.
        owner.execute("delete from public.notifications where kind <> 'organization.message.sent'")

    def check_table(self, name: str, first: Collection[str] = ()) -> Iterator[Cell]:
        """All cells of a table, and of those who forged their token; those of the actions in `first` come first."""
        lines, without = self.expected.lines[name], self.expected.without[name]
        keys = KEYS if name in self.expected.key_tables else KEYS[-1:]
        probes = TableProbes(self.specimens, self.catalog[name], lines, without, keys)
        parts: tuple[list[Probe], list[Probe]] = ([], [])
        for probe in probes.all():
            parts[probe.action not in first].append(probe)
        for part in parts:
            for probe, answer in run(self.connection, part, probes.state):
                for kind in probe.kinds:
                    found = read(probe, answer, self.specimens.keys[name][kind])
                    yield self._cell(name, kind, probe, found, answer.get("message", ""))

    def check_grants(self, name: str) -> list[str]:
        """What the cells do not cover: columns clients may write, roles of policies, further privileges."""
        table = self.catalog[name]
        select = [cells["anon"] for line, cells in self.expected.lines[name].items() if line.endswith("select")]
        roles = {"authenticated"} | ({"anon"} if "ok" in select else set())
        roles |= {"strive_api_key"} if name in self.expected.key_tables else set()
        columns = self.expected.columns.get(name, {})
        wrong = []
        for policy, names in policy_roles(self.connection, table).items():
            if not set(names.split()) <= roles:
                wrong.append(f"policy {policy!r} is for {names}")
        if not (table.secured or (table.is_view and table.as_invoker)):
            wrong.append("row level security is off")
        if table.schema != "public":  # the services' own tables: the services grant their privileges
            return wrong
        for action in ("insert", "update"):
            written = {c.name for c in table.columns.values() if (c.insertable if action == "insert" else c.updatable)}
            if written != set(columns.get(action, "").split()):
                wrong.append(f"clients {action} the columns {' '.join(sorted(written))}")
        for role, privilege in sorted(granted(self.connection, table)):
            allowed = {"authenticated": {"SELECT", "INSERT", "UPDATE", "DELETE"}}
            if "." in select or "ok" in select:
                allowed["anon"] = {"SELECT"}
            if privilege not in allowed.get(role, set()):
                wrong.append(f"{role} has {privilege}")
        return [f"{name}: {what}" for what in wrong]

    def check_changes(self, name: str) -> list[Cell]:
        """Realtime sends a changed row to whom a select shows it that names the organization of the row."""
        rows = self.specimens.rows[name]
        questions = [
            {"rows": {f"id='{key}'": {"id": key}}, "role": actor.role, "claims": actor.claims}
            for key in (str(self.specimens.keys[name][kind]) for kind in rows)
            for actor in EVERYBODY
        ]
        query = """select realtime.visible(%s::regclass, q.rows, q.role, q.claims) <> '{}'
            from jsonb_to_recordset(%s) as q (rows jsonb, role text, claims text)"""
        with self.connection.transaction():
            seen = self.connection.execute(query, [f"public.{name}", json.dumps(questions)]).fetchall()
        sent = iter(seen)
        cells = []
        for kind, row in rows.items():
            headers = json.dumps({"x-org-id": str(row["organization_id"])} if row["organization_id"] else {})
            statement = f"select jsonb_agg(id)::text from public.{name}"
            probes = [
                Probe(replace(actor, headers=headers), statement, "select", [kind], gives=True) for actor in EVERYBODY
            ]
            for probe, answer in run(self.connection, probes):
                shown = read(probe, answer, self.specimens.keys[name][kind]) == "ok"
                (is_sent,) = next(sent)
                found = "ok" if is_sent else "."
                cells.append(Cell(name, f"{kind} change", probe.actor, "ok" if shown else ".", found))
        return cells

    def _cell(self, table: str, kind: str, probe: Probe, found: str, why: str) -> Cell:
        actor, line = probe.actor, f"{kind} {probe.action}"
        if probe.action in POLICIES_ALONE:
            mine = str(actor.user) == probe.planted.get("user_id")
            wanted = "ok" if actor.role == "service_role" or mine else "no"
        else:
            column = actor.column
            if table in self.expected.personal and actor.name == "member naming another organization":
                column = "memb"
            wanted = (
                self.expected.of_key(table, line, actor) if actor in KEYS else self.expected.lines[table][line][column]
            )
            line += " blindly" if probe.blind else ""
        at_most = probe.blind or actor in MALFORMED
        who = "a key that writes" if actor in KEYS and wanted == "ok" else actor.name
        wanted = self.expected.exceptions.get(f"{table}: {line} as {who}", wanted)
        return Cell(table, line, actor, wanted, found, at_most, why)

    def check_function(self, call: str) -> list[Cell]:
        """All cells of a call of a function."""
        statement = f"select jsonb_agg(to_jsonb(r))::text from public.{self._filled(call)} r"
        before = self._filled(self.expected.before.get(call, ""))
        probes = [Probe(actor, statement, "rpc", [], before, gives=True) for actor in EVERYBODY]
        cells = []
        for probe, answer in run(self.connection, probes):
            actor, found = probe.actor, outcome(answer)
            if not found:
                found = "ok" if has_a_value(answer["came_back"]) else "."
            wanted = self.expected.functions[call][actor.column]
            if wanted == "PT403" and found == "no" and actor.name in WITHOUT_USER:
                wanted = found
            wanted = self.expected.exceptions.get(f"{call} as {actor.name}", wanted)
            cells.append(Cell("rpc", call, actor, wanted, found, actor in MALFORMED, answer.get("message", "")))
        return cells

    def _filled(self, text: str) -> str:
        """`leads.ours` becomes the id of that row, `agent_templates.theirs_public` that of the kind `theirs public`."""

        def key(match: re.Match[str]) -> str:
            table, kind = match.group(1), match.group(2).replace("_", " ")
            return literal(self.specimens.keys[table][kind]) if table in self.specimens.rows else match.group(0)

        return re.sub(r"\b([a-z_]+)\.((?:ours|theirs|system)\w*)", key, text)


def has_a_value(came_back: str | None) -> bool:
    """Whether a function returned anything but null, nulls and no rows."""
    rows = json.loads(came_back or "[]")
    return any(any(v is not None for v in row.values()) if isinstance(row, dict) else row is not None for row in rows)


def outcome(answer: dict[str, Any]) -> str:
    """The refusal, or nothing if there was none."""
    state = str(answer.get("sqlstate", ""))
    return "no" if state == REFUSED else state


def read(probe: Probe, answer: dict[str, Any], key: str) -> str:
    """The outcome for the row with this key."""
    if refusal := outcome(answer):
        return refusal
    if probe.action == "select":
        return "ok" if key in (json.loads(answer["came_back"] or "[]")) else "."
    earlier, later = answer["earlier"] or {}, answer["later"] or {}
    if probe.action in {"insert", "forge"}:
        new = [row["row"] for known, row in later.items() if known not in earlier]
        return "." if not new else "ok" if any(same_place(row, probe.planted) for row in new) else "moved"
    if earlier.get(key) == later.get(key):
        return "."
    came_back = answer["came_back"]
    return "ok" if came_back in {None, key} else f"ok, but returned {came_back}"


def same_place(row: Row, planned: Row) -> bool:
    return all(str(row[name]) == str(planned[name]) for name in ("organization_id", "user_id") if name in planned)
