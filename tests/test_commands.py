"""Every command of the README and the documents does what they say, typed as it stands there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import NODE, ROOT
from local.stack import Stack
from tests.local.test_stack import until

README = "README.md"

# What cannot run inside a test run, and what stands for it.
MAKE = {"make dev", "make test", "make check"}


def all_blocks(document: str = README) -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text.strip()) for language, text in found]


def blocks(language: str, document: str = README) -> list[str]:
    return [text for kind, text in all_blocks(document) if kind == language]


def bash(text: str, stack: Stack) -> str:
    return run(["bash", "-euo", "pipefail", "-c", text], stack)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`make dev`, on free ports and in a workdir of its own."""
    home = tmp_path_factory.mktemp("readme")
    stack, shown = Stack(home / "work"), home / "shown"
    environment = os.environ | {"STRIVE_WORKDIR": str(stack.workdir), "ARGS": "--api-port 0 --db-port 0"}
    with shown.open("wb") as output:
        process = subprocess.Popen(
            ["make", "dev"], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until(lambda: b"Strive runs at" in shown.read_bytes() or process.poll() is not None, "make dev is ready", 60)
        assert process.poll() is None, shown.read_text()
        yield stack
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
        process.wait(30)
    assert not any(stack.processes().values())


def run(words: list[str | Path], stack: Stack, text: str | None = None) -> str:
    done = subprocess.run(
        words,
        input=text,
        cwd=ROOT,
        env=os.environ | stack.values() | {"STRIVE_WORKDIR": str(stack.workdir)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_is_known_to_these_tests() -> None:
    kinds = {"make": 0, "docker": 0, "curl": 0, "strive": 0}
    for text in blocks("sh"):
        kind = (
            "make" if text in MAKE
            else "docker" if text.startswith("# needs Docker")
            else "curl" if "curl" in text
            else "strive"
        )  # fmt: skip
        kinds[kind] += 1
    assert kinds == {"make": 3, "docker": 1, "curl": 1, "strive": 1}
    assert {kind for kind, _ in all_blocks()} == {"sh", "python", "js"}


def test_the_walk_goes_from_a_new_customer_to_a_feature_turned_on(made: Stack) -> None:
    (walk,) = [text for text in blocks("sh") if "curl" in text]
    told = bash(walk, made)
    assert "paid: 200" in told
    assert '"subscription_tier":"GROWTH","subscription_status":"ACTIVE"' in told
    assert '"status": "SUBMITTED"' in told
    assert '"title":"Took the walk"' in told
    assert '"title":"Order submitted: Night desk"' in told
    assert '"key":"crm.match-buyers","value":true' in told
    assert "Acme" not in told


def test_the_walk_of_a_flag_ends_with_it_on(made: Stack) -> None:
    (walk,) = [text for text in blocks("sh") if "curl" in text]
    (commands,) = blocks("sh", "docs/flags.md")
    told = bash(walk.partition("# 1.")[0] + commands, made)
    assert '"key":"crm.offers","value":true' in told
    assert re.search(r'"on": ?\d+', told)


def test_what_an_operator_types_works_and_finds_a_healthy_stack(made: Stack) -> None:
    told = {text: bash(text, made) for text in blocks("sh", "docs/operations.md")}
    assert len(told) == 5
    for text, answer in told.items():
        if "billing_attention" in text or "is_overdue" in text:
            assert answer == "[]"
            continue
        job = json.loads(answer)
        while job["outcome"] == "SKIPPED":  # the stack's own clock had just begun it
            job = json.loads(bash(text, made))
        assert job["outcome"] == "DONE"
        if "reconcile" in text:
            result = job["result"]
            assert (result["compared"], result["missed_events"], result["changes"]) == (True, 0, 0)


def test_the_walks_can_be_walked_again_in_the_same_terminal(made: Stack) -> None:
    (first,) = [text for text in blocks("sh") if "curl" in text]
    (second,) = blocks("sh", "docs/onboarding.md")
    told = bash(f"{first}\n{second}\n" * 2, made)
    assert told.count('"is_completed": true') == 2
    assert told.count('"title":"Took the walk"') == 2


CARD = "card=4242424242424242"
PAY_AND_ASK_THE_BANK = f"""{CARD.replace("4242424242424242", "4000000000003220")} -o /dev/null
curl -s "$STRIPE_API_BASE/pay/$SECRET" -d bank=yes"""


@pytest.mark.parametrize("paid", [CARD, PAY_AND_ASK_THE_BANK], ids=["as it stands", "3-D Secure"])
def test_the_walk_through_onboarding_ends_in_an_organisation_that_is_paid(made: Stack, paid: str) -> None:
    (walk,) = blocks("sh", "docs/onboarding.md")
    assert CARD in walk
    told = bash(walk.replace(CARD, paid), made)
    named, planned, paying, paid_for, completed, organizations = told.splitlines()
    assert [json.loads(answer)["current_step"] for answer in (named, planned)] == [2, 3]
    assert paying.startswith(made.values()["STRIPE_API_BASE"])
    # The events of the payment may be on their way still; completing asks Stripe itself.
    assert json.loads(paid_for)["payment_status"] in {"PENDING", "FAILED", "REQUIRES_ACTION", "SUCCEEDED"}
    done = json.loads(completed)
    assert (done["is_completed"], done["payment_status"]) == (True, "SUCCEEDED")
    bought = {"name": "Initech", "slug": done["organization"]["slug"], "subscription_tier": "GROWTH"}
    assert json.loads(organizations) == [bought]


def test_the_example_of_an_order_submits_it(made: Stack) -> None:
    sign_in, _, _ = blocks("python")[0].partition("feed =")
    (order,) = blocks("py", "docs/garage.md")
    organization = 'organization = strive.table("organizations").select("id").execute().data[0]["id"]'
    shown = 'print(strive.table("custom_agent_orders").select("status").eq("id", draft["id"]).execute().data)'
    assert "SUBMITTED" in run([sys.executable, "-c", f"{sign_in}\n{organization}\n{order}\n{shown}"], made)


def test_the_python_example_prints_the_feed(made: Stack) -> None:
    (example,) = blocks("python")
    assert run([sys.executable, "-c", example], made).strip()


def test_the_javascript_example_prints_the_members_and_their_names(made: Stack) -> None:
    (example,) = blocks("js")
    printed = run([NODE, "--input-type=module", "-"], made, example)
    assert "Oscar Owner" in printed
    assert "Olivia" not in printed


def test_the_strive_commands_run_a_second_stack_beside_the_first(made: Stack) -> None:
    (commands,) = [text for text in blocks("sh") if ".strive/second" in text]
    try:
        printed = bash(commands, made)
    finally:
        Stack(ROOT / ".strive/second").stop()
        shutil.rmtree(ROOT / ".strive/second", ignore_errors=True)
    assert '"API_URL"' in printed
    assert "Stopped." in printed
    assert made.running()


def test_ci_reaches_these_tests_through_make_test() -> None:
    assert "make check" in (ROOT / ".ci/run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^check: .*\n\t@\$\(MAKE\) .*test$", makefile, re.MULTILINE)
    assert re.search(r"^test: install\n\t@\$\(BIN\)/pytest", makefile, re.MULTILINE)


def test_the_docker_lane_of_the_readme_is_what_ci_runs() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (lane,) = [text for text in blocks("sh") if text.startswith("# needs Docker")]
    assert "node_modules/.bin/supabase start" in lane
    assert "node_modules/.bin/supabase start" in workflow
    assert "bash .github/beside-supabase.sh" in lane
    assert "bash .github/beside-supabase.sh" in workflow
    test = lane.splitlines()[-1]
    assert f"run: {test}" in workflow
