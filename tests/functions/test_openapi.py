"""The OpenAPI document and the functions agree."""

import html.parser
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

from functions import ALL, load
from local import ROOT
from shared.app.openapi import document
from tests.support.serving import PROJECT, PUBLISHABLE_KEY, SECRET_KEY, Serving, environment, serving, token


def test_committed_openapi_document_is_current(functions: Serving) -> None:
    """Changes of the API are visible in review. Regenerate with: python -m functions openapi > docs/openapi.json."""
    kept = json.loads((ROOT / "docs/openapi.json").read_text())
    assert kept == document("https://<project>.supabase.co", load(ALL))
    with functions.client(None) as client:
        served = client.get("/functions/v1/openapi.json").json()
    assert served == kept | {"servers": [{"url": f"{PROJECT}/functions/v1"}]}


def test_every_function_is_documented() -> None:
    described = document("http://x", load(ALL))
    for path, methods in described["paths"].items():
        operation = methods["post"]
        assert operation["summary"], path
        assert operation["tags"] != ["Other"], f"name the group of {path} in DOMAINS"
        assert operation["operationId"] == re.sub(r"\W+", "-", path).strip("-")
        assert {"400", "422", "500", "503"} <= operation["responses"].keys()
    assert described["openapi"].startswith("3.1")
    references = {text for text in json.dumps(described).split('"') if text.startswith("#/components/schemas/")}
    assert {reference.rsplit("/", 1)[1] for reference in references} <= described["components"]["schemas"].keys()


def test_schema_names_are_unique_words() -> None:
    names = document("http://x", load(ALL))["components"]["schemas"]
    assert [name for name in names if not re.fullmatch(r"[A-Z][A-Za-z]+", name)] == []


SECRETS = {
    "STRIPE_WEBHOOK_SECRETS": "whsec_of_the_fuzzer",
    "MAIL_WEBHOOK_SECRETS": "whsec_" + b64encode(b"of the fuzzer, 24 bytes.").decode(),
}


def test_no_input_gets_an_undocumented_response(tmp_path: Path, database_url: str) -> None:
    """Schemathesis generates valid and invalid requests and compares each response with the document."""
    # It sometimes repeats an Idempotency-Key with another body, which no schema can forbid.
    (tmp_path / "schemathesis.toml").write_text(
        '[[operations]]\ninclude-path = "/record-activity"\nchecks.positive_data_acceptance.expected-statuses ='
        ' ["2xx", "401", "403", "404", "409", "422", "5xx"]\n'
        # A schema cannot contain the configured return origins.
        '[[operations]]\ninclude-path = "/create-checkout-session"\nchecks.positive_data_acceptance.expected-statuses ='
        ' ["2xx", "401", "403", "404", "409", "422", "5xx"]\n'
        # A schema cannot describe signatures.
        '[[operations]]\ninclude-path = "/stripe-webhook"\nchecks.positive_data_acceptance.expected-statuses ='
        ' ["400"]\n'
        '[[operations]]\ninclude-path = "/mail-webhook"\nchecks.positive_data_acceptance.expected-statuses ='
        ' ["400", "401"]\n'
    )
    with serving(tmp_path, environment(database_url, **SECRETS)) as functions:
        done = subprocess.run(
            [
                Path(sys.executable).parent / "schemathesis", "run", f"{functions.url}/functions/v1/openapi.json",
                "--url", f"{functions.url}/functions/v1", "--header", f"Authorization: Bearer {token()}",
                # A NUL is a 400 of its own, see test_wire.py; JSON Schema cannot exclude it.
                "--generation-allow-x00", "false", "--generation-deterministic",
                # JSON Schema cannot describe a CSV with required columns either.
                "--exclude-path", "/import-records",
                # Without a provider of models it answers 501; test_ask_assistant.py has one.
                "--exclude-path", "/ask-assistant",
                "--max-examples", "60", "--max-time", "5", "--continue-on-failure", "--no-color",
                # The token is given to every request here; test_authentication.py leaves it out.
                "--exclude-checks", "missing_required_header",
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.support.fuzzing"},
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


class Assets(html.parser.HTMLParser):
    """External resources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe", "style", "source"}:
            self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]


def test_reference_page_is_self_contained(functions: Serving) -> None:
    with functions.client(None) as client:
        page = client.get("/functions/v1/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assets = Assets()
    assets.feed(page.text)
    assert [each for each in assets.found if not each.startswith(("data:", "#"))] == []
    assert PUBLISHABLE_KEY in page.text
    assert SECRET_KEY not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert f"connect-src 'self' {PROJECT}" in policy
