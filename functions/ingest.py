import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from shared.app.call import Call, Result, as_json
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError
from shared.schema import ApiKeyScope

# A mapping or a default repeats what the body has once, for every record.
MAPPED_BYTES = 4 << 20
LONG_CHARACTERS = 10_000

Column = Literal[
    "name", "email", "phone", "company", "source", "status", "score_value", "budget", "property_types", "cities",
    "min_bedrooms", "timeline", "notes", "tags",
]  # fmt: skip


COLUMNS: tuple[str, ...] = get_args(Column)


def _few_columns(found: Any) -> Any:
    """Each unknown column costs time to explain."""
    if isinstance(found, dict) and len(found) > len(COLUMNS):
        raise ValueError(f"found {len(found):,} columns, a lead has {len(COLUMNS)}")
    return found


Columns = BeforeValidator(_few_columns)
Path = Annotated[str, Field(min_length=1, max_length=200)]


class Ingestion(RequestModel):
    """Records as another program has them, and where each column of a lead is in them."""

    records: Annotated[list[dict[str, JsonValue]], Field(min_length=1, max_length=200)]
    mapping: Annotated[
        dict[Column, Path] | None,
        Columns,
        Field(
            description="Column → path in the record, e.g. `contact.emails.0.address`. Without it, columns are members "
            "of the record with the same name."
        ),
    ] = None
    defaults: Annotated[dict[Column, JsonValue], Columns] = Field(
        {}, description="Values for columns that a record does not have."
    )
    dry_run: Annotated[bool, Field(description="Return the results and create nothing.")] = False

    @model_validator(mode="after")
    def has_a_name(self) -> "Ingestion":
        if self.mapping is not None and "name" not in self.mapping and "name" not in self.defaults:
            raise ValueError("mapping or defaults must have name")
        return self


class Ingested(ResponseModel):
    """`known`: a lead or contact has this email or phone, and nothing was changed."""

    index: int
    outcome: Literal["created", "known", "failed"]
    kind: Literal["lead", "contact"] | None = None
    id: UUID | None = None
    problem: str | None = None


class IngestionResult(ResponseModel):
    dry_run: bool
    results: list[Ingested]


@function("user", scope=ApiKeyScope.CRM_WRITE, idempotent=True, body_bytes=1 << 18, body_values=5_000)
async def ingest(call: Call[Ingestion]) -> Result[IngestionResult]:
    """Create leads from another program, such as Zapier or a portal.

    For MEMBER and above, or an API key. The mapping names where each column is in a record. A person who is known by
    email or phone is not created again. A record that is not valid fails alone.
    """
    rows = ",".join([row async for row in _rows(call.body)])
    return await call.run("private.ingest_leads", f'{{"dry_run":{json.dumps(call.body.dry_run)},"rows":[{rows}]}}')


async def _rows(sent: Ingestion) -> AsyncIterator[str]:
    """Each record as JSON with the columns of a lead; other requests have their turn in between."""
    size = 0
    for record in sent.records:
        fields = []
        for column, value in (sent.defaults | _mapped(record, sent.mapping)).items():
            fields.append(f'"{column}":{as_json(value)}')
            size += len(fields[-1])
            if size > MAPPED_BYTES:
                raise ApiError(
                    422,
                    "mapping_too_large",
                    f"The mapping and the defaults make more than {MAPPED_BYTES:,} bytes of the records",
                    hint="Map each part of a record once, or send fewer records in a request.",
                )
            if len(fields[-1]) > LONG_CHARACTERS:
                await asyncio.sleep(0)
        yield f"{{{','.join(fields)}}}"
        await asyncio.sleep(0)


def _mapped(record: dict[str, Any], mapping: dict[Any, str] | None) -> dict[str, Any]:
    paths = mapping or {column: column for column in COLUMNS}
    found = {column: _at(record, path) for column, path in paths.items()}
    return {column: value for column, value in found.items() if value is not None and value != ""}


def _at(value: Any, path: str) -> Any:
    """The value at a path of names and positions, or None."""
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
