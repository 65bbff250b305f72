"""The commands and snippets of README and docs work when a person pastes them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from local import ROOT
from local.stack import Stack
from tests.local.test_stack import until

README = "README.md"

# Tests cannot run these inside a test run; test_ci_reaches_these_tests_through_make_test covers them.
MAKE = {"make dev", "make test", "make check"}


def all_blocks(document: str = README) -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text.strip()) for language, text in found]


def blocks(language: str, document: str = README) -> list[str]:
    return [text for kind, text in all_blocks(document) if kind == language]


# Interactive shells without the person's own configuration, reading what is pasted.
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


def bash(text: str, stack: Stack) -> str:
    return run(["bash", "-euo", "pipefail", "-c", text], stack)


def section(document: str, heading: str) -> str:
    text = (ROOT / document).read_text()
    return text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]


def five_minutes() -> list[str]:
    """The blocks of the README's five minutes; the first one defines the helpers."""
    found = re.findall(r"^```sh\n(.*?)^```$", section(README, "## Five minutes"), re.MULTILINE | re.DOTALL)
    return [text for text in found if "strive run" not in text]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`make dev`, on free ports and in a workdir of its own."""
    home = tmp_path_factory.mktemp("readme")
    stack, shown = Stack(home / "work"), home / "shown"
    environment = os.environ | {
        "MAKEFLAGS": "",
        "STRIVE_WORKDIR": str(stack.workdir),
        "ARGS": "--api-port 0 --db-port 0",
    }
    with shown.open("wb") as output:
        process = subprocess.Popen(
            ["make", "dev"], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until(lambda: b"Strive runs at" in shown.read_bytes() or process.poll() is not None, "make dev is ready")
        assert process.poll() is None, shown.read_text()
        yield stack
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
        process.wait(120)
    assert not any(stack.processes().values())


def run(words: Sequence[str | Path], stack: Stack, text: str | None = None) -> str:
    done = subprocess.run(
        words,
        input=text,
        cwd=ROOT,
        env=os.environ | stack.values() | {"STRIVE_WORKDIR": str(stack.workdir)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_readme_block_is_tested() -> None:
    others = [text for text in blocks("sh") if text not in MAKE and text + "\n" not in five_minutes()]
    assert [text.split()[:2] for text in others] == [
        [".venv/bin/strive", "run"],
        [".venv/bin/strive", "start"],
        ["node_modules/.bin/supabase", "start"],
    ]
    assert {kind for kind, _ in all_blocks()} == {"sh", "python", "js"}


def pasted(shell: str, steps: Sequence[str], stack: Stack) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    return run(SHELLS[shell], stack, "\n".join([*steps, "exit"]))


@pytest.mark.parametrize("shell", SHELLS)
def test_five_minutes_work_pasted_into_a_shell(made: Stack, shell: str) -> None:
    times = 2 if shell == "bash" else 1  # everything in one terminal, also twice
    shown = pasted(shell, [*five_minutes(), *blocks("sh", "docs/onboarding.md")] * times, made)
    assert shown.count('"is_completed": true') == times
    assert shown.count("paid: 200") == times
    assert '"subscription_tier":"GROWTH","subscription_status":"ACTIVE"' in shown
    assert '"status": "SUBMITTED"' in shown
    assert '"title":"Took the walk"' in shown
    assert shown.count('"takes_effect": "NOW"') == 2 * times, "previewed and changed"
    assert '"title":"Order submitted: Night desk"' in shown
    assert '"key":"crm.match-buyers","value":true' in shown
    assert "Acme" not in shown


@pytest.mark.parametrize("shell", SHELLS)
def test_flag_recipe_ends_with_the_flag_on(made: Stack, shell: str) -> None:
    delete = "sign_in admin@strive.test; call 'rest/v1/feature_flags?name=eq.crm.offers' -X DELETE"
    shown = pasted(shell, [five_minutes()[0], *blocks("sh", "docs/flags.md"), delete], made)
    assert '"key":"crm.offers","value":true' in shown
    assert re.search(r'"on": ?\d+', shown)


def test_operator_commands_report_a_healthy_stack(made: Stack) -> None:
    printed = {text: bash(text, made) for text in blocks("sh", "docs/operations.md")}
    assert len(printed) == 5
    for text, answer in printed.items():
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


CARD = "card=4242424242424242"
PAY_AND_ASK_THE_BANK = f"""{CARD.replace("4242424242424242", "4000000000003220")} -o /dev/null
curl -s "$STRIPE_API_BASE/pay/$SECRET" -d bank=yes"""


def test_onboarding_recipe_ends_with_a_paid_organization(made: Stack) -> None:
    """With 3-D Secure; test_five_minutes_work_pasted_into_a_shell pays with the card of the recipe."""
    steps = "\n".join(blocks("sh", "docs/onboarding.md"))
    assert CARD in steps
    shown = bash(steps.replace(CARD, PAY_AND_ASK_THE_BANK), made)
    named, planned, paying, paid_for, completed, organizations = shown.splitlines()
    assert [json.loads(answer)["current_step"] for answer in (named, planned)] == [2, 3]
    assert paying.startswith(made.values()["STRIPE_API_BASE"])
    # The events of the payment may still be on their way; completion fetches the payment from Stripe.
    assert json.loads(paid_for)["payment_status"] in {"PENDING", "FAILED", "REQUIRES_ACTION", "SUCCEEDED"}
    done = json.loads(completed)
    assert (done["is_completed"], done["payment_status"]) == (True, "SUCCEEDED")
    bought = {"name": "Initech", "slug": done["organization"]["slug"], "subscription_tier": "GROWTH"}
    assert json.loads(organizations) == [bought]


def as_documented(made: Stack, document: str, *before: str) -> str:
    """What the sh blocks of a page print, after the helpers of the five minutes and these lines."""
    return bash("\n".join([five_minutes()[0], *before, *blocks("sh", document)]), made)


def test_owner_gets_a_checkout_page(made: Stack) -> None:
    owner = (
        'TOKEN=$(call auth/v1/signup -d "{\\"email\\": \\"o-$RANDOM@free.test\\", \\"password\\": \\"strive-demo-1\\"}"'
    )
    organization = 'call rest/v1/rpc/create_organization -d \'{"name": "Free Homes"}\' > /dev/null'
    shown = as_documented(made, "docs/billing.md", f"{owner} | pick access_token)", organization)
    assert made.values()["STRIPE_API_BASE"] in shown


def test_an_invitation_is_sent_again(made: Stack) -> None:
    (block,) = blocks("sh", "docs/organizations.md")
    invited = """sign_in owner@acme.test
    ID=$(call rest/v1/rpc/create_invitation -d '{"email": "again@colleague.test"}' | pick id)"""
    shown = bash(
        "\n".join([five_minutes()[0], invited, block.replace('\'{"id": "…"}\'', '"{\\"id\\": \\"$ID\\"}"')]), made
    )
    assert "again@colleague.test" in shown


def test_programs_call_with_a_key(made: Stack) -> None:
    """The key of the page is bound to a network that is not this one, so a second one calls."""
    here = [block for block in blocks("sh", "docs/integrations.md") if not block.startswith("npx")]  # it downloads
    create, exchange, ingest, subscribe, ask = here
    create_open = create.replace('"networks": ["192.0.2.0/24"], ', "")
    assert create_open != create
    shown = bash(
        "\n".join(
            [
                five_minutes()[0],
                "sign_in admin@acme.test; ADMIN_TOKEN=$TOKEN",
                f"{create}; echo",
                f"KEY=$({create_open} | pick key)",
                exchange.replace(
                    "\n", " | tee token.json\nTOKEN=$(pick access_token < token.json); rm token.json\n", 1
                ),
                *(f"{block}; echo" for block in (ingest, subscribe, ask.replace("$TOKEN", "$ADMIN_TOKEN"))),
            ]
        ),
        made,
    )
    assert '"key": "strive_test_' in shown
    assert '"outcome": "created"' in shown
    assert '"secret": "whsec_' in shown
    assert '"event":"done"' in shown


# The python blocks of each of these pages are one program, which an owner runs.
IN_ORDER = ["crm", "garage", "dashboard", "organizations", "administration", "notifications", "usage"]
SIGNED_IN = """
import os
from supabase import create_client
strive = create_client(os.environ["API_URL"], os.environ["PUBLISHABLE_KEY"])
strive.auth.sign_in_with_password({"email": "owner@acme.test", "password": "strive-demo-1"})
"""


# One process for all pages: importing supabase-py costs more than most of them.
EACH = """
import json, sys
for document, text in json.load(sys.stdin).items():
    exec(compile(text, document, "exec"), {"__name__": "__main__"})
"""


def test_the_examples_of_a_document_run_one_after_another(made: Stack) -> None:
    pages = [f"docs/{name}.md" for name in IN_ORDER]
    programs = {page: "\n".join([SIGNED_IN, *blocks("python", page)]) for page in pages}
    run([sys.executable, "-c", EACH], made, json.dumps(programs))


def test_the_python_and_node_examples_run_as_saved(made: Stack) -> None:
    (python,), (node,) = blocks("python"), blocks("js")
    (commands,) = [text for text in blocks("sh") if "strive run" in text]
    files = {ROOT / "feed.py": python, ROOT / "members.mjs": node}
    assert not any(file.exists() for file in files)
    try:
        for file, text in files.items():
            file.write_text(text)
        shown = bash(commands, made)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    assert re.search(r"^\d{4}-\d\d-\d\dT.* \w", shown, re.MULTILINE)
    assert "Oscar Owner" in shown
    assert "Olivia" not in shown


def test_the_example_of_clients_signs_in_and_reads(made: Stack) -> None:
    (example,) = blocks("js", "docs/clients.md")
    script = ROOT / "clients-example.mjs"
    script.write_text(example)
    try:
        assert "Acme" in run([ROOT / ".venv/bin/strive", "run", str(script)], made)
    finally:
        script.unlink()


# Makes changes until all three subscriptions have shown one.
WATCHED = r"""
const deadline = Date.now() + 30_000;
const has = (pattern) => shown.some((line) => pattern.test(line));
while (!(has(/^INSERT leads/) && has(/"title":"Watched"/) && has(/^\["/)) && Date.now() < deadline) {
  await strive.from('leads').insert({ organization_id: organization.id, name: 'Watched', source: 'WEBSITE' });
  await strive.from('tasks').insert({ organization_id: organization.id, title: 'Watched' });
  await new Promise((resolve) => setTimeout(resolve, 250));
}
process.stdout.write(shown.join('\n'));
process.exit();
"""
COLLECTS = """const shown = [];
const text = (word) => (typeof word === 'string' ? word : JSON.stringify(word));
console.log = (...words) => shown.push(words.map(text).join(' '));
"""


def test_the_examples_of_realtime_show_changes_and_presence(made: Stack) -> None:
    script = ROOT / "realtime-example.mjs"
    script.write_text("\n".join([COLLECTS, *blocks("js", "docs/realtime.md"), WATCHED]))
    try:
        shown = run([ROOT / ".venv/bin/strive", "run", str(script)], made)
    finally:
        script.unlink()
    assert re.search(r"^INSERT leads ", shown, re.MULTILINE)
    assert '"title":"Watched"' in shown
    assert re.search(r'^\["[^"]+"\]$', shown, re.MULTILINE)


def test_an_organization_is_restored_from_a_saved_response(made: Stack, tmp_path: Path) -> None:
    (command,) = blocks("sh", "docs/administration.md")
    answer = tmp_path / "answer.json"
    export = f"""sign_in admin@strive.test
    GLOBEX=$(call rest/v1/rpc/admin_organizations -d '{{"search": "globex"}}' | pick 0 id)
    call functions/v1/export-organization -d "{{\\"organization_id\\": \\"$GLOBEX\\"}}" > {answer}"""
    bash(f"{five_minutes()[0]}\n{export}", made)
    leads = "select count(*) from public.leads l join public.organizations o on o.id = l.organization_id"
    with made.connect() as connection:
        before = connection.execute(f"{leads} where o.slug = 'globex'").fetchone()
        connection.execute("delete from public.organizations where slug = 'globex'")
    command = re.sub(r"'postgresql:.*'", '"$DB_URL"', command).replace("answer.json", str(answer))
    assert "public.leads" in bash(f"PATH=.venv/bin:$PATH\n{command}", made)
    with made.connect() as connection:
        assert connection.execute(f"{leads} where o.slug = 'globex'").fetchone() == before


def test_the_double_of_stripe_moves_its_time_and_misbehaves(made: Stack) -> None:
    pages, *_, control = blocks("sh", "docs/stripe-double.md")
    shown = bash(f"PATH=.venv/bin:$PATH\n{pages}\n{control}", made)
    assert made.values()["STRIPE_API_BASE"] in shown


def test_ci_reaches_these_tests_through_make_test() -> None:
    assert "make check" in (ROOT / ".ci/run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^check: .*\n\t@\$\(MAKE\) .*test$", makefile, re.MULTILINE)
    assert re.search(r"^test: install.*\n\t@\$\(BIN\)/pytest", makefile, re.MULTILINE)


def test_the_docker_lane_of_the_readme_is_what_ci_runs() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (lane,) = [text for text in blocks("sh") if "supabase start" in text]
    assert "node_modules/.bin/supabase start" in lane
    assert "node_modules/.bin/supabase start" in workflow
    assert "bash .github/beside-supabase.sh" in lane
    assert "bash .github/beside-supabase.sh" in workflow
    test = lane.splitlines()[-1]
    assert f"run: {test}" in workflow
