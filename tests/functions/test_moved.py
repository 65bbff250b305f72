"""Late requests to functions after an organization has moved to another project."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from local.postgres import Cluster
from tests.support.serving import Serving, environment, serving
from tests.support.world import ACME, Database

KEY = {"idempotency-key": "late"}


@pytest.fixture(scope="module")
def homes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Database, Database]]:
    """Functions at the former home, and the database of the new one; both trust the same signing key."""
    with ExitStack() as stack:
        former, new = (stack.enter_context(Database(cluster, "world").copied()) for _ in range(2))
        urls = [each.url("strive_functions") for each in (former, new)]
        folder = tmp_path_factory.mktemp("moved")
        here, there = (stack.enter_context(serving(folder, environment(url))) for url in urls)
        with former.connect() as owner:
            begin = (
                "insert into private.organization_moves (organization_id, state, address) values (%s, 'COPYING', %s)"
            )
            owner.execute(begin, [ACME, there.url])
            owner.execute("set session_replication_role = replica")
            owner.execute("select private.switch_away(%s)", [ACME])
        yield here, former, new


def entries(database: Database) -> int:
    with database.connect() as owner:
        return owner.execute("select from public.activity_feeds where organization_id = %s", [ACME]).rowcount


def test_late_request_is_done_once_at_the_new_home(homes: tuple[Serving, Database, Database]) -> None:
    here, _, new = homes
    before = entries(new)
    answers = [here.record(**KEY) for _ in range(2)]
    assert [each.status_code for each in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert entries(new) == before + 1


def test_request_that_was_forwarded_is_not_forwarded_again(homes: tuple[Serving, Database, Database]) -> None:
    here, *_ = homes
    answer = here.record(**{"x-strive-forwarded": "1"})
    assert (answer.status_code, answer.json()["code"]) == (421, "organization_moved")


def test_refusal_of_the_new_home_is_passed_on(homes: tuple[Serving, Database, Database]) -> None:
    here, *_ = homes
    answer = here.record({"type": "USER_ACTION"})
    assert answer.status_code == 422


def test_unreachable_home_is_named(homes: tuple[Serving, Database, Database]) -> None:
    here, former, _ = homes
    unreachable = "http://127.0.0.1:9"
    change = (
        "update private.organization_moves set address = %s returning (select address from private.organization_moves)"
    )
    with former.connect() as owner:
        (address,) = owner.execute(change, [unreachable]).fetchone() or ("",)
        answer = here.record()
        owner.execute(change, [address])
    assert (answer.status_code, answer.json()["code"], answer.json()["details"]) == (
        421,
        "organization_moved",
        unreachable,
    )
