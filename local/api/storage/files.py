"""What buckets and objects share: rows as the caller or as the service, and the bytes beside them."""

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb
from starlette.requests import Request

from local.api.auth.users import is_uuid
from local.api.callers import Caller
from local.api.database import Database, Query, Row, literal
from local.api.http import raw_path
from local.api.storage.blobs import Blobs
from local.api.storage.names import Place, no_bucket

SERVICE = Caller("service_role", {"role": "service_role"})


def _settings(request: Request, operation: str) -> dict[str, str]:
    return {
        "storage.operation": f"storage.{operation}",
        "storage.allow_delete_query": "true",
        "request.method": request.method,
        "request.path": raw_path(request),
        "request.headers": json.dumps(dict(request.headers)),
    }


class Files:
    def __init__(self, database: Database, directory: Path, size_limit: int) -> None:
        self._database, self.size_limit = database, size_limit
        self.blobs = Blobs(directory)

    def as_caller(
        self, request: Request, caller: Caller, operation: str, *, read_only: bool = False, commit: bool = True
    ) -> AbstractAsyncContextManager[Query]:
        """Policies may read the request too, for instance which organization it names."""
        settings = _settings(request, operation)
        return self._database.as_caller(caller, settings, read_only=read_only, commit=commit)

    async def visible_object(self, request: Request, caller: Caller, operation: str, place: Place) -> list[Row]:
        where = f"bucket_id = {literal(place.bucket)} and name = {literal(place.name)}"
        select = f"select * from storage.objects where {where}"  # noqa: S608 - quoted
        return await self._database.read_as_caller(caller, _settings(request, operation), select)

    def as_service(self, request: Request, operation: str) -> AbstractAsyncContextManager[Query]:
        """Past the policies, for work that the caller was allowed to do."""
        return self.as_caller(request, SERVICE, operation)

    async def bucket(self, bucket: str) -> Row:
        rows = await self._database.as_storage(
            "select public, file_size_limit, allowed_mime_types from storage.buckets where id = $1", bucket
        )
        if not rows:
            raise no_bucket()
        return rows[0]

    async def holds_objects(self, bucket: str) -> bool:
        [row] = await self._database.as_storage(
            "select exists (select from storage.objects where bucket_id = $1) as found", bucket
        )
        return bool(row["found"])

    async def any_object(self, place: Place) -> Row | None:
        """Past the policies: for public buckets, and for addresses that carry their own permission."""
        rows = await self._database.as_storage(
            "select * from storage.objects where bucket_id = $1 and name = $2", place.bucket, place.name
        )
        return rows[0] if rows else None

    async def public_object(self, place: Place) -> Row | None:
        """None without such a public bucket; a row without id where the bucket has no such object."""
        rows = await self._database.as_storage(
            """select o.* from storage.buckets b left join storage.objects o on o.bucket_id = b.id and o.name = $2
               where b.id = $1 and b.public""",
            place.bucket,
            place.name,
        )
        return rows[0] if rows else None


async def store(
    query: Query,
    place: Place,
    *,
    owner: Any,
    upsert: bool,
    version: str,
    metadata: dict[str, Any] | None,
    user_metadata: dict[str, Any] | None,
) -> str:
    """Write the row of an object; returns its id. A new row needs no more than permission to insert."""
    new = str(uuid4())
    values = (
        place.bucket,
        place.name,
        version,
        Jsonb(metadata) if metadata is not None else None,
        Jsonb(user_metadata) if user_metadata is not None else None,
        str(owner) if owner is not None else None,
        str(owner) if is_uuid(owner) else None,
        new,
    )
    changed = """on conflict (bucket_id, name) do update set version = $3, metadata = $4, user_metadata = $5,
      owner_id = $6, owner = $7, updated_at = now() returning id"""
    rows = await query(
        f"""insert into storage.objects (bucket_id, name, version, metadata, user_metadata, owner_id, owner, id)
            values ($1, $2, $3, $4, $5, $6, $7, $8) {changed if upsert else ""}""",  # noqa: S608 - ours
        *values,
    )
    return str(rows[0]["id"]) if rows else new
