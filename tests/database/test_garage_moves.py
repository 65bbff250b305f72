"""AI Garage: who may make which move of an order; every other move is refused."""

import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

from local import ROOT
from tests.database.test_garage import STATUSES
from tests.support.rows import Cursor, add, scene, turn
from tests.support.world import ACME, PEOPLE, Database, Row

# A member who created the order, one who builds it, and one who is neither.
ACTORS: dict[str, tuple[str, Row]] = {
    "viewer": ("viewer", {}),
    "member": ("member", {}),
    "creator": ("member", {"created_by_id": PEOPLE["member"]}),
    "builder": ("member", {"assigned_to_id": PEOPLE["member"]}),
    "admin": ("admin", {}),
    "owner": ("owner", {}),
    "platform": ("platform_admin", {}),
}
TABLE = """
                          viewer member creator builder admin owner platform
DRAFT       SUBMITTED     no     yes    yes     yes     yes   yes   no
DRAFT       CANCELLED     no     no     yes     no      yes   yes   yes
SUBMITTED   IN_REVIEW     no     no     no      no      yes   yes   yes
SUBMITTED   CANCELLED     no     no     yes     no      yes   yes   yes
IN_REVIEW   APPROVED      no     no     no      no      yes   yes   yes
IN_REVIEW   REJECTED      no     no     no      no      yes   yes   yes
IN_REVIEW   CANCELLED     no     no     yes     no      yes   yes   yes
REJECTED    DRAFT         no     yes    yes     yes     yes   yes   no
REJECTED    CANCELLED     no     no     yes     no      yes   yes   yes
APPROVED    IN_PROGRESS   no     no     no      yes     yes   yes   yes
APPROVED    CANCELLED     no     no     no      no      yes   yes   yes
IN_PROGRESS TESTING       no     no     no      yes     yes   yes   yes
IN_PROGRESS CANCELLED     no     no     no      no      yes   yes   yes
TESTING     IN_PROGRESS   no     no     no      yes     yes   yes   yes
TESTING     COMPLETED     no     no     no      yes     yes   yes   yes
TESTING     CANCELLED     no     no     no      no      yes   yes   yes
COMPLETED   DELIVERED     no     no     no      yes     yes   yes   yes
"""
STATUS = re.compile(r"[A-Z_]{5,}")


def moves(actor: str) -> dict[tuple[str, str], bool]:
    """The moves there are, and whether this one may make them."""
    head, *lines = TABLE.strip().splitlines()
    column = 2 + head.split().index(actor)
    return {(words[0], words[1]): words[column] == "yes" for words in map(str.split, lines)}


def an_order(cursor: Cursor, status: str, **values: object) -> object:
    """An order of Acme in this state, inserted by the server; created by its admin by default."""
    turn(cursor, None)
    whole = {
        "organization_id": ACME, "created_by_id": PEOPLE["admin"], "title": "t", "description": "d", "use_case": "u",
        "requirements": Jsonb({}), "complexity": "SIMPLE", "agent_config": Jsonb({}), "tools_config": Jsonb({}),
    }  # fmt: skip
    return add(cursor, "custom_agent_orders", **whole | {"status": status} | values)["id"]


def tried(cursor: Cursor, order: object, to: str) -> str:
    try:
        with cursor.connection.transaction(force_rollback=True):
            cursor.execute("select public.advance_order(%s, %s, 'Why')", [order, to])
    except psycopg.Error as error:
        return str(error.sqlstate)
    return "moved"


@pytest.mark.parametrize("actor", ACTORS)
def test_who_may_make_which_move(database: Database, actor: str) -> None:
    person, particulars = ACTORS[actor]
    table = moves(actor)
    with scene(database) as cursor:
        for status in STATUSES:
            order = an_order(cursor, status, **particulars)
            turn(cursor, person, ACME)
            for to in STATUSES:
                impossible = "42501" if actor == "viewer" else "PT409"
                expected = {None: impossible, False: "42501", True: "moved"}[table.get((status, to))]
                assert tried(cursor, order, to) == expected, f"{status} to {to}"
            listed = cursor.execute("select to_status from public.order_moves(%s)", [order]).fetchall()
            assert {row["to_status"] for row in listed} == {
                to for (at, to), may in table.items() if may and at == status
            }


@pytest.mark.parametrize("person", ["globex_owner", "outsider", "removed", "suspended"])
def test_attack_make_any_move_from_outside(database: Database, person: str) -> None:
    with scene(database) as cursor:
        for status in STATUSES:
            order = an_order(cursor, status, created_by_id=PEOPLE[person])
            turn(cursor, person, ACME)
            assert {tried(cursor, order, to) for to in STATUSES} == {"PT404"}


def test_the_docs_have_every_move_and_no_other() -> None:
    page = (ROOT / "docs/garage.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| ")][1:]
    documented = {(at, to) for left, right in rows for at in STATUS.findall(left) for to in STATUS.findall(right)}
    assert documented == set(moves("owner"))
