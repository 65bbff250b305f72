"""An organization moved to another database while it is used, by an operator with the logins of both owners.

Its rows are compared bucket by bucket and copied where they differ, until little differs. Then its writes are held, the
last differences are copied, and both databases switch. Every step may be repeated: a move that died goes on from what
both databases say. The SQL is in the chapter moves, the reasons in docs/decisions/0012-move-an-organization.md.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

SyncConnection = psycopg.Connection[Any]
# Many, so that few rows share the bucket of one that changed.
BUCKETS = 1 << 14
BATCH = 2000
# Writes are held once a round has found this few differences, or after this many rounds.
FEW, ROUNDS = 200, 10
# How long the hold waits for transactions of the organization that have written, and how often it is tried.
LOCK_SECONDS, TRIES = 1, 60
JOBS_SECONDS = 60
ORGANIZATIONS = "public.organizations"
NO_TOKEN = {
    "confirmation_token", "recovery_token", "email_change_token_new", "email_change_token_current", "email_change",
    "phone_change", "phone_change_token", "reauthentication_token",
}  # fmt: skip


class MoveError(Exception):
    """The organization was not moved; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


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


@dataclass
class Report:
    """What a move did. `rows` counts those that were compared as equal when it switched."""

    rows: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    copied: int = 0
    held_seconds: float = 0.0
    state: str = ""


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
PERSON_COLUMNS = """
select k.conrelid::regclass::text, a.attname from pg_constraint k
join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
where k.contype = 'f' and k.confrelid = 'public.users'::regclass and k.conrelid = any (%s::regclass[])
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
# In this order, by this column; of the last two people have none or many rows.
ACCOUNTS = {
    "auth.users": "id",
    "auth.identities": "user_id",
    "public.users": "id",
    "public.user_dashboards": "user_id",
    "private.notification_preferences": "user_id",
}
FILES = """
select count(*) from storage.objects
where bucket_id in ('attachments', 'exports')
  and (starts_with(name, %(it)s || '/') or starts_with(name, 'platform/' || %(it)s || '/'))
"""
SAME_ORGANIZATION = """
select id, slug, stripe_customer_id from public.organizations
where (id = %s or slug = %s or stripe_customer_id = %s)
  and id not in (select organization_id from private.organization_moves where state = 'INCOMING')
"""
OTHER_ACCOUNT = """
select id, lower(email) from auth.users
where id <> %(id)s and lower(email) = %(email)s or id = %(id)s and lower(email) <> %(email)s
"""
# Closed until it arrives, so that no job works for it.
PLACEHOLDER = """
select to_jsonb(o) || jsonb_build_object('closed_at', now(), 'stripe_customer_id', null)
from public.organizations o where o.id = %s
"""
INCOMING = """
insert into private.organization_moves (organization_id, state) values (%s, 'INCOMING')
on conflict (organization_id) do update set state = 'INCOMING', started_at = now(), doors = null,
  created_accounts = '{}', callers = '{}'
"""
COPYING = """
insert into private.organization_moves (organization_id, state, address) values (%s, 'COPYING', %s)
on conflict (organization_id) do update set state = 'COPYING', address = excluded.address, started_at = now(),
  held_at = null, moved_at = null, erased_at = null, callers = '{}'
"""
READY = """
update private.organization_moves set state = 'READY', doors = %s, callers = %s
where organization_id = %s and state in ('INCOMING', 'READY')
"""
ARRIVED = """
update private.organization_moves set state = 'ARRIVED', doors = null, callers = '{}', moved_at = now()
where organization_id = %s
"""
# A person may be suspended at one side alone.
BLOCK = """
update public.organization_members m set blocked_until = private.blocked_until(u)
from public.users u where u.id = m.user_id and m.organization_id = %s
"""
# Numbers that order rows go on after the highest that came. The gap is for those that are drawn meanwhile.
RAISE_SEQUENCE = """
select setval({sequence}, m.most + 2000)
from (select max(t.{column}) as most from {table} t where t.organization_id = %s) m
where m.most + 1000 > coalesce(pg_sequence_last_value({sequence}), 0)
"""
JOB_LOCKS = "select bool_and(pg_try_advisory_xact_lock(private.job_lock(name))) from private.jobs"
# The versions of rows: an update, a deletion and an insertion change them, and reading them is cheap.
VERSIONS = "bit_xor(hash_record_extended(row(t.tableoid, t.ctid, t.xmin), 0))"
CONTENT = "bit_xor(hashtextextended(row({columns})::text, 0))"
BUCKET = "hash_record_extended(row({key}), 0) & {last}"

Buckets = dict[int, tuple[int, int]]
# Keys of rows by table; None is the whole table.
Changed = dict[str, list[str] | None]


class Move:
    """One organization between two databases. `step` is called with the name of each step before it is done."""

    def __init__(
        self,
        source: SyncConnection,
        target: SyncConnection,
        organization: str,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source, self._target, self._step = source, target, step
        for each in (source, target):
            # The hashes are of texts: both sides must write values alike.
            each.execute(
                "set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; set bytea_output = 'hex';"
                " set extra_float_digits = 1; set statement_timeout = 0; set search_path = pg_catalog"
            )
        self._organization = self._find(organization)
        if not _row(source, "select pg_try_advisory_lock(hashtextextended('move:' || %s, 0))", self._organization)[0]:
            raise MoveError("Another process is moving this organization.")
        self._relations = self._relations_of(source)
        self._bulk = [each for each in self._relations if not each.is_door]
        self._doors = [each for each in self._relations if each.is_door]
        self._own = [each for each in self._relations if not each.owners]
        # The versions of buckets that were equal, at the source and at the target.
        self._equal: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._owners: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._threads = ThreadPoolExecutor(2)
        self.report = Report()

    # The command ----------------------------------------------------------------------------------------------------

    def run(self, address: str) -> Report:
        """Move it, or go on with a move that died."""
        leaving, arriving = self.states()
        if leaving in {None, "ERASED", "ARRIVED"}:
            self._check()
            self._begin(address)
            leaving, arriving = self.states()
        if leaving == "COPYING":
            self._copy()
            self._switch()
        elif arriving == "READY":
            self._step("arrive")
            self._arrive()
        self.report.state = "MOVED"
        return self.report

    def abort(self) -> None:
        """Before the switch: the source goes on as if there had been no move, and the copy is deleted."""
        leaving, arriving = self.states()
        if leaving == "MOVED":
            raise MoveError("It has moved already.", "Move it back: run the command at its new project.")
        if leaving != "COPYING" and arriving != "INCOMING":
            raise MoveError("No move of this organization is under way.")
        self._step("abort")
        if arriving in {"INCOMING", "READY"}:
            with self._writing():
                for each in sorted(self._bulk, key=lambda one: one.condition.startswith("t.organization_id")):
                    if not each.owners:
                        self._delete_all(each)
                self._target.execute("delete from public.organizations where id = %s", [self._organization])
                statement = (
                    "delete from private.organization_moves where organization_id = %s returning created_accounts"
                )
                (created,) = _row(self._target, statement, self._organization)
            for person in created:
                self._delete_account(person)
        statement = "delete from private.organization_moves where organization_id = %s and state = 'COPYING'"
        self._source.execute(statement, [self._organization])
        self._source.execute("select private.note_moves()")

    def erase(self) -> dict[str, int]:
        """Delete what the source still has of it, once its rows are at the target."""
        leaving, arriving = self.states()
        if (leaving, arriving) != ("MOVED", "ARRIVED"):
            found = f"{leaving or 'not moving'} here and {arriving or 'unknown'} there"
            raise MoveError(f"It is {found}: only the rows of a finished move are erased.", "Finish the move first.")
        self._step("erase")
        (proof,) = _row(self._source, "select private.erase_organization(%s)", self._organization)
        rows: dict[str, int] = proof["rows"]
        return rows

    def states(self) -> tuple[str | None, str | None]:
        """Of the move, at the source and at the target."""
        statement = "select (select state from private.organization_moves where organization_id = %s)"
        ((here,), (there,)) = (_row(each, statement, self._organization) for each in (self._source, self._target))
        return here, there

    # Checks ---------------------------------------------------------------------------------------------------------

    def _find(self, organization: str) -> str:
        statement = "select id::text from public.organizations where id::text = %(it)s or slug = %(it)s"
        found = self._source.execute(statement, {"it": organization}).fetchone()
        if not found:
            statement = "select address from private.organization_moves where organization_id::text = %s"
            moved = self._source.execute(statement, [organization]).fetchone()
            raise MoveError(
                f"There is no organization {organization!r} in the source.",
                f"It has moved to {moved[0]}." if moved else "Name its id or its slug.",
            )
        return str(found[0])

    @staticmethod
    def _relations_of(connection: SyncConnection) -> list[Relation]:
        return [Relation(*row) for row in connection.execute(RELATIONS).fetchall()]

    def _check(self) -> None:
        """Refuse what cannot be moved, before anything is copied."""
        self._step("check")
        identity = "select (select system_identifier from pg_control_system()), current_database()"
        if _row(self._source, identity) == _row(self._target, identity):
            raise MoveError("Source and target are the same database.", "Name another one with --to.")
        there = {each.name: each for each in self._relations_of(self._target)}
        for each in self._relations:
            if there.pop(each.name, None) != each:
                raise MoveError(
                    f"The target has another {each.name} than the source.", "Apply the same migrations to both."
                )
        if there:
            raise MoveError(f"The source has no {', '.join(there)}.", "Apply the same migrations to both.")
        for each in self._relations:
            if not each.key:
                raise MoveError(f"{each.name} has no primary key.")
        self._check_organization()
        self._check_people()
        if files := _row(self._source, FILES, it=self._organization)[0]:
            raise MoveError(f"It has {files} files, and files are not moved.", "Export and delete them, then move it.")

    def _check_organization(self) -> None:
        names = ("id", "slug", "stripe_customer_id", "closed_at")
        statement = f"select {', '.join(names)} from public.organizations where id = %s"  # noqa: S608 - the names above
        *mine, closed_at = _row(self._source, statement, self._organization)
        if closed_at:
            raise MoveError("It is closed.", "Reopen it first, or let it be erased.")
        there = self._target.execute(SAME_ORGANIZATION, mine).fetchone() or ()
        for name, own, other in zip(names, mine, there, strict=False):
            if own is not None and own == other:
                raise MoveError(
                    f"The target has an organization with {name} {own}.", "Change or erase the one that is not used."
                )
        statement = "select stripe_customer_id from private.billing_customers where organization_id = %s"
        customers = [name for (name,) in self._source.execute(statement, [self._organization])]
        statement = "select stripe_customer_id, organization_id from private.billing_customers"
        found = self._target.execute(f"{statement} where stripe_customer_id = any (%s)", [customers]).fetchone()
        if found:
            raise MoveError(f"At the target, the Stripe customer {found[0]} belongs to the organization {found[1]}.")

    def _check_people(self) -> None:
        statement = "select id, lower(email) from auth.users where id = any (%s)"
        for who, address in self._source.execute(statement, [self._people(self._own)]):
            if found := self._target.execute(OTHER_ACCOUNT, {"id": who, "email": address}).fetchone():
                raise MoveError(
                    f"An account differs: {who} has the email {address} at the source,"
                    f" and {found[0]} has {found[1]} at the target.",
                    "Delete one of the accounts, or change its address.",
                )

    # Copying --------------------------------------------------------------------------------------------------------

    def _begin(self, address: str) -> None:
        self._step("begin")
        with self._writing():
            self._target.execute(INCOMING, [self._organization])
            self._target.execute("delete from public.organizations where id = %s", [self._organization])
            self._insert(self._relation(ORGANIZATIONS), [_row(self._source, PLACEHOLDER, self._organization)[0]])
        self._step("note")
        self._source.execute(COPYING, [self._organization, address])

    def _copy(self) -> None:
        """Copy until little differs. Nobody waits for this."""
        if self.states()[1] is None:
            raise MoveError(
                "The target has no record of this move.", "Name the target that it began with, or use --abort."
            )
        for number in range(ROUNDS):
            self._step(f"copy {number}")
            self._copy_people(self._people(self._own))
            changed = self._round()
            self.report.rounds += 1
            self._check_keys(changed)
            if None not in changed.values() and sum(len(keys or ()) for keys in changed.values()) <= FEW:
                break

    def _round(self, *, is_held: bool = False) -> Changed:
        """Compare all, copy what differs: the keys of the rows that did, by table; None for a whole table."""
        for each in self._bulk:
            if each.owners:
                owners = self._source.execute(each.owners.replace("$1", "%(it)s"), {"it": self._organization})
                self._owners[each.name] = [owner for (owner,) in owners]
        versions = self._on_both(lambda connection: self._digests(connection, VERSIONS, self._bulk))
        self._counts = {name: sum(count for count, _ in found.values()) for name, found in versions[0].items()}
        changed: Changed = {}
        for each in self._bulk:
            here, there = (found.get(each.name, {}) for found in versions)
            buckets = [
                bucket
                for bucket in here.keys() | there.keys()
                if self._equal.get((each.name, bucket), (None, None)) != (here.get(bucket), there.get(bucket))
            ]
            # Of many buckets, whole ones are compared first.
            is_many = there and len(buckets) > BUCKETS // 8
            differing = self._differing(each, buckets) if is_many else buckets
            keys = self._equalize(each, differing, is_empty=not there)
            if keys != []:
                changed[each.name] = keys
                # While writes are held nothing else changes them: what was copied must be equal now.
                if is_held and self._bring(each, differing):
                    raise MoveError(f"The target changes the rows of {each.name}.", "Run the command again.")
            for bucket in set(buckets) - set(differing if keys != [] else []):
                self._equal[each.name, bucket] = (here.get(bucket), there.get(bucket))
        return changed

    def _equalize(self, relation: Relation, buckets: list[int], *, is_empty: bool) -> list[str] | None:
        """Copy what differs in these buckets: the keys, or None for all rows of the table."""
        if not buckets:
            return []
        if is_empty:
            with self._writing():
                self.report.copied += self._pipe(relation, None)
            return None
        keys = self._bring(relation, buckets)
        self.report.copied += len(keys)
        return keys

    def _digests(
        self, connection: SyncConnection, what: str, relations: list[Relation], buckets: list[int] | None = None
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
                condition=self._where(each),
                chosen=each.among(buckets),
            )
            for each in relations
        )
        found: dict[str, Buckets] = {}
        for name, bucket, count, digest in connection.execute(statement):
            found.setdefault(name, {})[bucket] = (count, digest)
        return found

    def _differing(self, relation: Relation, buckets: list[int]) -> list[int]:
        here, there = self._on_both(
            lambda connection: self._digests(connection, CONTENT, [relation], buckets).get(relation.name, {})
        )
        return [bucket for bucket in buckets if here.get(bucket) != there.get(bucket)]

    def _bring(self, relation: Relation, buckets: list[int]) -> list[str]:
        """Make these buckets of the target equal to the source, row by row: the keys of rows that differed."""
        here, there = self._on_both(lambda connection: self._hashes(connection, relation, buckets))
        changed = [key for key, digest in here.items() if there.get(key) != digest]
        # A shared table has rows there that this organization shares with nobody here.
        gone = [] if relation.owners else [key for key in there if key not in here]
        if changed or gone:
            with self._writing():
                for keys in _batched([*(key for key in changed if key in there), *gone]):
                    self._target.execute(
                        sql.SQL("delete from {table} t using {keys} k where ({key}) = ({other})").format(
                            table=relation.table,
                            keys=_keys(relation, keys),
                            key=relation.key_row(),
                            other=_of_key(relation),
                        )
                    )
                for keys in _batched(changed):
                    self._pipe(relation, keys)
        return [*changed, *gone]

    def _hashes(self, connection: SyncConnection, relation: Relation, buckets: list[int]) -> dict[str, int]:
        named = (sql.SQL("{}, t.{}").format(sql.Literal(name), sql.Identifier(name)) for name in relation.key)
        statement = sql.SQL(
            "select jsonb_build_object({key})::text, hashtextextended(row({columns})::text, 0) from {table} t"
            " where {condition}{chosen}"
        ).format(
            key=sql.SQL(", ").join(named),
            columns=relation.columns_of("t"),
            table=relation.table,
            condition=self._where(relation),
            chosen=relation.among(buckets),
        )
        return dict(connection.execute(statement).fetchall())

    def _pipe(self, relation: Relation, keys: Iterable[str] | None) -> int:
        """Rows of the source, all or those with these keys, as they are."""
        reading = sql.SQL("copy (select {columns} from {table} t where {condition}) to stdout").format(
            columns=relation.columns_of("t"), table=relation.table, condition=self._where(relation, keys)
        )
        writing = sql.SQL("copy {table} ({columns}) from stdin").format(
            table=relation.table, columns=sql.SQL(", ").join(map(sql.Identifier, relation.columns))
        )
        with self._source.cursor() as out, self._target.cursor() as into:
            try:
                with out.copy(reading) as rows, into.copy(writing) as copying:
                    for data in rows:
                        copying.write(data)
            except psycopg.errors.UniqueViolation as error:
                raise MoveError(
                    f"The target has another row of {relation.name}: {error.diag.message_detail}"
                ) from error
            return into.rowcount

    def _insert(self, relation: Relation, rows: list[Any]) -> None:
        # Numbers of rows are drawn again: the target has given them to others.
        names = [name for name in relation.columns if name not in relation.identities]
        statement = sql.SQL(
            "insert into {table} ({columns}) select {columns} from jsonb_populate_recordset(null::{table}, %s::jsonb)"
        ).format(table=relation.table, columns=sql.SQL(", ").join(map(sql.Identifier, names)))
        try:
            self._target.execute(statement, [json.dumps(rows)])
        except psycopg.errors.UniqueViolation as error:
            raise MoveError(f"The target has another row of {relation.name}: {error.diag.message_detail}") from error

    def _delete_all(self, relation: Relation) -> None:
        self._target.execute(sql.SQL("delete from {} t where {}").format(relation.table, self._where(relation)))

    # People ---------------------------------------------------------------------------------------------------------

    def _people(self, relations: list[Relation], keys: Changed | None = None) -> list[Any]:
        """Everyone that rows of these tables point to; with `keys`, those rows alone."""
        by_table: dict[str, list[str]] = {}
        for table, column in self._source.execute(PERSON_COLUMNS, [[each.name for each in relations]]):
            by_table.setdefault(table, []).append(column)
        parts = [
            sql.SQL(
                "select v.who from {table} t cross join lateral (values {columns}) v (who) where {condition}"
            ).format(
                table=each.table,
                columns=sql.SQL(", ").join(
                    sql.SQL("(t.{})").format(sql.Identifier(name)) for name in by_table[each.name]
                ),
                condition=self._where(each, (keys or {}).get(each.name)),
            )
            for each in relations
            if each.name in by_table
        ]
        if not parts:
            return []
        statement = sql.SQL("select distinct who from ({}) p where who is not null").format(
            sql.SQL(" union all ").join(parts)
        )
        return [who for (who,) in self._source.execute(statement)]

    def _copy_people(self, people: list[Any]) -> None:
        """Accounts that the target lacks, with their passwords; without rights on the platform."""
        known = {who for (who,) in self._target.execute("select id from public.users where id = any (%s)", [people])}
        missing = [who for who in people if who not in known]
        if not missing:
            return
        with self._writing():
            statement = "update private.organization_moves set created_accounts = created_accounts || %s::uuid[]"
            self._target.execute(f"{statement} where organization_id = %s", [missing, self._organization])
            for table, key in ACCOUNTS.items():
                self._copy_accounts(table, key, missing)

    def _copy_accounts(self, table: str, key: str, people: list[Any]) -> None:
        name = sql.Identifier(*table.split("."))
        stored = "select unnest(private.stored_columns(%s::regclass))"
        here, there = ({column for (column,) in each.execute(stored, [table])} for each in (self._source, self._target))
        statement = sql.SQL("select to_jsonb(t) from {} t where t.{} = any (%s)").format(name, sql.Identifier(key))
        rows = [row for (row,) in self._source.execute(statement, [people])]
        for row in rows:
            row.pop("is_super_admin", None)
            if table == "public.users":
                row["global_role"] = "USER"
                if row["current_organization_id"] != self._organization:
                    row["current_organization_id"] = None
        copied = sorted((here & there) - NO_TOKEN)
        # The auth service reads an empty text where there is no token.
        empty = sorted(there & NO_TOKEN)
        statement = sql.SQL(
            "insert into {table} ({columns}) select {values} from jsonb_populate_recordset(null::{table}, %s::jsonb) t"
            " on conflict do nothing"
        ).format(
            table=name,
            columns=sql.SQL(", ").join(map(sql.Identifier, [*copied, *empty])),
            values=sql.SQL(", ").join(
                [*(sql.Identifier("t", each) for each in copied), *(sql.SQL("''") for _ in empty)]
            ),
        )
        self._target.execute(statement, [json.dumps(rows)])

    def _delete_account(self, person: Any) -> None:
        """An account that the move created, unless it is a member of another organization by now."""
        self._target.execute(
            "delete from auth.users u where u.id = %s"
            " and not exists (select from public.organization_members m where m.user_id = u.id)",
            [person],
        )

    def _check_keys(self, changed: Changed) -> None:
        """Keys of these rows that leave the organization: to tables of the platform, people, and rows of others."""
        names = list(changed)
        doors = {each.name for each in self._doors}
        for key, name, parent, equal, given, value in self._target.execute(LEAVING_KEYS, [names]).fetchall():
            if parent in doors:
                continue  # they arrive last
            relation = self._relation(name)
            statement = sql.SQL(
                "select {value} from {table} t where {condition} and {given}"
                " and not exists (select from {parent} other where {equal}) limit 1"
            ).format(
                value=sql.SQL(value),
                table=relation.table,
                condition=self._where(relation, changed[name]),
                given=sql.SQL(given),
                parent=sql.Identifier(*parent.split(".")),
                equal=sql.SQL(equal),
            )
            if found := self._target.execute(statement).fetchone():
                raise MoveError(
                    f"A row of {relation.name} refers to {parent} {found[0]}, which the target does not have ({key}).",
                    "Add that row at the target, or delete the row that refers to it.",
                )

    # Switching ------------------------------------------------------------------------------------------------------

    def _switch(self) -> None:
        """Hold writes, bring the rest, and leave. Until the commit of the source, nothing has happened."""
        for _ in range(TRIES):
            self._step("hold")
            with self._jobs_held():
                began = time.monotonic()
                try:
                    with self._source.transaction():
                        self._hold()
                        self._step("last round")
                        self._make_ready()
                        self._step("switch")
                        self._source.execute("set local session_replication_role = replica")
                        self._source.execute("select private.switch_away(%s)", [self._organization])
                except psycopg.errors.LockNotAvailable:
                    time.sleep(1)  # a long transaction of this organization: let others write meanwhile
                    self._round()
                    continue
                self._step("arrive")
                self._arrive()
                self.report.held_seconds = time.monotonic() - began
                return
        raise MoveError("Its writes could not be held: a transaction of it always ran.", "Run the command again.")

    def _hold(self) -> None:
        # Committed before the lock is taken, since those who are refused read it.
        with _another(self._source) as other:
            other.execute("select private.hold_writes(%s)", [self._organization])
        self._source.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'")
        self._source.execute("select pg_advisory_xact_lock(uuid_hash(%s) & 1023, 20)", [self._organization])

    @contextmanager
    def _jobs_held(self) -> Iterator[None]:
        """No job runs at either side: what it sends or notes would be sent or noted by both."""
        deadline = time.monotonic() + JOBS_SECONDS
        with _another(self._source) as here, _another(self._target) as there:
            while not all(each.execute(JOB_LOCKS).fetchone() == (True,) for each in (here, there)):
                here.rollback()
                there.rollback()
                if time.monotonic() > deadline:
                    raise MoveError(
                        f"A job has run for {JOBS_SECONDS} seconds.", "Run the command again when it has ended."
                    )
                time.sleep(0.1)  # a job runs: the next try
            yield
            here.rollback()
            there.rollback()

    def _make_ready(self) -> None:
        """While writes are held: all rows are at the target, and the doors lie ready."""
        self._copy_people(self._people(self._doors))
        if changed := self._round(is_held=True):
            self._copy_people(self._people([each for each in self._bulk if each.name in changed], changed))
            self._check_keys(changed)
        doors = {}
        for each in self._doors:
            statement = sql.SQL("select to_jsonb(t) from {} t where {}").format(each.table, self._where(each))
            doors[each.name] = [row for (row,) in self._source.execute(statement)]
        (callers,) = _row(self._source, "select private.move_callers(%s)", self._organization)
        self._target.execute(READY, [json.dumps(doors), callers, self._organization])
        self.report.rows = self._counts | {name: len(rows) for name, rows in doors.items() if rows}

    def _arrive(self) -> None:
        """The target's switch, from what lies ready there: the source is not needed."""
        statement = (
            "select doors from private.organization_moves where organization_id = %s and state = 'READY' for update"
        )
        with self._writing():
            (doors,) = _row(self._target, statement, self._organization)
            for name, rows in doors.items():
                if name == ORGANIZATIONS:
                    self._target.execute("delete from public.organizations where id = %s", [self._organization])
                if rows:
                    self._insert(self._relation(name), rows)
            self._target.execute(BLOCK, [self._organization])
            for relation in self._bulk:
                for column in relation.identities:
                    self._raise_sequence(relation, column)
            self._target.execute(ARRIVED, [self._organization])

    def _raise_sequence(self, relation: Relation, column: str) -> None:
        (name,) = _row(self._target, "select pg_get_serial_sequence(%s, %s)", relation.name, column)
        sequence = sql.SQL("{}::regclass").format(sql.Literal(name))
        statement = sql.SQL(RAISE_SEQUENCE).format(
            sequence=sequence, column=sql.Identifier(column), table=relation.table
        )
        self._target.execute(statement, [self._organization])

    # Statements -----------------------------------------------------------------------------------------------------

    def _where(self, relation: Relation, keys: Iterable[str] | None = None) -> sql.Composable:
        """The condition that finds its rows, for both sides; with `keys`, those rows alone."""
        condition = relation.condition.replace("$1", "{organization}::uuid").replace("$2", "{owners}::text[]")
        found = sql.SQL(f"({condition})").format(
            organization=sql.Literal(self._organization), owners=sql.Literal(self._owners.get(relation.name))
        )
        if keys is None:
            return found
        return sql.SQL("{} and ({}) in (select {} from {} k)").format(
            found, relation.key_row(), _of_key(relation), _keys(relation, keys)
        )

    def _relation(self, name: str) -> Relation:
        return next(each for each in self._relations if each.name == name)

    def _on_both(self, read: Callable[[SyncConnection], Any]) -> tuple[Any, Any]:
        here, there = (self._threads.submit(read, each) for each in (self._source, self._target))
        return here.result(), there.result()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """No trigger runs at the target: what they would do was done at the source."""
        with self._target.transaction():
            self._target.execute("set local session_replication_role = replica")
            yield


def _keys(relation: Relation, keys: Iterable[str]) -> sql.Composed:
    rows = sql.Literal(f"[{','.join(keys)}]")
    return sql.SQL("jsonb_populate_recordset(null::{table}, {rows}::jsonb)").format(table=relation.table, rows=rows)


def _of_key(relation: Relation) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier("k", name) for name in relation.key)


def _row(connection: SyncConnection, statement: str, *values: Any, **named: Any) -> tuple[Any, ...]:
    found = connection.execute(statement, named or values).fetchone()
    return tuple(found or ())


@contextmanager
def _another(connection: SyncConnection) -> Iterator[SyncConnection]:
    """A transaction of its own."""
    with psycopg.connect(connection.info.dsn, password=connection.info.password) as other:
        yield other


def _batched(keys: Iterable[str]) -> Iterator[list[str]]:
    left = iter(keys)
    while batch := list(islice(left, BATCH)):
        yield batch
