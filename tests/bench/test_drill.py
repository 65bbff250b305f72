"""The drill with one fault: it runs, its books balance, and they report lost and repeated entries."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.drill.books import balance
from bench.drill.traffic import Book
from local import ROOT
from local.stack import Stack


def test_a_drill_with_one_fault_ends_with_balanced_books() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.drill", "the API: kill"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    assert result["faults_survived"] == 1
    assert result["retries"] > 0
    assert (result["lost"], result["wrong"]) == (0, 0)


@pytest.fixture
def own(tmp_path: Path, stack_at: Callable[..., Stack]) -> Stack:
    return stack_at(tmp_path / "stack")


def test_books_report_lost_and_repeated_entries(own: Stack) -> None:
    own.start(0, 0)
    try:
        assert balance(own, Book()) == {"lost": [], "wrong": []}
        with own.cluster.connect() as connection:
            connection.execute(
                "insert into public.activity_feeds (organization_id, title, type, entity_type, entity_id, action)"
                " select o.id, 'twice', 'SYSTEM_EVENT', 'drill', 'twice', 'recorded'"
                " from public.organizations o, generate_series(1, 2) where o.slug = 'acme'"
            )
            connection.execute("update public.project_showcases set likes = likes + 1")
            connection.execute(
                "update public.organizations set stripe_customer_id = 'cus_drill', subscription_tier = 'ELITE'"
                " where slug = 'globex'"
            )
        result = Book(entries={"twice": True, "gone": True, "never acknowledged": False})
        found = balance(own, result)
    finally:
        own.stop()
    assert found["lost"] == ["feed entry gone: acknowledged, not there"]
    assert "feed entry twice: 2 times" in found["wrong"]
    assert any("likes" in one for one in found["wrong"])
    assert "organization globex: ELITE here, FREE by Stripe's objects" in found["wrong"]
