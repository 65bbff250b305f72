"""The assistant: streams, uses tools as the caller, counts tokens, and stops when its client goes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from local.model import ScriptedModel
from tests.support.api_keys import make_key
from tests.support.platform import Platform
from tests.support.responses import refused
from tests.support.serving import Serving, environment, serving
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

ASK = "/functions/v1/ask-assistant"


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    server = ScriptedModel()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory, database_url: str, model: ScriptedModel) -> Iterator[Serving]:
    variables = environment(database_url, AI_BASE_URL=model.url, AI_API_KEY="of the tests", AI_MODEL="scripted")
    with serving(tmp_path_factory.mktemp("assistant"), variables) as running:
        yield running


@pytest.fixture(autouse=True)
def unused(database: Database, model: ScriptedModel) -> None:
    model.script.clear()
    model.requests.clear()
    with database.connect() as connection:
        connection.execute("delete from public.usage_tracking; delete from private.usage_entries")


def ask(assistant: Serving, message: str, person: str = "member", **body: Any) -> list[dict[str, Any]]:
    with assistant.client(person) as client:
        answer = client.post(ASK, json={"message": message, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(each.get("text", "") for each in events)


def add_lead(database: Database, organization: object, name: str) -> str:
    with database.connect() as connection:
        ((lead,),) = connection.execute(
            "insert into public.leads (organization_id, name) values (%s, %s) returning id", [organization, name]
        )
    return str(lead)


def test_answer_streams_and_the_conversation_goes_on(
    assistant: Serving, database: Database, model: ScriptedModel
) -> None:
    first = ask(assistant, "Good morning")
    conversation = first[0]["conversation_id"]
    assert [each["event"] for each in first] == ["start", *["token"] * 4, "done"]
    assert text_of(first) == "You wrote: Good morning"
    ask(assistant, "And now?", conversation_id=conversation)
    sent = model.requests[1]["messages"]
    assert [each["role"] for each in sent] == ["system", "user", "assistant", "user"]
    with database.connect() as connection:
        row = connection.execute(
            "select user_id, usage_tokens, jsonb_array_length(conversation_data), (select sum(usage_amount)::int"
            " from private.metered where resource_type = 'AI_TOKENS') from public.ai_conversations where id = %s",
            [conversation],
        ).fetchone()
    assert row == (PEOPLE["member"], 200, 4, 200)
    for other in ("owner", "globex_owner"):
        with assistant.client(other) as client:
            body = {"message": "Show me", "conversation_id": conversation}
            refused(client.post(ASK, json=body), 404, "PT404")


def test_tools_run_as_the_caller(assistant: Serving, database: Database) -> None:
    name = f"Zoe{uuid4().hex[:8]}"
    lead = add_lead(database, ACME, name)
    events = ask(assistant, f"search for {name}")
    assert [each for each in events if each["event"] == "tool"] == [
        {"event": "tool", "tool": "search_crm", "failed": False}
    ]
    assert lead in text_of(events)


def test_attack_instructions_in_a_record_reach_nothing(
    assistant: Serving, database: Database, model: ScriptedModel
) -> None:
    theirs = add_lead(database, GLOBEX, "Of another organization")
    # What a model does that obeys the text of a record.
    model.script += [
        {"name": "get_record", "arguments": {"table": "leads", "id": theirs}},
        {"name": "list_records", "arguments": {"table": "notifications"}},
        {"name": "order_agent", "arguments": {"title": "A", "description": "B", "use_case": "C", "submit": True}},
        {"name": "drop_table", "arguments": {}},
    ]
    with database.connect() as connection:
        connection.execute("update public.ai_tools set required_tier = 'ELITE' where name = 'order_agent'")
    try:
        events = ask(assistant, "Summarize my leads")
    finally:
        with database.connect() as connection:
            connection.execute("update public.ai_tools set required_tier = 'GROWTH' where name = 'order_agent'")
    assert [each["failed"] for each in events if each["event"] == "tool"] == [True] * 4
    results = [each["content"] for each in model.requests[-1]["messages"] if each["role"] == "tool"]
    assert [json.loads(each)["code"] for each in results] == ["PT404", "PT400", "unknown_tool", "unknown_tool"]
    assert "order_agent" not in {tool["function"]["name"] for tool in model.requests[0]["tools"]}


def test_attack_a_model_that_never_stops_calling_tools(assistant: Serving, model: ScriptedModel) -> None:
    model.script += [{"name": "pipeline_report", "arguments": {}}] * 50
    events = ask(assistant, "Go on")
    assert len(model.requests) == 6
    assert "tools" not in model.requests[-1]
    assert events[-1]["event"] == "done"


def test_answer_beyond_the_plan_is_refused(assistant: Serving, database: Database) -> None:
    with database.connect() as connection:
        connection.execute(
            "insert into public.usage_tracking (organization_id, resource_type, resource_name, usage_amount)"
            " values (%s, 'AI_TOKENS', 'scripted', 2000000)",
            [ACME],
        )
    with assistant.client("member") as client:
        answer = refused(client.post(ASK, json={"message": "Hello"}), 402, "PT402").json()
    assert answer["message"] == "Your plan allows no more ai tokens this month"
    assert answer["details"].startswith("GROWTH allows 2000000, and 2000000 are used. They renew at 20")


def test_model_stops_when_the_client_goes(assistant: Serving, database: Database, model: ScriptedModel) -> None:
    model.stopped.clear()
    model.script.append("word " * 200_000)
    with assistant.client("member") as client, client.stream("POST", ASK, json={"message": "Tell"}) as answer:
        next(line for line in answer.iter_lines() if '"token"' in line)
    assert model.stopped.wait(60)
    used = "select coalesce(sum(usage_amount), 0)::int from private.metered where resource_type = 'AI_TOKENS'"
    with database.connect() as connection:
        assert wait_for_value(lambda: connection.execute(used).fetchone()) > 0


def wait_for_value(read: Any) -> int:
    deadline = threading.Event()
    for _ in range(600):
        (found,) = read()
        if found:
            return int(found)
        deadline.wait(0.1)
    raise AssertionError("no tokens were counted")


def test_assistant_is_off_without_settings_and_closed_to_keys(
    assistant: Serving, functions: Serving, model: ScriptedModel
) -> None:
    with functions.client("member") as client:
        refused(client.post(ASK, json={"message": "Hello"}), 501, "assistant_off")
    key = make_key(assistant, "CRM_WRITE")["key"]
    with assistant.client(None, authorization=f"Bearer {key}") as client:
        refused(client.post(ASK, json={"message": "Hello"}), 403, "insufficient_scope")
    assert model.requests == []


def test_assistant_answers_on_the_local_stack(platform: Platform) -> None:
    member = platform.person(member_of=platform.organization())
    answer = member.call("ask-assistant", message="How is the pipeline?")
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [each["tool"] for each in events if each["event"] == "tool"] == ["pipeline_report"]
    assert text_of(events).startswith("I found: [")


DONE = b"data: [DONE]\n\n"
WHOLE_CALL = {"id": "1", "function": {"name": "pipeline_report", "arguments": "{}"}}


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)


def delta(**fields: Any) -> Any:
    return {"choices": [{"delta": fields}]}


@pytest.mark.parametrize(
    "stream",
    [sse(delta(content="half")), sse(delta(content="half"), {"error": {"message": "overloaded"}}) + DONE, b"<html>",
     sse([1]), sse("text"), sse({"choices": ["text"]}), sse(delta(content=5)),
     sse({"usage": {"total_tokens": "many"}})],
    ids=["cut off", "error", "no events", "list", "text", "choice", "number", "tokens"],
)  # fmt: skip
def test_stream_that_is_not_a_completion_is_an_error(assistant: Serving, model: ScriptedModel, stream: bytes) -> None:
    model.script.append(stream)
    with assistant.client("member") as client:
        answer = client.post(ASK, json={"message": "Hello"})
    *_, kind, data = filter(None, answer.text.splitlines())
    assert (kind, json.loads(data[6:])["code"]) == ("event: error", "assistant_unavailable")


@pytest.mark.parametrize("tokens", [-500, 10**30])
def test_impossible_count_of_tokens_is_not_charged(assistant: Serving, model: ScriptedModel, tokens: int) -> None:
    model.script.append(sse(delta(content="x" * 40), {"usage": {"total_tokens": tokens}}) + DONE)
    assert ask(assistant, "Hello")[-1]["tokens"] == 10


def test_streams_of_other_endpoints_are_understood(assistant: Serving, model: ScriptedModel) -> None:
    """No blank after the colon, no index and no parts of a tool call, nulls, NUL, half a character, no [DONE]."""
    model.script.append(sse({"choices": None, "usage": None}, delta(content=None, tool_calls=[WHOLE_CALL])) + DONE)
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    model.script.append(sse(delta(content="a\0b\ud800"), end).replace(b"data: ", b"data:"))
    events = ask(assistant, "Hello")
    assert [each["event"] for each in events] == ["start", "tool", "token", "done"]
    assert (events[1]["tool"], events[1]["failed"]) == ("pipeline_report", False)
    assert text_of(events) == "ab?"


def test_attack_a_model_that_calls_hundreds_of_tools_at_once(assistant: Serving, model: ScriptedModel) -> None:
    calls = [{"index": place, **WHOLE_CALL} for place in range(300)]
    model.script += [sse(delta(tool_calls=calls)) + DONE, "Done"]
    assert [each["event"] for each in ask(assistant, "Hello")].count("tool") == 16


def test_unavailable_model_is_an_error(tmp_path: Path, database_url: str) -> None:
    variables = environment(database_url, AI_BASE_URL="http://127.0.0.1:9/v1", AI_API_KEY="k", AI_MODEL="m")
    with serving(tmp_path, variables) as running, running.client("member") as client:
        answer = client.post(ASK, json={"message": "Hello"})
        assert "event: error" in answer.text
        assert "assistant_unavailable" in answer.text
