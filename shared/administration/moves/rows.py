"""The rows of the organization: compared bucket by bucket on both sides, and copied where they differ."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from shared.administration.moves.sides import Connection, MoveError, Sides, row

# Many, so that few rows share the bucket of one that changed; yet all are read while writes are held.
BUCKETS = 1 << 12
BATCH = 2000
RELATIONS = """
select format('%s.%s', c.relnamespace::regnamespace, c.relname), m.condition, private.stored_columns(c.oid),
  array(
    select format_type(a.atttypid, a.atttypmod)
    from unnest(private.stored_columns(c.oid)) with ordinality s (name, place)
    join pg_attribute a on a.attrelid = c.oid and a.attname = s.name order by s.place
  ),
  array(
    select a.attname::text from pg_index i cross join unnest(i.indkey) with ordinality k (number, place)
    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
    where i.indrelid = c.oid and i.indisprimary order by k.place
  ),
  array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attidentity <> ''),
  m.owners, m.is_door
from private.move_relations() m join pg_class c on c.oid = m.relation order by 1
"""
# Keys without the tenant: to tables of the platform, to people, and to public rows of others.
LEAVING_KEYS = """
select k.conname, k.conrelid::regclass::text, format('%%s.%%s', c.relnamespace::regnamespace, c.relname),
  string_agg(format('t.%%I = other.%%I', own.attname, parent.attname), ' and '),
  string_agg(format('t.%%I is not null', own.attname), ' and '),
  string_agg(format('t.%%I::text', own.attname), ' || '' '' || ')
from pg_constraint k join pg_class c on c.oid = k.confrelid
cross join unnest(k.conkey, k.confkey) as pair (own, other)
join pg_attribute own on own.attrelid = k.conrelid and own.attnum = pair.own
join pg_attribute parent on parent.attrelid = k.confrelid and parent.attnum = pair.other
where k.contype = 'f' and k.conrelid = any (%s::regclass[]) and k.conparentid = 0
group by k.oid, k.conname, k.conrelid, c.relnamespace, c.relname
having not bool_or(own.attname = 'organization_id')
"""
# Sequences continue after the highest number that was copied. The gap is for numbers that are assigned meanwhile.
RAISE_SEQUENCE = """
select setval({sequence}, m.most + 2000)
from (select max(t.{column}) as most from {table} t where t.organization_id = %s) m
where m.most + 1000 > coalesce(pg_sequence_last_value({sequence}), 0)
"""
# The versions of rows: an update, a deletion and an insertion change them, and reading them is cheap.
VERSIONS = "bit_xor(hash_record_extended(row(t.tableoid, t.ctid, t.xmin), 0))"
CONTENT = "bit_xor(hashtextextended(row({columns})::text, 0))"
BUCKET = "hash_record_extended(row({key}), 0) & {last}"

Buckets = dict[int, tuple[int, int]]
# For each row, by its key: the bucket and a hash.
Hashes = dict[str, tuple[int, int]]
# Keys of rows by table; None is the whole table.
Changed = dict[str, list[str] | None]


@dataclass(frozen=True)
class Relation:
    name: str
    condition: str
    columns: list[str]
    types: list[str]
    key: list[str]
    identities: list[str]
    owners: str | None
    is_door: bool

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(*self.name.split("."))

    def key_row(self) -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(name)) for name in self.key)

    def bucket(self) -> sql.Composed:
        return sql.SQL(BUCKET).format(key=self.key_row(), last=sql.Literal(BUCKETS - 1))

    def among(self, buckets: list[int] | None) -> sql.Composable:
        if buckets is None or len(buckets) > BUCKETS // 2:
            return sql.SQL("")
        # Of the same type as the bucket: only then Postgres looks it up by hash.
        return sql.SQL(" and {} = any ({}::bigint[])").format(self.bucket(), sql.Literal(buckets))

    def columns_of(self, alias: str) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(alias, name) for name in self.columns)


class Rows:
    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self.relations = self._relations_of(sides.source)
        self._by_name = {each.name: each for each in self.relations}
        self.bulk = [each for each in self.relations if not each.is_door]
        self.doors = [each for each in self.relations if each.is_door]
        # The versions of buckets that were equal, at the source and at the target.
        self._equal: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._arrived: dict[str, Buckets] = {}
        self._owners: dict[str, list[str]] = {}
        self.counts: dict[str, int] = {}

    @staticmethod
    def _relations_of(connection: Connection) -> list[Relation]:
        return [Relation(*values) for values in connection.execute(RELATIONS).fetchall()]

    def check(self) -> None:
        """Both sides must have the same tables."""
        there = {each.name: each for each in self._relations_of(self._sides.target)}
        for each in self.relations:
            if there.pop(each.name, None) != each:
                raise MoveError(
                    f"The target has another {each.name} than the source.", "Apply the same migrations to both."
                )
            if not each.key:
                raise MoveError(f"{each.name} has no primary key.")
        if there:
            raise MoveError(f"The source has no {', '.join(there)}.", "Apply the same migrations to both.")

    def equalize(self, *, is_held: bool = False) -> Changed:
        """Compare all, copy what differs: the keys of the rows that did, by table; None for a whole table."""
        self._note_owners()
        if is_held:
            here, there = self._versions(self._sides.source), self._arrived
        else:
            here, there = self._sides.on_both(self._versions)
        self.counts = {name: sum(count for count, _ in found.values()) for name, found in here.items()}
        changed: Changed = {}
        differing: dict[str, list[int]] = {}
        for each in self.bulk:
            ours, theirs = here.get(each.name, {}), there.get(each.name, {})
            buckets = [
                bucket
                for bucket in ours.keys() | theirs.keys()
                if self._equal.get((each.name, bucket), (None, None)) != (ours.get(bucket), theirs.get(bucket))
            ]
            if buckets and not theirs and not is_held:
                with self._sides.writing():
                    self._pipe(each, None)
                changed[each.name] = None
                continue
            # Of many buckets, whole ones are compared first.
            is_many = theirs and len(buckets) > BUCKETS // 8
            if chosen := self._differing(each, buckets) if is_many else buckets:
                differing[each.name] = chosen
            for bucket in set(buckets) - set(chosen):
                self._equal[each.name, bucket] = (ours.get(bucket), theirs.get(bucket))
        ours, theirs = self._sides.on_both(lambda connection: self._hashes(connection, differing))
        for name, buckets in differing.items():
            rows = ours.get(name, {}), theirs.get(name, {})
            if keys := self._bring(self._by_name[name], *rows, is_held=is_held):
                changed[name] = keys
            copied = {each[key][0] for key in keys for each in rows if key in each}
            for bucket in set(buckets) - copied:
                self._equal[name, bucket] = (here.get(name, {}).get(bucket), there.get(name, {}).get(bucket))
        return changed

    def prepare_hold(self) -> None:
        """Read the versions at the target before writes are held: there only this move writes rows of it."""
        self._note_owners()
        self._arrived = self._versions(self._sides.target)

    def _note_owners(self) -> None:
        for each in self.bulk:
            if each.owners:
                owners = self._sides.source.execute(
                    each.owners.replace("$1", "%(it)s"), {"it": self._sides.organization}
                )
                self._owners[each.name] = [owner for (owner,) in owners]

    def _versions(self, connection: Connection) -> dict[str, Buckets]:
        return self._digests(connection, VERSIONS, self.bulk)

    def _digests(
        self, connection: Connection, what: str, relations: list[Relation], buckets: list[int] | None = None
    ) -> dict[str, Buckets]:
        """For each table and bucket of keys: the number of rows, and a hash over them."""
        statement = sql.SQL(" union all ").join(
            sql.SQL(
                "select {name}, b, count(*), {what} from ("
                "select {bucket} as b, t.tableoid, t.ctid, t.xmin, t.* from {table} t where {condition}{chosen}"
                ") t group by b"
            ).format(
                name=sql.Literal(each.name),
                what=sql.SQL(what).format(columns=each.columns_of("t")),
                bucket=each.bucket(),
                table=each.table,
                condition=self.where(each),
                chosen=each.among(buckets),
            )
            for each in relations
        )
        found: dict[str, Buckets] = {}
        for name, bucket, count, digest in connection.execute(statement).fetchall():
            found.setdefault(name, {})[bucket] = (count, digest)
        return found

    def _differing(self, relation: Relation, buckets: list[int]) -> list[int]:
        here, there = self._sides.on_both(
            lambda connection: self._digests(connection, CONTENT, [relation], buckets).get(relation.name, {})
        )
        return [bucket for bucket in buckets if here.get(bucket) != there.get(bucket)]

    def _bring(self, relation: Relation, here: Hashes, there: Hashes, *, is_held: bool) -> list[str]:
        """Make rows of the target equal to the source, from the hashes of both; the keys of rows that differed."""
        changed = [key for key, digest in here.items() if there.get(key) != digest]
        # A table of the platform has rows there that do not belong to this organization.
        gone = [] if relation.owners else [key for key in there if key not in here]
        if changed or gone:
            with self._sides.writing():
                for keys in _batched([*(key for key in changed if key in there), *gone]):
                    self._sides.target.execute(
                        sql.SQL("delete from {table} t using {keys} k where ({key}) = ({other})").format(
                            table=relation.table,
                            keys=_keys(relation, keys),
                            key=relation.key_row(),
                            other=_of_key(relation),
                        )
                    )
                for keys in _batched(changed):
                    self._pipe(relation, keys)
        # While writes are held nothing else changes them: what was copied must be equal now.
        if is_held:
            for keys in _batched([*changed, *gone]):
                statement = self._hashing(relation, self.where(relation, keys))
                copied = {key: (bucket, digest) for key, bucket, digest in self._sides.target.execute(statement)}
                if copied != {key: here[key] for key in keys if key in here}:
                    raise MoveError(f"The target changes the rows of {relation.name}.", "Run the command again.")
        return [*changed, *gone]

    def _hashes(self, connection: Connection, buckets: dict[str, list[int]]) -> dict[str, Hashes]:
        """For each of these tables: the hashes of the rows in these buckets, by key."""
        if not buckets:
            return {}
        relations = [(self._by_name[name], numbers) for name, numbers in buckets.items()]
        statement = sql.SQL(" union all ").join(
            sql.SQL("select {name}, r.* from ({rows}) r").format(
                name=sql.Literal(each.name),
                rows=self._hashing(each, sql.Composed([self.where(each), each.among(numbers)])),
            )
            for each, numbers in relations
        )
        found: dict[str, Hashes] = {}
        for name, key, bucket, digest in connection.execute(statement).fetchall():
            found.setdefault(name, {})[key] = (bucket, digest)
        return found

    @staticmethod
    def _hashing(relation: Relation, condition: sql.Composable) -> sql.Composed:
        named = (sql.SQL("{}, t.{}").format(sql.Literal(name), sql.Identifier(name)) for name in relation.key)
        return sql.SQL(
            "select jsonb_build_object({key})::text, {bucket}, hashtextextended(row({columns})::text, 0)"
            " from {table} t where {condition}"
        ).format(
            key=sql.SQL(", ").join(named),
            bucket=relation.bucket(),
            columns=relation.columns_of("t"),
            table=relation.table,
            condition=condition,
        )

    def _pipe(self, relation: Relation, keys: Iterable[str] | None) -> None:
        """Copy rows of the source, all or those with these keys, unchanged."""
        reading = sql.SQL("copy (select {columns} from {table} t where {condition}) to stdout").format(
            columns=relation.columns_of("t"), table=relation.table, condition=self.where(relation, keys)
        )
        writing = sql.SQL("copy {table} ({columns}) from stdin").format(
            table=relation.table, columns=sql.SQL(", ").join(map(sql.Identifier, relation.columns))
        )
        with self._sides.source.cursor() as out, self._sides.target.cursor() as into:
            try:
                with out.copy(reading) as rows, into.copy(writing) as copying:
                    for data in rows:
                        copying.write(data)
            except psycopg.errors.UniqueViolation as error:
                raise MoveError(
                    f"The target has another row of {relation.name}: {error.diag.message_detail}"
                ) from error

    def of_doors(self) -> dict[str, list[Any]]:
        statement = sql.SQL(" union all ").join(
            sql.SQL("select {}, to_jsonb(t) from {} t where {}").format(
                sql.Literal(each.name), each.table, self.where(each)
            )
            for each in self.doors
        )
        doors: dict[str, list[Any]] = {each.name: [] for each in self.doors}
        for name, found in self._sides.source.execute(statement):
            doors[name].append(found)
        return doors

    def insert(self, name: str, rows: list[Any]) -> None:
        relation = self._by_name[name]
        # Rows get new numbers: the target has assigned the old ones to other rows.
        names = [name for name in relation.columns if name not in relation.identities]
        statement = sql.SQL(
            "insert into {table} ({columns}) select {columns} from jsonb_populate_recordset(null::{table}, %s::jsonb)"
        ).format(table=relation.table, columns=sql.SQL(", ").join(map(sql.Identifier, names)))
        try:
            self._sides.target.execute(statement, [json.dumps(rows)])
        except psycopg.errors.UniqueViolation as error:
            raise MoveError(f"The target has another row of {relation.name}: {error.diag.message_detail}") from error

    def delete(self) -> None:
        """Delete everything that was copied."""
        for each in sorted(self.bulk, key=lambda one: one.condition.startswith("t.organization_id")):
            if not each.owners:
                self._sides.target.execute(sql.SQL("delete from {} t where {}").format(each.table, self.where(each)))
        self._sides.target.execute("delete from public.organizations where id = %s", [self._sides.organization])

    def check_keys(self, changed: Changed) -> None:
        """Keys of these rows that leave the organization: to tables of the platform, people, and rows of others."""
        names = list(changed)
        doors = {each.name for each in self.doors}
        for key, name, parent, equal, given, value in self._sides.target.execute(LEAVING_KEYS, [names]).fetchall():
            if parent in doors:
                continue  # they are copied last
            relation = self._by_name[name]
            statement = sql.SQL(
                "select {value} from {table} t where {condition} and {given}"
                " and not exists (select from {parent} other where {equal}) limit 1"
            ).format(
                value=sql.SQL(value),
                table=relation.table,
                condition=self.where(relation, changed[name]),
                given=sql.SQL(given),
                parent=sql.Identifier(*parent.split(".")),
                equal=sql.SQL(equal),
            )
            if found := self._sides.target.execute(statement).fetchone():
                raise MoveError(
                    f"A row of {relation.name} refers to {parent} {found[0]}, which the target does not have ({key}).",
                    "Add that row at the target, or delete the row that refers to it.",
                )

    def raise_sequences(self) -> None:
        for each in self.bulk:
            for column in each.identities:
                (name,) = row(self._sides.target, "select pg_get_serial_sequence(%s, %s)", each.name, column)
                statement = sql.SQL(RAISE_SEQUENCE).format(
                    sequence=sql.SQL("{}::regclass").format(sql.Literal(name)),
                    column=sql.Identifier(column),
                    table=each.table,
                )
                self._sides.target.execute(statement, [self._sides.organization])

    def where(self, relation: Relation, keys: Iterable[str] | None = None) -> sql.Composable:
        """The condition that finds its rows, for both sides; with `keys`, those rows alone."""
        condition = relation.condition.replace("$1", "{organization}::uuid").replace("$2", "{owners}::text[]")
        found = sql.SQL(f"({condition})").format(
            organization=sql.Literal(self._sides.organization), owners=sql.Literal(self._owners.get(relation.name))
        )
        if keys is None:
            return found
        return sql.SQL("{} and ({}) in (select {} from {} k)").format(
            found, relation.key_row(), _of_key(relation), _keys(relation, keys)
        )


def _keys(relation: Relation, keys: Iterable[str]) -> sql.Composed:
    rows = sql.Literal(f"[{','.join(keys)}]")
    return sql.SQL("jsonb_populate_recordset(null::{table}, {rows}::jsonb)").format(table=relation.table, rows=rows)


def _of_key(relation: Relation) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier("k", name) for name in relation.key)


def _batched(keys: Iterable[str]) -> Iterator[list[str]]:
    left = iter(keys)
    while batch := list(islice(left, BATCH)):
        yield batch
