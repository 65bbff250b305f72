"""The tools: what they take, which operation of the database they run, and what a client should ask a person first.

Every operation runs under the caller's policies, so a tool never does more than the caller could do without it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from shared.app.call import Call, as_json
from shared.app.dispatch import explained
from shared.errors import ErrorResponse
from shared.schema import ComplexityLevel

# The SDK writes a result in one step, and no model reads more.
MOST_CHARACTERS = 200_000

Values = Annotated[dict[str, JsonValue], Field(min_length=1, max_length=100)]
Once = Annotated[str, Field(min_length=8, max_length=255, pattern=r"^[\x21-\x7e]+$")]


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Writing(Arguments):
    idempotency_key: Annotated[
        Once | None, Field(description="Repeat it with the same arguments, and the tool has one effect.")
    ] = None


class Search(Arguments):
    query: Annotated[str, Field(min_length=1, max_length=200)]
    limit: Annotated[int, Field(ge=1, le=50)] = 20


class ListRecords(Arguments):
    table: str
    filter: Annotated[
        dict[str, JsonValue], Field(max_length=20, description="Columns and the values that they equal.")
    ] = {}
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0


class GetRecord(Arguments):
    table: str
    id: UUID


class CreateRecord(Writing):
    table: str
    values: Values


class UpdateRecord(Writing):
    table: str
    id: UUID
    values: Values


class NoArguments(Arguments):
    pass


class Agenda(Arguments):
    since: AwareDatetime
    until: AwareDatetime


class RecordActivity(Writing):
    type: Annotated[str, Field(description="CALL, EMAIL, MEETING, TASK, NOTE, SHOWING, OPEN_HOUSE or FOLLOW_UP")]
    title: Annotated[str, Field(min_length=1, max_length=255)]
    description: Annotated[str | None, Field(max_length=10_000)] = None
    lead_id: UUID | None = None
    contact_id: UUID | None = None
    deal_id: UUID | None = None
    listing_id: UUID | None = None


class OrderAgent(Writing):
    title: Annotated[str, Field(min_length=1, max_length=200)]
    description: Annotated[str, Field(min_length=1, max_length=10_000)]
    use_case: Annotated[str, Field(min_length=1, max_length=200)]
    complexity: ComplexityLevel = ComplexityLevel.MODERATE
    requirements: dict[str, JsonValue] = {}
    submit: Annotated[bool, Field(description="False: only a draft. True: it counts towards the month's quota.")] = (
        False
    )


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    arguments: type[Arguments]
    operation: str
    called: str | None = None
    writes: bool = False
    replaces: bool = False
    """Whether it changes what is there already."""

    @cached_property
    def schema(self) -> dict[str, Any]:
        """Made once: all of them take milliseconds."""
        return self.arguments.model_json_schema()


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("search_crm", "Find leads, contacts, companies, deals and listings by words.", Search, "private.tool_run",
             "search_crm"),
        Tool("list_records", "The newest records of a table. The resource strive://schema lists tables and columns.",
             ListRecords, "private.tool_list_records"),
        Tool("get_record", "One record.", GetRecord, "private.tool_get_record"),
        Tool("create_record", "Create a record.", CreateRecord, "private.tool_create_record", writes=True),
        Tool("update_record", "Change columns of a record.", UpdateRecord, "private.tool_update_record", writes=True,
             replaces=True),
        Tool("pipeline_report", "Deals by stage: count, value and weighted value.", NoArguments, "private.tool_run",
             "pipeline_report"),
        Tool("agenda", "Appointments between two times, with those that clash.", Agenda, "private.tool_run", "agenda"),
        Tool("record_activity", "Record a contact with a person or property.", RecordActivity, "private.tool_run",
             "record_activity", writes=True),
        Tool("order_agent", "Draft an order of a custom AI agent, and submit it if asked to.", OrderAgent,
             "private.tool_run", "submit_order", writes=True),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """JSON of the database, or why it failed."""

    json: str = ""
    error: ErrorResponse | None = None

    @property
    def text(self) -> str:
        return self.error.body().decode() if self.error else self.json


async def use(call: Call[Any], name: str, given: Mapping[str, Any]) -> Outcome:
    """Run a tool as the caller. An error is a result: the model reads it and tries something else."""
    if (tool := TOOLS.get(name)) is None:
        return Outcome(error=ErrorResponse(404, "unknown_tool", "There is no such tool", hint=f"{', '.join(TOOLS)}."))
    if len(given) > len(tool.arguments.model_fields):
        accepted = ", ".join(tool.arguments.model_fields)
        message = f"The tool has {len(given):,} arguments; accepted are {accepted}"
        return Outcome(error=ErrorResponse(422, "invalid_arguments", message))
    try:
        arguments = tool.arguments.model_validate(given)
    except ValidationError as problem:
        found = problem.errors(include_url=False, include_context=False, include_input=False)[:10]
        return Outcome(error=ErrorResponse(422, "invalid_arguments", "The arguments are not valid", found))
    once = getattr(arguments, "idempotency_key", None)
    payload = arguments.model_dump(mode="json", exclude_none=True, exclude={"idempotency_key"})
    body = as_json({"operation": tool.called, "arguments": payload} if tool.called else payload)
    session = call.session if tool.writes else call.session.for_reading()
    if once:
        session = session.once(once, hashlib.sha256(f"{name}\n{body}".encode()).digest())
    try:
        result, _ = await session.run(tool.operation, body)
    except Exception as error:  # noqa: BLE001 - explained to the model; a bug goes to the log
        return Outcome(error=explained(error, b""))
    if len(result) > MOST_CHARACTERS and not tool.writes:
        details = f"It has {len(result):,} characters; at most {MOST_CHARACTERS:,} are returned."
        hint = "Ask for fewer records, or for one with get_record."
        return Outcome(error=ErrorResponse(422, "result_too_large", "The result is too large", details, hint))
    return Outcome(result)
