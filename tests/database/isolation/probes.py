"""The statements behind the cells of the matrix: what each actor tries on a table."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql

from tests.database.isolation.actors import ACTORS, MALFORMED, TWINS, Actor
from tests.database.isolation.catalog import Table
from tests.database.isolation.expected import Cells
from tests.database.isolation.specimens import CHANGED, OWNERS, SIGNATURES, Specimens
from tests.support.world import Connection, Row, fixed_id

PROBE = Path(__file__).with_name("probe.sql").read_text()
# Their user_id is not the author: an admin chooses it.
ABOUT_OTHERS = {"sales_goals", "appointment_attendees"}
CHANNELS = "realtime.messages"
FILES = "storage.objects"
LARGE = {"size": 10**9}
EVERYBODY = (*ACTORS, *TWINS, *MALFORMED)


@dataclass
class Probe:
    """One statement to try, and how to read its answer into cells."""

    actor: Actor
    statement: str
    action: str
    kinds: list[str]
    before: str = ""
    gives: bool = False
    """Whether the statement gives back one text. What gives nothing back needs less: no right to read."""
    blind: bool = False
    """All rows at once: without WHERE no policy for reading helps; nor does any trigger or foreign key."""
    topic: str = ""
    planted: Row = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        return {**self.actor.settings(), "statement": self.statement, "gives": self.gives, "topic": self.topic}


def run(connection: Connection, probes: Iterable[Probe], state: str = "") -> Iterator[tuple[Probe, dict[str, Any]]]:
    """Run all probes; those with the same preparation in one batch."""
    stages: dict[tuple[str, bool], list[Probe]] = {}
    for probe in probes:
        stages.setdefault((probe.before, probe.blind), []).append(probe)
    for (before, bare), together in stages.items():
        stage = {"bare": bare, "cells": [probe.request() for probe in together]}
        stage |= {name: text for name, text in (("before", before), ("state", state)) if text}
        ((answer,),) = connection.execute("select pg_temp.stage(%s)", [json.dumps(stage)]).fetchall()
        for probe, verdict in zip(together, answer["verdicts"], strict=True):
            yield probe, {"earlier": answer["earlier"], **verdict}


class TableProbes:
    def __init__(self, specimens: Specimens, table: Table, lines: Cells, without: list[str], keys: list[Actor]) -> None:
        self.table = table
        self.specimens = specimens
        self.kinds = list(specimens.rows[table.name])
        self.lines = lines
        self.without = without
        self.keys = keys
        key = table.key_text
        self.state = (
            f"select jsonb_object_agg({key}, jsonb_build_object('version', xmin::text, 'row', to_jsonb(t)))"
            f" from {table.sql} t"
        )
        self.change = self._changing()

    def all(self) -> Iterator[Probe]:
        for actor in (*EVERYBODY, *self.keys):
            if actor.name not in self.without:
                yield from self.reads(actor)
                yield from self.writes(actor)

    def reads(self, actor: Actor) -> Iterator[Probe]:
        visible = f"select jsonb_agg({self.table.key_text})::text from {self.table.sql}"
        if self.table.name == CHANNELS:
            for kind in self.kinds:
                yield Probe(
                    actor, visible, "select", [kind], gives=True, topic=self.specimens.rows[CHANNELS][kind]["topic"]
                )
        else:
            yield Probe(actor, visible, "select", self.kinds, gives=True)

    def writes(self, actor: Actor) -> Iterator[Probe]:
        name = self.table.sql
        yield Probe(actor, f"update {name} set {self.change} = default", "update", self.kinds, blind=True)
        yield Probe(actor, f"delete from {name}", "delete", self.kinds, blind=True)
        for kind in self.kinds:
            here = f"{self.table.key_text} = {literal(self.specimens.keys[self.table.name][kind])}"
            come_back = f"where {here} returning {self.table.key_text}"
            topic = self.specimens.rows[CHANNELS][kind]["topic"] if self.table.name == CHANNELS else ""
            planted = self._planted(kind, actor)
            insert = self._inserting(planted)
            over = self._row(kind, actor, [*planted, *(column for column in self.table.key if column not in planted)])
            upsert = self._inserting(over) + self._over(over)
            anyone = "ok" in self.lines[f"{kind} insert"].values()
            gone = f"delete from {name} where {here}" if anyone else ""
            update = f"update {name} set {self.change} = default {come_back}"
            yield Probe(actor, update, "update", [kind], gives=True)
            yield Probe(actor, f"delete from {name} {come_back}", "delete", [kind], gives=True)
            yield Probe(actor, insert, "insert", [kind], gone, topic=topic, planted=planted)
            yield Probe(actor, upsert, "upsert", [kind], topic=topic)
            # The following grants all columns, so that only policies protect.
            grants = f"grant insert, update on {name} to authenticated, strive_api_key"
            alone = f"{grants}; delete from {name} where {self._in_the_way(here)}"
            for move in self._moves(kind):
                yield Probe(actor, f"update {name} set {move}", "move", [kind], alone, blind=True)
            if self.table.name == FILES and actor.user:
                yield from self._files(kind, actor, alone, over)
            if "user_id" in self.table.columns and self.table.name not in ABOUT_OTHERS:
                whole = self.specimens.rows[self.table.name][kind]
                forged = {c.name: whole[c.name] for c in self.table.columns.values() if not c.generated}
                before = f"{grants}; delete from {name} where {here}"
                yield Probe(actor, self._inserting(forged), "forge", [kind], before, blind=True, planted=forged)

    def _files(self, kind: str, actor: Actor, alone: str, row: Row) -> Iterator[Probe]:
        """Files between the buckets: a file becomes the actor's avatar; that becomes an attachment; a large file."""
        avatar = f"bucket_id = 'avatars', name = '{actor.user}/{kind}'"
        if kind in {"theirs avatar", "system"}:
            yield Probe(actor, f"update {self.table.sql} set {avatar}", "update", [kind], alone, blind=True)
        if kind == "ours":
            before = f"{alone}; update {self.table.sql} set {avatar}, owner_id = '{actor.user}'"
            attach = f"update {self.table.sql} set bucket_id = 'attachments', name = {literal(row['name'])}"
            yield Probe(actor, attach, "update", [kind], before, blind=True)
            before = f"{alone}; update {self.table.sql} set metadata = '{json.dumps(LARGE)}'"
            yield Probe(
                actor, f"update {self.table.sql} set {self.change} = default", "move", [kind], before, blind=True
            )
            copy = {**row, "id": str(fixed_id("copy")), "name": f"{row['name']}0", "metadata": LARGE}
            yield Probe(actor, self._inserting(copy), "forge", [kind], alone, blind=True)

    def _in_the_way(self, here: str) -> str:
        """Other rows whose keys a moved row would conflict with, except those that identify people."""
        match self.table.name:
            case "users" | "organizations":
                return "false"
            case "organization_members" as members:
                return f"user_id in (select user_id from public.{members} group by 1 having count(*) > 1)"
            case _:
                return f"not ({here})"

    def _moves(self, kind: str) -> Iterator[str]:
        """Assignments that give the row to another organization or person."""
        organization, person = OWNERS["theirs" if kind.startswith("ours") else "ours"]
        columns = self.table.columns.keys()
        if "organization_id" in columns:
            yield f"organization_id = '{organization}'"
        signed = {*self.table.key, SIGNATURES.get(self.table.name)}
        if "user_id" in columns and "user_id" not in signed and self.table.name not in ABOUT_OTHERS:
            yield f"user_id = '{person}'"
        if self.table.name in {"users", "organizations"}:
            yield f"id = '{fixed_id('elsewhere')}'"
        row = self.specimens.rows[self.table.name][kind]
        if row.get("bucket_id") == "attachments":
            name = row["name"].replace(str(OWNERS[kind.partition(" ")[0]][0]), str(organization))
            yield f"name = {literal(name)}"
            yield f"bucket_id = 'avatars', name = '{person}/moved.png'"
            yield "bucket_id = 'public-assets', name = 'moved.png'"

    def _changing(self) -> str:
        """The column an update writes: one clients may write, so that a refusal concerns the row."""
        if self.table.name in CHANGED:
            return CHANGED[self.table.name]
        keys = {column for foreign in self.table.foreign_keys for column in foreign.columns} | set(self.table.key)
        free = [c for c in self.table.columns.values() if not c.generated and (c.has_default or not c.required)]
        best = sorted(free, key=lambda c: (not c.updatable, c.name in keys, c.has_default))
        return f'"{best[0].name}"'

    def _planted(self, kind: str, actor: Actor) -> Row:
        """The row in the columns this actor may write, so that a refusal concerns the row."""
        planned = self.specimens.planned[self.table.name][kind]
        granted = [name for name in planned if self.table.columns[name].insertable]
        if actor.role == "service_role" or not granted:
            row = self.specimens.rows[self.table.name][kind]
            granted = [c.name for c in self.table.columns.values() if not c.generated and row[c.name] is not None]
        return self._row(kind, actor, granted)

    def _row(self, kind: str, actor: Actor, columns: list[str]) -> Row:
        row = {name: self.specimens.rows[self.table.name][kind][name] for name in columns}
        signature = SIGNATURES.get(self.table.name)
        if signature in row and actor.user and not kind.endswith("signed"):
            row[signature] = str(actor.user)
        return row

    def _inserting(self, row: Row) -> str:
        columns = ", ".join(f'"{column}"' for column in row)
        record = f"jsonb_populate_record(null::{self.table.sql}, {literal(json.dumps(row))})"
        return f"insert into {self.table.sql} ({columns}) select {columns} from {record}"

    def _over(self, row: Row) -> str:
        """As PostgREST upserts: every sent column is overwritten."""
        keys = ", ".join(f'"{column}"' for column in self.table.key)
        written = ", ".join(f'"{column}" = excluded."{column}"' for column in row)
        return f" on conflict ({keys}) do update set {written}"


def literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
