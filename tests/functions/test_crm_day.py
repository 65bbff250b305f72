"""A day of a small agency: two people work at once through the public API, and all totals are correct."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import uuid4

import pytest
from supabase_functions.errors import FunctionsHttpError

from supabase import Client
from tests.database.test_crm import OPEN, PROBABILITY, STAGES, may_move
from tests.support.agency import call, code, email_of, open_agencies

PEOPLE = {
    "boss": ("agency", "OWNER"),
    "ann": ("agency", "MEMBER"),
    "bob": ("agency", "MEMBER"),
    "eve": ("rival", "OWNER"),
}
STEPS = 45
CENT = Decimal("0.01")


class Agent:
    """A person at work, who counts the successful calls."""

    def __init__(self, name: str, client: Client, agency: str, shared: dict[str, list[str]]) -> None:
        self.dice = random.Random(name)  # noqa: S311 - the same day every time
        self.client = client
        self.agency = agency
        self.shared = shared
        self.done: Counter[str] = Counter()

    def work(self) -> Counter[str]:
        for _ in range(STEPS):
            step = self.dice.choice(
                [self.add_lead, self.convert, self.convert, self.open_deal, self.move, self.move, self.close,
                 self.reopen, self.call_somebody, self.tag, self.write_note, self.plan, self.finish]
            )  # fmt: skip
            step()
        return self.done

    def one(self, kind: str) -> str:
        return self.dice.choice(self.shared[kind])

    def happened(self, what: str, work: Callable[[], Any], *refusals: str) -> None:
        refusal = code(work)
        assert refusal is None or refusal in refusals, (what, refusal)
        self.done[what] += refusal is None

    def add_lead(self) -> None:
        made = call(
            self.client, "add_lead", lead={"name": "Somebody", "budget": self.dice.randint(1, 900) * 1000.25}
        )  # fmt: skip
        self.shared["leads"].append(made["added"]["id"])
        self.done["lead"] += 1

    def convert(self) -> None:
        self.happened(
            "convert",
            lambda: call(self.client, "convert_lead", lead_id=self.one("leads"), deal_title="Sale"),
            "PT409",
            "PT404",
        )

    def open_deal(self) -> None:
        value = self.dice.randint(1, 10**8) / 100
        row = {"organization_id": self.agency, "title": "Sale", "value": value, "stage": self.dice.choice(OPEN)}
        made: Any = self.client.table("deals").insert(row).execute().data
        self.shared["deals"].append(made[0]["id"])
        self.done["deal"] += 1

    def move(self) -> None:
        stage = self.dice.choice(STAGES)
        about = {"deal_id": self.one("deals"), "stage": stage, "lost_reason": "Too dear"}
        before: Any = self.client.table("deals").select("stage").eq("id", about["deal_id"]).execute().data
        refusal = code(lambda: call(self.client, "move_deal", **about))
        # The other person may have moved it in between; otherwise the table of moves decides.
        assert refusal in {None, "PT409"}
        if stage == before[0]["stage"] or refusal:
            return
        self.done["maybe move"] += 1
        self.done["seen move"] += may_move(before[0]["stage"], stage)

    def close(self) -> None:
        outcome = self.dice.choice(["WON", "LOST", "ABANDONED"])
        about = {"deal_id": self.one("deals"), "outcome": outcome, "lost_reason": "Too dear"}
        self.happened("close", lambda: call(self.client, "close_deal", **about), "PT409")

    def reopen(self) -> None:
        self.happened("reopen", lambda: call(self.client, "reopen_deal", deal_id=self.one("deals")), "PT409")

    def call_somebody(self) -> None:
        key = str(uuid4())
        body = {"type": "CALL", "title": "Called", "lead_id": self.one("leads")}
        send = {"body": body, "headers": {"Idempotency-Key": key}, "responseType": "json"}
        try:
            for _ in range(2):  # the connection was bad: sent again
                self.client.functions.invoke("record-activity", send)
        except FunctionsHttpError as error:
            # The lead is in the trash (404), or was moved there while the request ran: its key refuses (409).
            if error.status not in {404, 409}:
                raise
        else:
            self.done["call"] += 1

    def about_a_lead(self, table: str, what: str, **columns: str) -> None:
        row = {"lead_id": self.one("leads"), **columns}
        self.happened(what, lambda: self.client.table(table).insert(row).execute(), "23503")

    def write_note(self) -> None:
        self.about_a_lead("notes", "note", body="Prefers mornings.")

    def plan(self) -> None:
        self.about_a_lead("tasks", "todo", title="Call", recurrence="DAILY", due_date="2026-01-05T09:00Z")

    def finish(self) -> None:
        open_tasks: Any = self.client.table("tasks").select("id").neq("status", "DONE").limit(1).execute().data
        for task in open_tasks:
            done: Any = (
                self.client.table("tasks")
                .update({"status": "DONE"})
                .eq("id", task["id"])
                .neq("status", "DONE")
                .execute()
            )
            self.done["finished"] += len(done.data)

    def delete_and_undo(self) -> None:
        for _ in range(15):
            lead = self.one("leads")
            while code(lambda: self.client.table("leads").delete().eq("id", lead).execute()) == "PT409":  # noqa: B023
                pass
            entry: Any = self.client.table("trash").select("id").eq("record_id", lead).execute().data
            call(self.client, "restore_from_trash", ids=[entry[0]["id"]])

    def tag(self) -> None:
        some = self.dice.sample(self.shared["deals"], min(3, len(self.shared["deals"])))
        assert call(self.client, "bulk_tag", kind="deals", ids=some, add=["seen"]) == len(some)
        self.done["tag"] += 1


def everything(client: Client, table: str, agency: str, columns: str) -> list[dict[str, Any]]:
    rows: Any = client.table(table).select(columns).eq("organization_id", agency).limit(10_000).execute().data
    return list(rows)


def check_desk(boss: Client, agency: str, done: Counter[str]) -> None:
    assert len(everything(boss, "notes", agency, "id")) == done["note"] > 0
    tasks = everything(boss, "tasks", agency, "status, lead_id")
    assert sum(task["status"] == "DONE" for task in tasks) == done["finished"] > 0
    assert len(tasks) == done["todo"] + done["finished"]  # each one done has its successor
    # The successor of a task that was done while its lead was in the trash is about no lead.
    assert sum(task["lead_id"] is None for task in tasks) <= done["finished"]
    assert everything(boss, "trash", agency, "id") == []
    logged = Counter(row["action"] for row in everything(boss, "activity_logs", agency, "action, resource_type")
                     if row["resource_type"] == "leads")  # fmt: skip
    assert (logged["created"], logged["deleted"], logged["restored"]) == (done["lead"], 15, 15)


def test_two_people_working_at_once_leave_correct_totals(server: Client, clients: Callable[[str], Client]) -> None:
    ids = open_agencies(server, PEOPLE)
    boss = clients(email_of("boss"))
    shared: dict[str, list[str]] = {"leads": [], "deals": []}
    agents = [Agent(name, clients(email_of(name)), ids["agency"], shared) for name in ("ann", "bob")]
    for agent in agents:
        for _ in range(3):
            agent.add_lead()
            agent.open_deal()
    owner = Agent("boss", boss, ids["agency"], shared)
    with ThreadPoolExecutor(3) as pool:
        undone = pool.submit(owner.delete_and_undo)
        list(pool.map(Agent.work, agents))
        undone.result()
    done = sum((agent.done for agent in agents), Counter[str]())

    leads = everything(boss, "leads", ids["agency"], "id, status, last_contact_at, converted_contact_id")
    contacts = everything(boss, "contacts", ids["agency"], "id, type, status")
    deals = everything(boss, "deals", ids["agency"], "id, stage, status, value::text, probability, actual_close_date")
    activities = everything(boss, "activities", ids["agency"], "type, deal_id, title")

    # Nothing was lost, nothing happened twice.
    assert len(leads) == done["lead"]
    assert sum(lead["status"] == "CONVERTED" for lead in leads) == len(contacts) == done["convert"] > 0
    assert len({lead["converted_contact_id"] for lead in leads} - {None}) == done["convert"]
    assert len(deals) == done["deal"] + done["convert"]
    assert sum(row["type"] == "CALL" for row in activities) == done["call"]
    notes = Counter(row["title"].split()[1].rstrip(":") for row in activities if row["title"].startswith("Deal "))
    assert notes["reopened"] == done["reopen"]
    assert done["seen move"] <= done["maybe move"]
    closed = {name: notes[name] for name in ("won", "lost", "abandoned")}
    assert sum(closed.values()) - done["reopen"] == sum(deal["stage"] not in OPEN for deal in deals)
    assert sum(closed.values()) >= done["close"] > 0

    check_desk(boss, ids["agency"], done)

    # The reports agree with the rows.
    report = {row["stage"]: row for row in call(boss, "pipeline_report")}
    for stage in STAGES:
        here = [deal for deal in deals if deal["stage"] == stage]
        value = sum((Decimal(deal["value"]) for deal in here), Decimal())
        weighted = sum((Decimal(deal["value"]) * deal["probability"] / 100 for deal in here), Decimal())
        reported = report[stage]
        assert reported["deals"] == len(here)
        assert Decimal(str(reported["value"])) == value
        assert Decimal(str(reported["weighted_value"])) == weighted.quantize(CENT, ROUND_HALF_UP)
        assert {deal["probability"] for deal in here} <= {PROBABILITY[stage]}
    won, lost = (sum(deal["status"] == status for deal in deals) for status in ("WON", "LOST"))
    (reported,) = call(boss, "conversion_report")
    assert (reported["leads"], reported["converted_leads"]) == (done["lead"], done["convert"])
    assert (reported["won_deals"], reported["lost_deals"]) == (won, lost)
    assert reported["conversion_rate"] == pytest.approx(done["convert"] / done["lead"], abs=1e-4)
    assert reported["win_rate"] == (None if won + lost == 0 else pytest.approx(won / (won + lost), abs=1e-4))
    assert Decimal(str(reported["won_value"])) == sum(
        (Decimal(deal["value"]) for deal in deals if deal["status"] == "WON"), Decimal()
    )

    # And the rival saw nothing of it.
    eve = clients(email_of("eve"))
    assert everything(eve, "leads", ids["agency"], "id") == []
    assert all(row["deals"] == 0 for row in call(eve, "pipeline_report"))
