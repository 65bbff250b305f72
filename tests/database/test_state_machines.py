"""Deals and orders never reach a forbidden state, in any sequence of calls and writes by any person."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb

from tests.database.test_crm import OPEN, PROBABILITY, STAGES, may_move
from tests.database.test_garage import MOVES, STATUSES
from tests.database.test_garage_moves import moves
from tests.support.rows import Cursor, add, call, change, one, scene, turn
from tests.support.world import ACME, PEOPLE, Database, Row

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SERVER = "server"
STRANGERS = ["outsider", "globex_owner", "removed", "suspended"]
# People with permission act more often; otherwise most sequences would do nothing.
any_person = st.sampled_from([*["member", "admin", "owner", SERVER] * 4, "viewer", "platform_admin", *STRANGERS])
which = st.integers(0, 9)
some_stage = st.sampled_from(STAGES)
some_reason = st.sampled_from([None, " ", "Too dear"])
some_outcome = st.sampled_from(["ACTIVE", "WON", "LOST", "ABANDONED"])
some_probability = st.none() | st.integers(-1, 101)
SHORT = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip


class Played(RuleBasedStateMachine):
    """One transaction in which people take turns."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self._scene: AbstractContextManager[Cursor] = scene(self.database)
        self.cursor = self._scene.__enter__()

    def teardown(self) -> None:
        self._scene.__exit__(None, None, None)

    def tried(self, who: str, step: Callable[[], object]) -> str | None:
        """The refusal, or None."""
        turn(self.cursor, None if who == SERVER else who, None if who == SERVER else ACME)
        try:
            with self.cursor.connection.transaction():
                step()
        except psycopg.Error as error:
            return error.sqlstate
        finally:
            turn(self.cursor, None)
        return None


class Deals(Played):
    WRITERS = ("member", "admin", "owner", SERVER)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Row] = []
        self.moves: dict[UUID, int] = {}

    @initialize()
    def begin(self) -> None:
        self.begun("member", "LEAD", None, None)

    @rule(who=any_person, stage=some_stage, outcome=st.none() | some_outcome, reason=some_reason)
    def begun(self, who: str, stage: str, outcome: str | None, reason: str | None) -> None:
        columns = {"organization_id": ACME, "title": "Sale", "value": 100, "stage": stage, "lost_reason": reason}
        made: list[Row] = []
        refusal = self.tried(
            who, lambda: made.append(add(self.cursor, "deals", **columns, **({"status": outcome} if outcome else {})))
        )
        if refusal is None:
            assert who in self.WRITERS
            self.hold(made[0])
            self.seen.append(made[0])
            self.moves[made[0]["id"]] = 0
        assert refusal in {None, "42501", "PT422"}

    # Most moves are refused; this one is not.
    @rule(who=st.sampled_from(["member", "admin", "owner"]), n=which, forward=st.integers(-1, 4))
    def went_on(self, who: str, n: int, forward: int) -> None:
        at = STAGES.index(self.seen[n % len(self.seen)]["stage"])
        self.step(who, n, "move_deal", stage=STAGES[max(at + forward, 0) % 5])

    @rule(who=any_person, n=which, stage=some_stage, probability=some_probability, reason=some_reason)
    def moved(self, who: str, n: int, stage: str, probability: int | None, reason: str | None) -> None:
        self.step(who, n, "move_deal", stage=stage, probability=probability, lost_reason=reason)

    @rule(who=any_person, n=which, outcome=some_outcome, reason=some_reason)
    def closed(self, who: str, n: int, outcome: str, reason: str | None) -> None:
        self.step(who, n, "close_deal", outcome=outcome, lost_reason=reason)

    @precondition(lambda self: any(deal["stage"] not in OPEN for deal in self.seen))
    @rule(who=any_person, n=which, stage=some_stage)
    def reopened(self, who: str, n: int, stage: str) -> None:
        self.step(who, n, "reopen_deal", stage=stage)

    @rule(
        who=any_person,
        n=which,
        columns=st.fixed_dictionaries(
            {},
            optional={
                "stage": some_stage,
                "status": some_outcome,
                "probability": st.integers(-1, 101),
                "lost_reason": some_reason,
                "actual_close_date": st.sampled_from([None, "2026-01-01T00:00Z"]),
            },
        ).filter(bool),
    )
    def written(self, who: str, n: int, columns: Row) -> None:
        self.step(who, n, None, **columns)

    def step(self, who: str, n: int, function: str | None, **arguments: Any) -> None:
        at = n % len(self.seen)
        before = self.seen[at]
        refusal = self.tried(
            who,
            lambda: (
                call(self.cursor, function, deal_id=before["id"], **arguments)
                if function
                else change(self.cursor, "deals", before, **arguments)
            ),
        )
        self.cursor.execute("select * from public.deals where id = %s", [before["id"]])
        now = one(self.cursor)
        if refusal or who not in self.WRITERS:
            assert now == before
            assert refusal in {None, "42501", "PT404", "PT409", "PT422", "23514"}
        if now["stage"] != before["stage"]:
            self.moves[now["id"]] += 1
            if before["stage"] in OPEN:
                assert may_move(before["stage"], now["stage"])
            else:
                assert function == "reopen_deal" or who == SERVER
                assert now["stage"] in OPEN
                assert now["probability"] == PROBABILITY[now["stage"]] or "probability" in arguments
        self.hold(now)
        self.seen[at] = now

    def hold(self, deal: Row) -> None:
        """What is true of every deal at any time."""
        outcomes = {"CLOSED_WON": {"WON"}, "CLOSED_LOST": {"LOST", "ABANDONED"}}
        assert deal["status"] in outcomes.get(deal["stage"], {"ACTIVE"})
        assert (deal["actual_close_date"] is None) == (deal["stage"] in OPEN)
        assert deal["stage"] in OPEN or deal["probability"] == PROBABILITY[deal["stage"]]
        assert deal["stage"] != "CLOSED_LOST" or deal["lost_reason"].strip()
        assert 0 <= deal["probability"] <= 100

    def teardown(self) -> None:
        for deal, count in self.moves.items():
            self.cursor.execute("select from public.activities where deal_id = %s and type = 'NOTE'", [deal])
            assert self.cursor.rowcount == count
        super().teardown()


class Orders(Played):
    def __init__(self) -> None:
        super().__init__()
        self.orders: dict[UUID, Row] = {}
        self.logged: dict[UUID, int] = {}

    @initialize()
    def begin(self) -> None:
        self.drafted("member", None)

    @precondition(lambda self: len(self.orders) < 6)
    @rule(creator=st.sampled_from(["member", "admin"]), builder=st.sampled_from([None, "member"]))
    def drafted(self, creator: str, builder: str | None) -> None:
        made = add(
            self.cursor, "custom_agent_orders", organization_id=ACME, created_by_id=PEOPLE[creator], title="t",
            description="d", use_case="u", requirements=Jsonb({}), complexity="SIMPLE", agent_config=Jsonb({}),
            tools_config=Jsonb({}), assigned_to_id=PEOPLE[builder] if builder else None,
        )  # fmt: skip
        self.orders[made["id"]] = made
        self.logged[made["id"]] = 0

    @rule(who=any_person.filter(SERVER.__ne__), n=which, to=st.sampled_from(STATUSES), reason=some_reason)
    def advanced(self, who: str, n: int, to: str, reason: str | None) -> None:
        self.step(who, n, lambda order: call(self.cursor, "advance_order", order_id=order, to_status=to, reason=reason))

    # Most moves are refused; this one makes progress.
    @rule(who=st.sampled_from(["admin", "owner"]), n=which)
    def went_on(self, who: str, n: int) -> None:
        status = self.at(n)["status"]
        to = next((there for here, there in sorted(MOVES) if here == status and there != "CANCELLED"), status)
        self.step(who, n, lambda order: call(self.cursor, "advance_order", order_id=order, to_status=to, reason="Why"))

    @rule(who=any_person.filter(SERVER.__ne__), n=which)
    def submitted(self, who: str, n: int) -> None:
        self.step(who, n, lambda order: call(self.cursor, "submit_order", order_id=order))

    @rule(who=any_person.filter(SERVER.__ne__), n=which, reason=some_reason, how=st.sampled_from(["cancel", "reject"]))
    def ended(self, who: str, n: int, reason: str | None, how: str) -> None:
        self.step(who, n, lambda order: call(self.cursor, f"{how}_order", order_id=order, reason=reason))

    @rule(who=any_person, n=which, to=st.sampled_from([status for status in STATUSES if status != "SUBMITTED"]))
    def written(self, who: str, n: int, to: str) -> None:
        self.step(who, n, lambda order: change(self.cursor, "custom_agent_orders", {"id": order}, status=to))

    def at(self, n: int) -> Row:
        return list(self.orders.values())[n % len(self.orders)]

    def step(self, who: str, n: int, step: Callable[[UUID], object]) -> None:
        before = self.at(n)
        refusal = self.tried(who, lambda: step(before["id"]))
        self.cursor.execute("select * from public.custom_agent_orders where id = %s", [before["id"]])
        now = one(self.cursor)
        move = (before["status"], now["status"])
        if move[0] != move[1]:
            assert refusal is None
            assert move in MOVES
            assert who == SERVER or any(moves(part).get(move) for part in self.parts(who, now))
            self.logged[now["id"]] += 1
            assert move[1] not in {"REJECTED", "CANCELLED"} or who == SERVER or now["status_reason"].strip()
        assert (now["progress"] == 100) == (now["status"] in {"COMPLETED", "DELIVERED"})
        assert refusal in {None, "42501", "PT402", "PT404", "PT409", "PT422", "23514"}
        self.orders[now["id"]] = now
        month = [order for order in self.orders.values() if order["submitted_at"]]
        assert len(month) <= 3, "the plan GROWTH allows three a month"

    def parts(self, who: str, order: Row) -> list[str]:
        """What this person is to the order."""
        parts = ["platform" if who == "platform_admin" else who] if who not in STRANGERS else []
        if who == "member" and order["created_by_id"] == PEOPLE[who]:
            parts.append("creator")
        if who == "member" and order["assigned_to_id"] == PEOPLE[who]:
            parts.append("builder")
        return parts

    def teardown(self) -> None:
        for order, count in self.logged.items():
            query = "select from public.build_logs where order_id = %s and stage = 'status_change'"
            assert self.cursor.execute(query, [order]).rowcount == count
        super().teardown()


@pytest.mark.parametrize("machine", [Deals, Orders])
def test_no_sequence_of_calls_reaches_a_forbidden_state(database: Database, machine: type[Played]) -> None:
    played = type(machine.__name__, (machine,), {"database": database})
    run_state_machine_as_test(played, settings=SHORT)
