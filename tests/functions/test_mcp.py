"""The MCP server, called with the SDK's own client: by a person and by an API key."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.support.api_keys import make_key
from tests.support.serving import NO_TLS, Serving, token
from tests.support.world import ACME, GLOBEX, Database

if TYPE_CHECKING:
    from mcp.client.client import Client

MCP = "/functions/v1/mcp"
ACCEPT = {"accept": "application/json, text/event-stream"}
Use = Callable[["Client"], Awaitable[Any]]


def run(functions: Serving, credential: str, use: Use, **options: Any) -> Any:
    # Every worker collects this file, and these libraries take a fifth of the time of collecting all tests.
    import httpx2  # noqa: PLC0415 - as above
    from mcp.client.client import Client  # noqa: PLC0415 - as above
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - as above

    async def connected() -> Any:
        headers = {"authorization": f"Bearer {credential}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30, verify=NO_TLS) as http,
            Client(streamable_http_client(functions.url + MCP, http_client=http), **options) as client,
        ):
            return await use(client)

    return asyncio.run(connected())


def send(functions: Serving, credential: str, method: str, params: Any, **headers: str) -> httpx.Response:
    """A message as a client of the attacker's own sends it."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with functions.client(None, authorization=f"Bearer {credential}") as client:
        return client.post(MCP, json=message, headers=ACCEPT | headers)


def call(functions: Serving, credential: str, tool: str, **arguments: Any) -> tuple[Any, bool]:
    async def use(client: "Client") -> tuple[Any, bool]:
        result = await client.call_tool(tool, arguments)
        return json.loads(result.content[0].text), bool(result.is_error)  # type: ignore[union-attr]

    found: tuple[Any, bool] = run(functions, credential, use)
    return found


def done(functions: Serving, credential: str, tool: str, **arguments: Any) -> Any:
    result, failed = call(functions, credential, tool, **arguments)
    assert not failed, result
    return result


def refused(functions: Serving, credential: str, tool: str, **arguments: Any) -> str:
    result, failed = call(functions, credential, tool, **arguments)
    assert failed, result
    return str(result["code"])


@pytest.fixture(scope="module")
def key(functions: Serving) -> str:
    made: str = make_key(functions, "CRM_WRITE", "ORDERS_WRITE")["key"]
    return made


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_client_lists_tools_with_hints_and_reads_the_schema(functions: Serving, mode: str) -> None:
    async def use(client: "Client") -> Any:
        tools = (await client.list_tools()).tools
        resource = await client.read_resource("strive://schema")
        return {tool.name: tool.annotations for tool in tools}, json.loads(resource.contents[0].text)  # type: ignore[union-attr]

    hints, schema = run(functions, token("member"), use, mode=mode)
    assert {"search_crm", "create_record", "update_record", "pipeline_report", "agenda"} <= hints.keys()
    assert hints["search_crm"].read_only_hint
    assert not hints["create_record"].read_only_hint
    assert hints["update_record"].destructive_hint
    columns = {column["name"]: column for table in schema if table["table"] == "leads" for column in table["columns"]}
    assert columns["name"]["is_written"]
    assert "NEW_LEAD" in columns["status"]["values"]
    assert not {"api_keys", "notifications"} & {table["table"] for table in schema}


@pytest.mark.parametrize("by_key", [False, True], ids=["person", "key"])
def test_agent_works_a_lead(functions: Serving, key: str, by_key: bool) -> None:
    credential = key if by_key else token("member")
    name = f"Ada {uuid4().hex[:8]}"
    lead = done(functions, credential, "create_record", table="leads", values={"name": name})
    assert lead["organization_id"] == str(ACME)
    changed = done(
        functions, credential, "update_record", table="leads", id=lead["id"], values={"status": "IN_CONTACT"}
    )
    assert changed["status"] == "IN_CONTACT"
    assert done(functions, credential, "get_record", table="leads", id=lead["id"])["name"] == name
    listed = done(functions, credential, "list_records", table="leads", filter={"name": name})["records"]
    assert [each["id"] for each in listed] == [lead["id"]]
    found = done(functions, credential, "search_crm", query=name.split()[1])
    assert [each["id"] for each in found] == [lead["id"]]
    activity = done(functions, credential, "record_activity", type="CALL", title="Called", lead_id=lead["id"])
    assert activity["activity_id"]
    assert done(functions, credential, "pipeline_report")
    assert isinstance(
        done(functions, credential, "agenda", since="2026-01-01T00:00:00Z", until="2026-02-01T00:00:00Z"), list
    )
    order = done(functions, credential, "order_agent", title="Helper", description="Answers calls", use_case="calls")
    assert order["status"] == "DRAFT"


def test_repeated_tool_call_has_one_effect(functions: Serving, key: str, database: Database) -> None:
    name = f"Once {uuid4().hex}"
    wanted = {"table": "leads", "values": {"name": name}, "idempotency_key": uuid4().hex}
    first, second = (done(functions, key, "create_record", **wanted) for _ in range(2))
    assert first["id"] == second["id"]
    with database.connect() as connection:
        assert connection.execute("select count(*) from public.leads where name = %s", [name]).fetchone() == (1,)
        (logged,) = connection.execute(
            "select user_id is null, api_key_id is not null from public.activity_logs where resource_id = %s",
            [first["id"]],
        )
    assert logged == (True, True)


def test_attack_store_results_of_reading_tools(functions: Serving, database: Database) -> None:
    """A stored result of hundreds of records with each request would fill the database within hours."""

    def stored() -> int:
        with database.connect() as connection:
            (count,) = connection.execute("select count(*) from private.idempotency_keys").fetchone() or (0,)
        return int(count)

    before = stored()
    parameters = {"name": "list_records", "arguments": {"table": "leads"}}
    answer = send(functions, token(), "tools/call", parameters, **{"idempotency-key": str(uuid4())})
    assert not answer.json()["result"].get("isError"), answer.text
    assert stored() == before


def test_attack_have_a_tool_return_megabytes(functions: Serving, database: Database) -> None:
    """The SDK writes a result in one step, which holds all other requests."""
    with database.connect() as connection:
        connection.execute(
            "insert into public.leads (organization_id, name, custom_fields)"
            " select %s, 'Large', jsonb_build_object('a', repeat('x', 60000)) from generate_series(1, 4)",
            [ACME],
        )
    member, large = token("member"), {"name": "Large"}
    assert refused(functions, member, "list_records", table="leads", filter=large) == "result_too_large"
    found = done(functions, member, "list_records", table="leads", filter=large, limit=1)
    assert "Large" in json.dumps(found)


def test_wrong_arguments_are_explained(functions: Serving) -> None:
    member = token("member")
    assert refused(functions, member, "search_crm", query="") == "invalid_arguments"
    assert refused(functions, member, "list_records", table="users; drop table users") == "PT400"
    assert refused(functions, member, "create_record", table="leads", values={"no_column": 1}) == "PT400"
    nameless = {"table": "leads", "values": {"organization_id": str(ACME)}}
    assert refused(functions, member, "create_record", **nameless) == "23502"
    assert refused(functions, member, "get_record", table="leads", id=str(uuid4())) == "PT404"
    assert refused(functions, member, "update_record", table="leads", id=str(uuid4()), values={"name": "A"}) == "PT404"


def test_attack_tools_reach_no_further_than_their_caller(functions: Serving, database: Database) -> None:
    with database.connect() as connection:
        ((theirs,),) = connection.execute(
            "insert into public.leads (organization_id, name) values (%s, 'Theirs') returning id", [GLOBEX]
        )
    member, viewer = token("member"), token("viewer")
    assert refused(functions, member, "get_record", table="leads", id=str(theirs)) == "PT404"
    change = {"table": "leads", "id": str(theirs), "values": {"name": "Ours"}}
    assert refused(functions, member, "update_record", **change) == "PT404"
    moved = {"name": "Plant", "organization_id": str(GLOBEX)}
    assert done(functions, member, "create_record", table="leads", values=moved)["organization_id"] == str(ACME)
    assert refused(functions, viewer, "create_record", table="leads", values={"name": "Ada"}) == "42501"
    for table in ("api_keys", "notifications", "ai_conversations", "admin_action_logs", "webhook_endpoints"):
        assert refused(functions, token("owner"), "list_records", table=table) == "PT400"
    reading = make_key(functions, "ORDERS_READ")["key"]
    assert refused(functions, reading, "search_crm", query="Theirs") == "42501"
    assert refused(functions, reading, "order_agent", title="A", description="B", use_case="C") == "42501"
    assert done(functions, reading, "pipeline_report") == done(functions, reading, "pipeline_report")
    assert (
        done(functions, make_key(functions, "BILLING_READ")["key"], "list_records", table="subscriptions") is not None
    )


def test_attack_name_another_organization_with_a_key(functions: Serving, database: Database) -> None:
    key = make_key(functions, "CRM_WRITE")["key"]
    create = {"name": "create_record", "arguments": {"table": "leads", "values": {"name": "Planted"}}}
    for request in (create, {"name": "list_records", "arguments": {"table": "leads"}}):
        answer = send(functions, key, "tools/call", request, **{"x-org-id": str(GLOBEX)})
        text = json.loads(answer.json()["result"]["content"][0]["text"])
        assert text.get("code") == "42501" or text == {"records": []}
    with database.connect() as connection:
        assert connection.execute("select count(*) from public.leads where name = 'Planted'").fetchone() == (0,)


@pytest.mark.parametrize(
    "uri", ["strive://schema/leads", 'strive://schema/","x":"', "file:///etc/passwd", "strive://keys"]
)
def test_attack_read_a_resource_that_is_not_there(functions: Serving, uri: str) -> None:
    answer = send(functions, token("member"), "resources/read", {"uri": uri})
    assert "There is no such resource" in answer.json()["error"]["message"]


def test_attack_messages_without_measure(functions: Serving) -> None:
    member = token("member")
    search = {"name": "search_crm", "arguments": {"query": "a" * (1 << 18)}}
    assert send(functions, member, "tools/call", search).status_code == 413
    deep: Any = "a"
    for _ in range(500):
        deep = [deep]
    for arguments in ({"query": deep}, dict.fromkeys(map(str, range(5000)))):
        wrong = {"name": "search_crm", "arguments": arguments}
        assert send(functions, member, "tools/call", wrong).status_code in {400, 413, 422}
    with functions.client("member") as client:
        batch = [{"jsonrpc": "2.0", "id": n, "method": "tools/list"} for n in range(1000)]
        assert client.post(MCP, json=batch, headers=ACCEPT).status_code == 422


def test_server_needs_credentials(functions: Serving) -> None:
    with functions.client(None) as client:
        answer = client.post(MCP, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
