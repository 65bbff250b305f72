"""/storage/v1/bucket: buckets, as the caller may see and change them."""

import re
from typing import Any

from starlette.requests import Request

from local.api.callers import Caller
from local.api.database import Query, Row
from local.api.errors import storage_error
from local.api.http import read_object
from local.api.settings import SIZE, UNITS
from local.api.storage.files import Files
from local.api.storage.names import checked_bucket, no_bucket, refused, whole

SORTABLE = {"id", "name", "created_at", "updated_at"}
MIME_TYPE = re.compile(r"[\w.+-]+/([\w.+-]+|\*)\Z|\*/?\*?\Z", re.ASCII)
COLUMNS = """id, name, coalesce(owner_id, '') as owner, public, file_size_limit, allowed_mime_types,
  to_json(created_at) as created_at, to_json(updated_at) as updated_at"""


class Buckets:
    def __init__(self, files: Files) -> None:
        self._files = files

    async def answer(self, request: Request, caller: Caller, steps: list[str]) -> Any:  # noqa: PLR0911 - a table of routes
        """The body of the response; None for what is not served."""
        match (request.method, *steps):
            case ("GET",):
                return await self._list(request, caller)
            case ("POST",):
                return await self._create(request, caller)
            case ("GET", bucket):
                async with self._files.as_caller(request, caller, "bucket.get", read_only=True) as query:
                    return await _one(query, bucket)
            case ("PUT", bucket):
                return await self._change(request, caller, bucket)
            case ("DELETE", bucket):
                return await self._remove(request, caller, bucket)
            case ("POST", bucket, "empty"):
                return await self._empty(request, caller, bucket)
        return None

    async def _list(self, request: Request, caller: Caller) -> list[Row]:
        parameters = request.query_params
        column = parameters.get("sortColumn", "name")
        order = "desc" if parameters.get("sortOrder") == "desc" else "asc"
        limit, offset = whole(parameters.get("limit"), None), whole(parameters.get("offset"), 0)
        async with self._files.as_caller(request, caller, "bucket.list", read_only=True) as query:
            return await query(
                f"""select {COLUMNS} from storage.buckets where position(lower($1) in lower(name)) > 0 or $1 = ''
                    order by {column if column in SORTABLE else "name"} {order} limit $2 offset $3""",  # noqa: S608 - ours
                parameters.get("search", ""),
                limit,
                offset,
            )

    async def _create(self, request: Request, caller: Caller) -> dict[str, Any]:
        body = await read_object(request, refused)
        bucket = checked_bucket(body.get("id") or body.get("name"))
        name = checked_bucket(body.get("name") or bucket)
        values = (
            body.get("public") is True,
            _bytes(body.get("file_size_limit")),
            _types(body.get("allowed_mime_types")),
        )
        async with self._files.as_caller(request, caller, "bucket.create") as query:
            await query(
                """insert into storage.buckets (id, name, owner_id, public, file_size_limit, allowed_mime_types)
                   values ($1, $2, $3, $4, $5, $6)""",
                bucket,
                name,
                caller.claims.get("sub"),
                *values,
            )
        return {"name": bucket}

    async def _change(self, request: Request, caller: Caller, bucket: str) -> dict[str, Any]:
        body = await read_object(request, refused)
        changes: dict[str, Any] = {}
        if "public" in body:
            changes["public"] = body["public"] is True
        if "file_size_limit" in body:
            changes["file_size_limit"] = _bytes(body["file_size_limit"])
        if "allowed_mime_types" in body:
            changes["allowed_mime_types"] = _types(body["allowed_mime_types"])
        assigned = "".join(f"{name} = ${number}, " for number, name in enumerate(changes, 2))
        async with self._files.as_caller(request, caller, "bucket.update") as query:
            changed = await query(
                f"update storage.buckets set {assigned}updated_at = now() where id = $1 returning id",  # noqa: S608 - ours
                bucket,
                *changes.values(),
            )
        if not changed:
            raise no_bucket()
        return {"message": "Successfully updated"}

    async def _empty(self, request: Request, caller: Caller, bucket: str) -> dict[str, Any]:
        async with self._files.as_caller(request, caller, "bucket.empty") as query:
            await _one(query, bucket)
            removed = await query("delete from storage.objects where bucket_id = $1 returning version", bucket)
        await self._files.blobs.remove(row["version"] for row in removed)
        return {"message": "Successfully emptied"}

    async def _remove(self, request: Request, caller: Caller, bucket: str) -> dict[str, Any]:
        if await self._files.holds_objects(bucket):
            raise storage_error(409, "ResourceNotEmpty", "The bucket you tried to delete is not empty")
        async with self._files.as_caller(request, caller, "bucket.delete") as query:
            removed = await query("delete from storage.buckets where id = $1 returning id", bucket)
        if not removed:
            raise no_bucket()
        return {"message": "Successfully deleted"}


async def _one(query: Query, bucket: str) -> Row:
    rows = await query(f"select {COLUMNS} from storage.buckets where id = $1", bucket)  # noqa: S608 - ours
    if not rows:
        raise no_bucket()
    return rows[0]


def _bytes(value: object) -> int | None:
    """5242880, 5MB or 50MiB as a number of bytes."""
    if value is None or value == "":
        return None
    found = SIZE.match(str(value).strip())
    if not found:
        raise refused("Invalid file size format, hint: use 20GB / 20MB / 30KB / 3B")
    return int(found[1]) * UNITS[found[2].upper()]


def _types(value: object) -> list[str] | None:
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    types = [each for each in listed if isinstance(each, str) and MIME_TYPE.match(each)]
    wrong = [each for each in listed if each not in types] if isinstance(value, list) else listed
    if wrong:
        raise storage_error(415, "invalid_mime_type", f"mime type {wrong[0]} is not supported")
    return types
