"""An organization moved to another database while it is used, by an operator with the logins of both owners.

Its rows and files are compared and copied where they differ, until little differs. Then its writes are held, the last
differences are copied, and both databases switch. Every step may be repeated: a move that died goes on from what
both databases say. The SQL is in the chapter moves, the reasons in docs/decisions/0012-move-an-organization.md.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

import psycopg

from shared.administration.moves.files import Files, Projects
from shared.administration.moves.people import People
from shared.administration.moves.rows import Changed, Rows
from shared.administration.moves.sides import Connection, MoveError, Sides, connect_again, row

# Writes are held once a round has found this few differences, or after this many rounds. A file counts as FILE rows.
FEW, ROUNDS, FILE = 200, 10, 10
# How long the hold waits for transactions of the organization that have written, and how often it is tried.
LOCK_SECONDS, TRIES = 1, 60
JOBS_SECONDS = 60
ORGANIZATIONS = "public.organizations"
SAME_ORGANIZATION = """
select id, slug, stripe_customer_id from public.organizations
where (id = %s or slug = %s or stripe_customer_id = %s)
  and id not in (select organization_id from private.organization_moves where state = 'INCOMING')
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
JOB_LOCKS = "select bool_and(pg_try_advisory_xact_lock(private.job_lock(name))) from private.jobs"


@dataclass
class Report:
    """What a move did. `rows` counts those that were equal when it switched, `files` those that this process copied."""

    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    held_seconds: float = 0.0


class Move:
    """One organization between two databases. `step` is called with the name of each step before it is done.

    `projects` are those of the source and of the target: without them, an organization with files is refused.
    """

    def __init__(
        self,
        source: Connection,
        target: Connection,
        organization: str,
        step: Callable[[str], None] = lambda _: None,
        projects: Projects | None = None,
    ) -> None:
        self._source, self._target, self._step = source, target, step
        self._organization = _find(source, organization)
        self._sides = Sides(source, target, self._organization)
        if not row(source, "select pg_try_advisory_lock(hashtextextended('move:' || %s, 0))", self._organization)[0]:
            raise MoveError("Another process is moving this organization.", "If it was killed, try again in a second.")
        self._rows = Rows(self._sides)
        self._people = People(self._sides, self._rows, projects)
        self._files = Files(self._sides.again(), projects)
        self.report = Report()

    def close(self) -> None:
        self._files.close()

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
        return self.report

    def abort(self) -> None:
        """Undo a move before the switch: the source continues as before, and the copy is deleted.

        The job sync_attachments of the target deletes files whose organization or user is gone.
        """
        leaving, arriving = self.states()
        if leaving == "MOVED":
            raise MoveError("It has moved already.", "Move it back: run the command at its new project.")
        if leaving != "COPYING" and arriving != "INCOMING":
            raise MoveError("No move of this organization is under way.")
        self._step("abort")
        if arriving in {"INCOMING", "READY"}:
            with self._sides.writing():
                self._rows.delete()
                statement = (
                    "delete from private.organization_moves where organization_id = %s returning created_accounts"
                )
                (created,) = row(self._target, statement, self._organization)
            self._people.delete(created)
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
        (proof,) = row(self._source, "select private.erase_organization(%s)", self._organization)
        rows: dict[str, int] = proof["rows"]
        return rows

    def states(self) -> tuple[str | None, str | None]:
        """The states of the move at the source and at the target."""
        statement = "select (select state from private.organization_moves where organization_id = %s)"
        ((here,), (there,)) = (row(each, statement, self._organization) for each in (self._source, self._target))
        return here, there

    # Checks ---------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse what cannot be moved, before anything is copied."""
        self._step("check")
        identity = "select (select system_identifier from pg_control_system()), current_database()"
        if row(self._source, identity) == row(self._target, identity):
            raise MoveError("Source and target are the same database.", "Name another one with --to.")
        self._rows.check()
        self._check_organization()
        self._people.check()
        self._files.check()

    def _check_organization(self) -> None:
        names = ("id", "slug", "stripe_customer_id", "closed_at")
        statement = f"select {', '.join(names)} from public.organizations where id = %s"  # noqa: S608 - the names above
        *mine, closed_at = row(self._source, statement, self._organization)
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

    # Copying --------------------------------------------------------------------------------------------------------

    def _begin(self, address: str) -> None:
        self._step("begin")
        with self._sides.writing():
            self._target.execute(INCOMING, [self._organization])
            self._target.execute("delete from public.organizations where id = %s", [self._organization])
            self._rows.insert(ORGANIZATIONS, [row(self._source, PLACEHOLDER, self._organization)[0]])
        self._step("note")
        self._source.execute(COPYING, [self._organization, address])

    def _copy(self) -> None:
        """Copy until little differs. Meanwhile the organization is used as always."""
        if self.states()[1] is None:
            raise MoveError(
                "The target has no record of this move.", "Name the target that it began with, or use --abort."
            )
        before = inf
        for number in range(ROUNDS):
            self._step(f"copy {number}")
            self._people.copy(self._people.of_rows())
            files = self._files.equalize()
            changed = self._equalize_rows()
            if number == 0:  # a move that died may have copied rows without this check
                self._rows.check_keys({each.name: None for each in self._rows.bulk})
            differed = FILE * files + sum(inf if keys is None else len(keys) for keys in changed.values())
            # Under steady traffic another round finds as much again.
            if differed <= FEW or before <= differed < inf:
                break
            before = differed

    # Switching ------------------------------------------------------------------------------------------------------

    def _switch(self) -> None:
        """Hold writes, bring the rest, and leave. Until the commit of the source, nothing has happened."""
        for _ in range(TRIES):
            self._step("jobs")
            with self._jobs_held():
                self._come_close()
                self._step("hold")
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
                    # A pause between two tries, not a wait for a result: requests that the hold kept waiting write now.
                    time.sleep(1)
                    continue
                self._step("arrive")
                self._arrive()
                self.report.held_seconds = time.monotonic() - began
                return
        raise MoveError("Its writes could not be held: a transaction of it always ran.", "Run the command again.")

    def _come_close(self) -> None:
        """Leave little for the hold: files first, since copying them takes longer and writes no rows at the source."""
        before = inf
        while FILE * (files := self._files.equalize()) > FEW and files < before:
            before = files
        self._equalize_rows()
        with ThreadPoolExecutor(1) as thread:
            copying = thread.submit(self._files.equalize)  # files that were added while rows were compared
            self._rows.prepare_hold()
            copying.result()
        self._files.equalize()

    def _hold(self) -> None:
        # Committed before the lock is taken, since those who are refused read it.
        with connect_again(self._source) as other:
            other.execute("select private.hold_writes(%s)", [self._organization])
        self._source.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'")
        self._source.execute("select pg_advisory_xact_lock(uuid_hash(%s) & 1023, 20)", [self._organization])

    @contextmanager
    def _jobs_held(self) -> Iterator[None]:
        """No job runs at either side: what it sends or notes would be sent or noted by both."""
        deadline = time.monotonic() + JOBS_SECONDS
        with connect_again(self._source) as here, connect_again(self._target) as there:
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
        """While writes are held: bring all rows and files to the target, and store the doors there."""
        self._people.copy(self._people.of(self._rows.doors))
        with ThreadPoolExecutor(1) as thread:
            files = thread.submit(self._files.equalize, is_held=True)
            self._equalize_rows(is_held=True)
            doors = self._rows.of_doors()
            files.result()
        (callers,) = row(self._source, "select private.move_callers(%s)", self._organization)
        self._target.execute(READY, [json.dumps(doors), callers, self._organization])
        self.report.files = self._files.copied
        self.report.rows = self._rows.counts | {name: len(rows) for name, rows in doors.items() if rows}

    def _equalize_rows(self, *, is_held: bool = False) -> Changed:
        if changed := self._rows.equalize(is_held=is_held):
            self._people.copy(self._people.of([each for each in self._rows.bulk if each.name in changed], changed))
            self._rows.check_keys(changed)
        return changed

    def _arrive(self) -> None:
        """Switch the target to what is stored there; the source is not needed."""
        statement = (
            "select doors from private.organization_moves where organization_id = %s and state = 'READY' for update"
        )
        with self._sides.writing():
            (doors,) = row(self._target, statement, self._organization)
            self._target.execute("delete from public.organizations where id = %s", [self._organization])
            for name, rows in doors.items():
                self._rows.insert(name, rows)
            self._target.execute(BLOCK, [self._organization])
            self._rows.raise_sequences()
            self._target.execute(ARRIVED, [self._organization])


def _find(source: Connection, organization: str) -> str:
    statement = "select id::text from public.organizations where id::text = %(it)s or slug = %(it)s"
    found = source.execute(statement, {"it": organization}).fetchone()
    if not found:
        statement = "select address from private.organization_moves where organization_id::text = %s"
        moved = source.execute(statement, [organization]).fetchone()
        raise MoveError(
            f"There is no organization {organization!r} in the source.",
            f"It has moved to {moved[0]}." if moved else "Name its id or its slug.",
        )
    return str(found[0])
