"""Every snippet for clients in the docs runs as written: the blocks of a page are one program."""

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from local import NODE, ROOT
from tests.conftest import Strive

DOCS = ROOT / "docs"
PROGRAM = os.environ.get("SNIPPET_NODE", str(NODE))
# The programs run where Node finds the packages. A response that is an error fails the page.
STRICT = """
const plain = globalThis.fetch, refused = [];
globalThis.fetch = async (...request) => {
  const response = await plain(...request);
  if (response.status >= 400) refused.push(`${response.status} ${response.url}: ${await response.clone().text()}`);
  return response;
};
"""
END = """
if (refused.length) console.error(refused.join());
process.exit(refused.length ? 1 : 0);
"""
SIGNED_IN = """
const strive = createClient(process.env.API_URL, process.env.PUBLISHABLE_KEY);
await strive.auth.signInWithPassword({ email: 'owner@acme.test', password: 'strive-demo-1' });
"""
# An owner of a new organization on the plan GROWTH.
PAID = """
const strive = createClient(process.env.API_URL, process.env.PUBLISHABLE_KEY);
await strive.auth.signUp({ email: `guide-${Date.now()}@example.test`, password: 'strive-demo-1' });
const call = async (name, body) => (await strive.functions.invoke(name, { body })).data;
const session = { session_id: (await call('create-onboarding-session', {})).session_id };
await call('update-onboarding-session', { ...session, step: 1, name: 'Guide Homes' });
await call('update-onboarding-session', { ...session, step: 2, tier: 'GROWTH', billing_cycle: 'MONTHLY' });
const { client_secret } = await call('start-onboarding-payment', session);
await fetch(`${process.env.STRIPE_API_BASE}/pay/${client_secret}`, {
  method: 'POST', body: new URLSearchParams({ card: '4242424242424242' }),
});
await call('complete-onboarding-session', session);
"""
# Page → code before its blocks, expected output.
JAVASCRIPT = {
    "build/sign-in.md": ("", "signed in as ada-"),
    "build/first-screen.md": ("", "Acme Realty"),
    "build/lists.md": ("", "20 20 false"),
    "build/files.md": ("", "two rooms"),
    "build/invitations.md": ("", "members"),
    "build/billing.md": (PAID, "ELITE"),
    "functions.md": (f"{SIGNED_IN}const supabase = strive, last = null;", ""),
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def run(words: list[str | Path], stack: Strive) -> str:
    names = ("api_url", "publishable_key", "stripe_api_base")
    environment = os.environ | {name.upper(): getattr(stack, name) for name in names}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.embedded
def test_functions_have_an_address_of_their_own(stack: Strive) -> None:
    (snippet,) = blocks("deployment.md", "js")
    imports, program = snippet.split("\n\n", 1)
    program = program.replace("https://strive-functions-….run.app", stack.api_url)
    key = "const key = process.env.PUBLISHABLE_KEY, { data: { session } } = await strive.auth.getSession();"
    call = "const { data } = await functions.invoke('evaluate-flag', { body: { flag: 'crm.match-buyers' } });"
    client = "import { createClient } from '@supabase/supabase-js';"
    words = [imports, client, STRICT, SIGNED_IN, key, program, call, "console.log(data.key);", END]
    assert "crm.match-buyers" in run([PROGRAM, "--input-type=module", "--eval", "\n".join(words)], stack)


def test_flag_is_evaluated_without_a_provider(stack: Strive) -> None:
    _, snippet = blocks("flags.md", "js")
    program = snippet.replace("new-ui", "crm.match-buyers")
    imports = "import { createClient } from '@supabase/supabase-js';"
    words = [imports, STRICT, SIGNED_IN, "const supabase = strive;", program, "console.log(typeof data.value);", END]
    assert run([PROGRAM, "--input-type=module", "--eval", "\n".join(words)], stack) == "boolean\n"


def test_every_page_for_clients_is_run() -> None:
    pages = {str(path.relative_to(DOCS)) for path in (DOCS / "build").glob("*.md")}
    assert pages <= JAVASCRIPT.keys()


@pytest.mark.embedded  # the page on billing pays at the Stripe double
@pytest.mark.parametrize("page", JAVASCRIPT)
def test_javascript_of_a_page_runs(page: str, stack: Strive) -> None:
    before, printed = JAVASCRIPT[page]
    program = "\n".join([before, *blocks(page, "js")])
    imports = dict.fromkeys(re.findall(r"^import .*$", program, re.MULTILINE))
    imports.setdefault("import { createClient } from '@supabase/supabase-js';")
    body = re.sub(r"^import .*$", "", program, flags=re.MULTILINE)
    words = [*imports, STRICT, body, END]
    assert printed in run([PROGRAM, "--input-type=module", "--eval", "\n".join(words)], stack)


@pytest.mark.embedded
def test_requests_for_parts_that_are_not_local_get_a_sentence(stack: Strive) -> None:
    requests = re.findall(r"^\| `(GET|POST) (/\S+)` \|", (DOCS / "local.md").read_text(), re.MULTILINE)
    assert len(requests) >= 12
    with httpx.Client(base_url=stack.api_url, headers={"apikey": stack.publishable_key}) as client:
        for method, path in requests:
            response = client.request(method, path, json={} if method == "POST" else None)
            assert response.status_code == 501, path
            assert "not_served" in response.text, path
            assert "not part of the local API" in response.text, path
            assert "official stack" in response.text, path
