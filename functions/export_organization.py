import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from shared.administration.operations import attempt
from shared.administration.services import remove, services, sign
from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.database.session import ReadLines
from shared.database.version import MIGRATION
from shared.errors import error_response

if TYPE_CHECKING:
    from supabase import AsyncClient

BUCKET = "exports"
SIGNED_SECONDS = 3600
# Every storage accepts a file of this size in one request.
PART_BYTES = 4 * 1024 * 1024
PARTS_AT_ONCE = 3
TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}


class ExportRequest(RequestModel):
    """ndjson is exact and can be restored; csv is for spreadsheets."""

    organization_id: UUID
    format: Literal["ndjson", "csv"] = "ndjson"


class ExportTable(BaseModel):
    name: str
    columns: list[str]


class StartedExport(BaseModel):
    """What private.begin_export() returns."""

    export_id: str
    folder: str
    complete: bool
    tables: list[ExportTable]


class ExportFile(ResponseModel):
    name: str
    table: str
    rows: int
    bytes: int
    sha256: str
    url: str


class ExportResult(ResponseModel):
    """The URLs are valid for an hour. The manifest has the tables, their columns and rows, and all hashes."""

    export_id: UUID
    complete: Annotated[bool, Field(description="False for an owner: without the data of single members.")]
    rows: int
    manifest_url: str
    manifest_sha256: str
    files: list[ExportFile]


@function(
    "user",
    errors={404: "There is no such organization.", 409: "An export of it is running."},
)
async def export_organization(call: Call[ExportRequest]) -> Result[ExportResult]:
    """Export all data of an organization.

    For platform admins, and for its owners without the data of single members. All tables are read as of one moment and
    stored in the private bucket `exports`, in files of at most 4 MB, with a manifest of counts and SHA-256 hashes.
    """
    request = call.body.model_dump(mode="json")
    attempted = await attempt(call, "begin_export", request, target=str(call.body.organization_id))
    started = StartedExport.model_validate(attempted.done)
    outcome: dict[str, Any] = {"export_id": started.export_id}
    folder = started.folder
    stored: list[str] = []
    try:
        async with services(call.settings) as client:
            try:
                files = await _store(call, client, started, stored)
                rows = sum(file["rows"] for file in files)
                manifest = _manifest(call.body, started, files)
                stored.append(f"{folder}/manifest.json")
                await client.storage.from_(BUCKET).upload(stored[-1], manifest, {"content-type": "application/json"})
                sha256 = hashlib.sha256(manifest).hexdigest()
                first, *others = await sign(client, BUCKET, [stored[-1], *stored[:-1]], SIGNED_SECONDS)
            except BaseException:
                await _forget(client, stored)
                raise
    except Exception as error:
        failed = outcome | {"error": error_response(error).code}
        await call.run("private.finish_export", json.dumps(failed))
        raise
    await call.run("private.finish_export", json.dumps(outcome | {"sha256": sha256, "rows": rows}))
    answer = outcome | {
        "complete": started.complete,
        "rows": rows,
        "manifest_url": first,
        "manifest_sha256": sha256,
        "files": [file | {"url": url} for file, url in zip(files, others, strict=True)],
    }
    return Result(json.dumps(answer), headers={"cache-control": "no-store"})


async def _store(
    call: Call[ExportRequest], client: "AsyncClient", started: StartedExport, stored: list[str]
) -> list[dict[str, Any]]:
    """Every table in files of its own, all as of one moment; a table without rows has one empty file.

    Few uploads run at once, since an export holds their parts in memory.
    """
    files: list[dict[str, Any]] = []
    kind = call.body.format
    bucket = client.storage.from_(BUCKET)
    free = asyncio.Semaphore(PARTS_AT_ONCE)

    async def put(path: str, part: bytes) -> None:
        try:
            await bucket.upload(path, part, {"content-type": TYPES[kind]})
        finally:
            free.release()

    try:
        async with call.snapshot() as lines, asyncio.TaskGroup() as uploads:
            for table in started.tables:
                number = 0
                async for part, rows in _parts(lines, started.export_id, table, csv=kind == "csv"):
                    number += 1
                    name = f"{table.name}.{number:04}.{kind}"
                    sha256 = hashlib.sha256(part).hexdigest()
                    files.append(
                        {"name": name, "table": table.name, "rows": rows, "bytes": len(part), "sha256": sha256}
                    )
                    stored.append(f"{started.folder}/{name}")
                    await free.acquire()
                    uploads.create_task(put(stored[-1], part))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return files


async def _parts(
    lines: ReadLines, export_id: str, table: ExportTable, *, csv: bool
) -> AsyncIterator[tuple[bytes, int]]:
    """The lines of a table, in parts with their numbers of rows."""
    head = ",".join(table.columns).encode() + b"\n" if csv else b""
    part, rows, parts = bytearray(head), 0, 0
    payload = json.dumps({"export_id": export_id, "relation": table.name})
    async for line in lines("private.open_export", payload):
        encoded = line.encode() + b"\n"
        if rows and len(part) + len(encoded) > PART_BYTES:
            yield bytes(part), rows
            part, rows, parts = bytearray(head), 0, parts + 1
        part += encoded
        rows += 1
    if rows or not parts:
        yield bytes(part), rows


async def _forget(client: "AsyncClient", stored: list[str]) -> None:
    """Best effort: without a manifest, the files of a failed export are not an export."""
    with suppress(Exception):  # the first error is the one to report
        await remove(client, BUCKET, stored)


def _manifest(request: ExportRequest, started: StartedExport, files: list[dict[str, Any]]) -> bytes:
    tables = [
        table.model_dump()
        | {
            "rows": sum(file["rows"] for file in files if file["table"] == table.name),
            "files": [file for file in files if file["table"] == table.name],
        }
        for table in started.tables
    ]
    return json.dumps(
        {
            "version": 1,
            "organization_id": str(request.organization_id),
            "export_id": started.export_id,
            "format": request.format,
            "complete": started.complete,
            "migration": MIGRATION,
            "tables": tables,
        },
        indent=1,
    ).encode()
