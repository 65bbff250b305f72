"""Deleting, restoring, merging and converting in any order keeps every link and every row."""

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support.rows import Cursor, add, call, scene, turn
from tests.support.world import ACME, Database, Row

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from uuid import UUID

HOUSE = {"title": "House", "address": "1 Elm", "city": "Austin", "state": "TX", "zip_code": "78701", "price": 100}
some = st.integers(0, 9)
# Child table, its column, and the referenced table.
LINKS = [
    ("deals", "contact_id", "contacts"), ("deals", "listing_id", "listings"), ("deals", "lead_id", "leads"),
    ("contacts", "company_id", "companies"), ("tasks", "deal_id", "deals"), ("tasks", "contact_id", "contacts"),
    ("leads", "converted_contact_id", "contacts"), ("appointments", "listing_id", "listings"),
]  # fmt: skip


class Records(RuleBasedStateMachine):
    """One transaction; `links` is what should hold once everything is restored: (child, id, column) → parent."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self._scene: AbstractContextManager[Cursor] = scene(self.database)
        self.cursor = self._scene.__enter__()
        self.rows: dict[str, list[UUID]] = {}
        self.links: dict[tuple[str, UUID, str], UUID] = {}

    def teardown(self) -> None:
        self._restore_all()
        for (table, row, column), parent in self.links.items():
            found = self.cursor.execute(f"select {column} as it from public.{table} where id = %s", [row]).fetchone()
            assert found == {"it": parent}, (table, column)
        for table, ids in self.rows.items():
            count = self.cursor.execute(f"select from public.{table} where id = any (%s)", [ids]).rowcount
            assert count == len(ids), table
        self._scene.__exit__(None, None, None)

    def make(self, table: str, **columns: Any) -> Row:
        row = add(self.cursor, table, organization_id=ACME, **columns)
        self.rows.setdefault(table, []).append(row["id"])
        for child, column, _ in LINKS:
            if child == table and row[column] is not None:
                self.links[table, row["id"], column] = row[column]
        return row

    @initialize()
    def begin(self) -> None:
        turn(self.cursor, "admin")
        for number in range(3):
            company = self.make("companies", name=f"Company {number}")
            contact = self.make("contacts", name=f"Contact {number}", company_id=company["id"])
            house = self.make("listings", **HOUSE)
            lead = self.make("leads", name=f"Lead {number}")
            deal = self.make(
                "deals", title="Sale", value=1, contact_id=contact["id"], listing_id=house["id"], lead_id=lead["id"]
            )
            self.make("tasks", title="Call", deal_id=deal["id"], contact_id=contact["id"])
            self.make(
                "appointments", title="Viewing", listing_id=house["id"], start_time="2030-01-01", end_time="2030-01-02"
            )

    @rule(
        table=st.sampled_from(["companies", "contacts", "listings", "leads", "deals", "tasks", "appointments"]), n=some
    )
    def deleted(self, table: str, n: int) -> None:
        ids = self.rows[table]
        self.cursor.execute(f"delete from public.{table} where id = %s", [ids[n % len(ids)]])

    @rule(n=some)
    def restored(self, n: int) -> None:
        entries = self.cursor.execute("select id from public.trash order by record_id").fetchall()
        if entries:
            call(self.cursor, "restore_from_trash", ids=[entries[n % len(entries)]["id"]])

    @rule(table=st.sampled_from(["contacts", "companies"]), n=some)
    def merged(self, table: str, n: int) -> None:
        there = self.cursor.execute(
            f"select id from public.{table} where id = any (%s) order by id", [self.rows[table]]
        )
        ids = [row["id"] for row in there.fetchall()]
        if len(ids) < 2:
            return
        kept, trashed = ids[n % len(ids)], ids[(n + 1) % len(ids)]
        call(self.cursor, f"merge_{table}", into_id=kept, duplicate_ids=[trashed])
        self.rows[table].remove(trashed)
        own = [key for key in self.links if key[0] == table and key[1] == trashed]
        for key in own:
            del self.links[key]
            self._forget(table, kept, key[2])
        for key, parent in self.links.items():
            if parent == trashed:
                self.links[key] = kept

    def _forget(self, table: str, kept: "UUID", column: str) -> None:
        """Which company a merged contact keeps is the merge's to decide."""
        self.links.pop((table, kept, column), None)

    @rule(n=some)
    def converted(self, n: int) -> None:
        there = self.cursor.execute(
            "select id from public.leads where id = any (%s) and status <> 'CONVERTED' order by id",
            [self.rows["leads"]],
        ).fetchall()
        if there:
            made = call(self.cursor, "convert_lead", lead_id=there[n % len(there)]["id"])
            contact = self.cursor.execute(
                "select id from public.contacts where id = %s", [made["contact_id"]]
            ).fetchone()
            assert contact
            self.rows["contacts"].append(contact["id"])
            self.links["leads", there[n % len(there)]["id"], "converted_contact_id"] = contact["id"]

    @invariant()
    def every_record_is_here_or_in_the_trash_once(self) -> None:
        for table, ids in self.rows.items():
            here = {
                row["id"] for row in self.cursor.execute(f"select id from public.{table} where id = any (%s)", [ids])
            }
            trashed = {
                row["record_id"]
                for row in self.cursor.execute(
                    "select record_id from public.trash where kind = %s and record_id = any (%s)", [table, ids]
                )
            }
            assert not here & trashed
            assert here | trashed == set(ids), table

    def _restore_all(self) -> None:
        while entries := self.cursor.execute("select id from public.trash order by deleted_at desc, id").fetchall():
            call(self.cursor, "restore_from_trash", ids=[entries[0]["id"]])


def test_no_order_of_trash_operations_loses_a_link(database: Database) -> None:
    Records.database = database
    run_state_machine_as_test(
        Records,
        settings=settings(
            max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
