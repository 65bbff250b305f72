"""Every fenced block of README, docs, clients and examples parses, and is run by a test or has a reason why not."""

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from local import NODE, ROOT
from tests.support.world import Database
from tests.test_commands import IN_ORDER

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "clients").glob("*/README.md"),
    *(ROOT / "examples").glob("*/README.md"),
]


class Block(NamedTuple):
    page: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for page in sorted(PAGES):
        for language, text in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL):
            yield Block(str(page.relative_to(ROOT)), language, text)


BLOCKS = list(blocks())
# page language → the test that runs all its blocks.
RUN = {
    "README.md sh": "test_every_readme_block_is_tested",
    "README.md python": "test_the_python_and_node_examples_run_as_saved",
    "README.md js": "test_the_python_and_node_examples_run_as_saved",
    "clients/python/README.md python": "test_python_readme_runs",
    "clients/typescript/README.md ts": "test_typescript_readme_runs_and_is_typed",
    "docs/administration.md sh": "test_an_organization_is_restored_from_a_saved_response",
    "docs/billing.md sh": "test_owner_gets_a_checkout_page",
    "docs/build/billing.md js": "test_javascript_of_a_page_runs",
    "docs/build/files.md js": "test_javascript_of_a_page_runs",
    "docs/build/first-screen.md js": "test_javascript_of_a_page_runs",
    "docs/build/invitations.md js": "test_javascript_of_a_page_runs",
    "docs/build/lists.md js": "test_javascript_of_a_page_runs",
    "docs/build/sign-in.md js": "test_javascript_of_a_page_runs",
    "docs/clients.md js": "test_the_example_of_clients_signs_in_and_reads",
    "docs/dashboard.md json": "test_every_example_is_evaluated",
    "docs/deployment.md js": "test_functions_have_an_address_of_their_own",
    "docs/flags.md js": "test_documented_web_client_sees_a_kill_switch",
    "docs/flags.md sh": "test_flag_recipe_ends_with_the_flag_on",
    "docs/functions.md js": "test_javascript_of_a_page_runs",
    "docs/functions.md python": "test_the_function_of_the_tutorial_works_as_written",
    "docs/functions.md sql": "test_the_function_of_the_tutorial_works_as_written",
    "docs/functions.md text": "test_the_recipes_followed_to_the_letter_pass_the_checks",
    "docs/integrations.md js": "test_documented_receivers_verify_a_delivery",
    "docs/integrations.md python": "test_documented_receivers_verify_a_delivery",
    "docs/integrations.md sh": "test_programs_call_with_a_key",
    "docs/onboarding.md sh": "test_onboarding_recipe_ends_with_a_paid_organization",
    "docs/operations.md sh": "test_operator_commands_report_a_healthy_stack",
    "docs/organizations.md sh": "test_an_invitation_is_sent_again",
    "docs/realtime.md js": "test_the_examples_of_realtime_show_changes_and_presence",
    "docs/stripe-double.md sh": "test_the_double_of_stripe_moves_its_time_and_misbehaves",
    "docs/tables.md sql": "test_the_recipes_followed_to_the_letter_pass_the_checks",
    "docs/tables.md toml": "test_the_recipes_followed_to_the_letter_pass_the_checks",
    **{f"docs/{page}.md python": "test_the_examples_of_a_document_run_one_after_another" for page in IN_ORDER},
}
# test_sql_… explains SQL, test_a_block_parses parses JSON, and text is no code.
CHECKED_HERE = {"sql", "json", "text"}
# Blocks that no test runs: page language → why, for those whose text begins like this.
NOT_RUN = {
    "CONTRIBUTING.md sh": {
        "make dev": "runs until Ctrl-C; test_commands.py starts it",
        ".venv/bin/pytest": "a test inside a test",
        "make check": "a test inside a test",
    },
    "docs/deployment.md sh": {
        "REF=": "needs a hosted project",
        "docker build": "needs Docker and Google Cloud",
        "gcloud run": "needs Google Cloud",
        "cp requirements.lock": "needs Google Cloud",
    },
    "docs/flags.md python": {"from shared.flags": "inside a function; tests/shared/flags run the same calls"},
    "docs/integrations.md sh": {"npx @modelcontextprotocol/inspector": "downloads a program"},
    "docs/local.md sh": {"pgweb": "not installed here"},
    "docs/operations.md sql": {"select vault.": "Vault is an extension of hosted projects"},
    "docs/stripe-double.md sh": {
        "stripe listen": "needs an account at Stripe",
        "export STRIPE_SECRET_KEY": "needs an account at Stripe",
    },
    "docs/supabase.md sh": {"POSTGREST_BIN": "needs PostgREST; the nightly lane of CI starts it"},
    "examples/web/README.md sh": {"make example": "runs until Ctrl-C; tests/examples start the application"},
}
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}


def kind(block: Block) -> str:
    return f"{block.page} {block.language}"


def reason(block: Block) -> str | None:
    return next((why for start, why in NOT_RUN.get(kind(block), {}).items() if block.text.startswith(start)), None)


def test_every_block_is_run_or_has_a_reason() -> None:
    others = [block for block in BLOCKS if kind(block) not in RUN and not reason(block)]
    assert [(kind(block), block.text[:60]) for block in others if block.language not in CHECKED_HERE] == []
    kinds = {kind(block) for block in BLOCKS}
    assert {*RUN, *NOT_RUN} - kinds == set(), "no such block any more"
    assert set(RUN.values()) - TESTS == set()
    unused = {
        start
        for name, starts in NOT_RUN.items()
        for start in starts
        if not any(kind(block) == name and block.text.startswith(start) for block in BLOCKS)
    }
    assert unused == set()


@pytest.mark.parametrize("block", BLOCKS, ids=kind)
def test_a_block_parses(block: Block, tmp_path: Path) -> None:
    match block.language:
        case "sh":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
            # An interactive zsh runs comments as commands.
            assert not re.search(r"^\s*#|\s#\s", block.text, re.MULTILINE), "write comments beside the block"
        case "python":
            compile(block.text, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        case "js":
            script = tmp_path / "block.mjs"
            script.write_text(block.text)
            subprocess.run([NODE, "--check", script], check=True)
        case "json":
            json.loads(block.text)
        case "toml":
            tomllib.loads(block.text)
        case "sql" | "ts" | "text":
            pass  # explained below; compiled by tests/clients; no language
        case _:
            pytest.fail(f"no test knows the language {block.language!r}")


ID = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "sql" and kind(block) not in RUN], ids=kind
)
def test_sql_is_accepted_by_the_database(database: Database, block: Block) -> None:
    """Planned but not executed: names, arguments and types exist."""
    text = re.sub(r"<[^>]*\bid\b[^>]*>", ID, block.text)
    text = text.replace("array[…]", "array[]::uuid[]").replace("=> …", "=> null")
    with database.connect() as connection:
        for statement in (one.strip() for one in re.split(r"; *\n", re.sub(r"--.*", "", text))):
            if not statement or reason(block._replace(text=statement)):
                continue
            with connection.transaction(force_rollback=True):
                explain = "" if statement.startswith("alter") else "explain "
                try:
                    connection.execute(explain + statement)
                except psycopg.Error as error:
                    pytest.fail(f"{statement}: {error}")
