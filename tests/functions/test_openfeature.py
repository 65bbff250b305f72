"""The published OpenFeature providers for Python, JavaScript servers and browsers, against evaluate-flag."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason

from local import NODE, ROOT
from tests.support.served_flags import EVALUATE, change, make, make_broken
from tests.support.serving import PUBLISHABLE_KEY, SECRET_KEY, Serving, token
from tests.support.world import PEOPLE, Database

SCRIPTS = Path(__file__).parent / "openfeature"
GROWTH = {"targetingKey": "user-1", "tier": "GROWTH"}
VALUES: dict[str, list[Any]] = {"text": ["red"], "whole": [3], "fraction": [2.5, 2], "object": [{"a": [1]}]}


@pytest.fixture(scope="module", autouse=True)
def flags(database: Database) -> None:
    make(database, "growth", target_tiers="{GROWTH}")
    make(database, "disabled", is_enabled=False)
    make(database, "share", rollout_percent=50)
    make(database, "for-member", rollout_percent=0, target_users=[PEOPLE["member"]])
    for name, values in VALUES.items():
        first, last = {"value": values[0]}, {"value": values[-1]}
        # The last one is the value for all others.
        variants = [{"name": "first", "weight": 0, **first}, {"name": "last", "weight": 1, **last}]
        make(database, name, variants=variants)
    make_broken(database, "broken")


# Python


@pytest.fixture
def python(functions: Serving) -> Iterator[OpenFeatureClient]:
    provider = OFREPProvider(f"{functions.url}{EVALUATE}", headers_factory=lambda: {"apikey": SECRET_KEY})
    api.set_provider(provider)
    yield api.get_client()
    api.clear_providers()
    provider.session.close()


def test_python_gets_every_type(python: OpenFeatureClient) -> None:
    context = EvaluationContext("user-1", {"tier": "GROWTH"})
    assert python.get_boolean_value("growth", False, context) is True
    assert python.get_boolean_value("growth", True, EvaluationContext("user-1")) is False
    assert python.get_string_value("text", "", context) == "red"
    assert python.get_integer_value("whole", 0, context) == 3
    assert python.get_float_value("fraction", 0.5, context) == 2.0
    assert python.get_object_value("object", {}, context) == {"a": [1]}


def test_python_gets_reasons_variants_and_metadata(python: OpenFeatureClient) -> None:
    details = python.get_boolean_details("growth", False, EvaluationContext("user-1", {"tier": "GROWTH"}))
    assert (details.reason, details.variant, details.error_code) == (Reason.TARGETING_MATCH, "on", None)
    assert details.flag_metadata["rule"] == "everyone"
    assert python.get_boolean_details("disabled", True).reason == Reason.DISABLED
    assert python.get_boolean_details("share", False, EvaluationContext("x")).reason == Reason.SPLIT


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("nowhere", ErrorCode.FLAG_NOT_FOUND),
        ("broken", ErrorCode.PARSE_ERROR),
        ("share", ErrorCode.TARGETING_KEY_MISSING),
        ("text", ErrorCode.TYPE_MISMATCH),
    ],
)
def test_python_gets_the_default_and_why(python: OpenFeatureClient, flag: str, code: ErrorCode) -> None:
    details = python.get_boolean_details(flag, True)
    assert (details.value, details.error_code) == (True, code)
    assert details.error_message


# JavaScript


def node(script: str, functions: Serving, headers: dict[str, str], **more: Any) -> Any:
    result = {"url": f"{functions.url}{EVALUATE}", "headers": list(headers.items()), **more}
    done = subprocess.run(
        [NODE, SCRIPTS / script, json.dumps(result)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def question(kind: str, flag: str, fallback: Any, context: Any = None) -> dict[str, Any]:
    return {"kind": kind, "flag": flag, "fallback": fallback, "context": context or {}}


QUESTIONS = [
    question("Boolean", "growth", False, GROWTH),
    question("Boolean", "disabled", True, GROWTH),
    question("Boolean", "share", False, GROWTH),
    question("String", "text", "", GROWTH),
    question("Number", "whole", 0, GROWTH),
    question("Number", "fraction", 0.5, GROWTH),
    question("Object", "object", {}, GROWTH),
    question("Boolean", "nowhere", True, GROWTH),
    question("Boolean", "broken", True, GROWTH),
]


def check(answers: list[dict[str, Any]]) -> None:
    found = [(each["value"], each["reason"], each.get("errorCode")) for each in answers]
    assert found[2][1:] == ("SPLIT", None)
    assert [*found[:2], *found[3:]] == [
        (True, "TARGETING_MATCH", None),
        (False, "DISABLED", None),
        ("red", "STATIC", None),
        (3, "STATIC", None),
        (2, "STATIC", None),
        ({"a": [1]}, "STATIC", None),
        (True, "ERROR", "FLAG_NOT_FOUND"),
        (True, "ERROR", "PARSE_ERROR"),
    ]
    assert answers[0]["variant"] == "on"
    assert answers[0]["flagMetadata"]["rule"] == "everyone"


def test_javascript_servers_get_every_type_and_error(functions: Serving) -> None:
    check(node("server.mjs", functions, {"apikey": SECRET_KEY}, questions=QUESTIONS))


def test_bulk_evaluation_is_304_while_flags_are_unchanged(functions: Serving) -> None:
    result = node("web.mjs", functions, {"apikey": SECRET_KEY}, questions=QUESTIONS, context=GROWTH)
    check(result["answers"])
    assert result["statuses"] == [200, 304, 304]


@pytest.mark.parametrize(("person", "value"), [("member", True), ("owner", False)])
def test_signed_in_browser_gets_flags_of_the_user(functions: Serving, person: str, value: bool) -> None:
    headers = {"apikey": PUBLISHABLE_KEY, "authorization": f"Bearer {token(person)}"}
    questions_of_member = [question("Boolean", "for-member", not value)]
    result = node(
        "web.mjs", functions, headers, questions=questions_of_member, context={"targetingKey": str(PEOPLE["member"])}
    )
    assert result["answers"][0]["value"] is value


def test_documented_web_client_sees_a_kill_switch(functions: Serving, database: Database) -> None:
    make(database, "new-ui")
    document = (ROOT / "docs/flags.md").read_text()
    snippet = re.findall(r"^```js\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)[0]
    session = {"access_token": token("member"), "user": {"id": str(PEOPLE["member"])}}
    program = (
        f"const url = {json.dumps(functions.url)}, publishableKey = {json.dumps(PUBLISHABLE_KEY)};\n"
        f"const session = {json.dumps(session)};\n"
        "const supabase = { auth: { getSession: async () => ({ data: { session } }),"
        " getUser: async () => ({ data: { user: session.user } }) } };\n"
        f"{snippet}\n"
        "const show = () => console.log(client.getBooleanValue('new-ui', false));\n"
        "show();\nclient.addHandler('PROVIDER_CONFIGURATION_CHANGED', show);\n"
    )
    with subprocess.Popen(
        [NODE, "--input-type=module", "-e", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "true\n"
            change(database, "new-ui", is_enabled=False)
            assert process.stdout.readline() == "false\n"
        finally:
            process.kill()
