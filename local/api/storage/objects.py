"""/storage/v1/object: files. The policies on storage.objects decide what the caller may do.

As in the hosted service an upload, copy or move is first tried as the caller and rolled back; when its bytes are
stored, the row is written as the service. Triggers see both.
"""

import re
import time
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from local.api.auth.users import is_uuid, iso
from local.api.callers import Caller
from local.api.database import Row
from local.api.errors import ApiError, storage_error
from local.api.http import json_response, read_object
from local.api.storage.delivery import deliver
from local.api.storage.files import SERVICE, Files, store
from local.api.storage.incoming import check_type, read_file
from local.api.storage.names import (
    Place,
    bucket_of,
    checked_bucket,
    checked_key,
    no_bucket,
    no_object,
    place_of,
    refused,
    whole,
)
from local.api.tokens import Claims, TokenError, Tokens

UPLOAD_URL_SECONDS = 2 * 3600
OBJECTS_PER_REQUEST = 1000
HIGHEST_LIMIT = 10_000
SORTABLE = ("name", "created_at", "updated_at", "last_accessed_at")
WITHOUT_ACCESS = "Either the object does not exist or you do not have access to it"
SECONDS = re.compile(r"[0-9]{1,10}\Z")
READS = {"GET", "HEAD"}


class Objects:
    def __init__(self, files: Files, tokens: Tokens) -> None:
        self._files, self._tokens = files, tokens

    @staticmethod
    def is_open(method: str, steps: list[str]) -> bool:
        """Routes that need no API key: public files, and addresses that carry their own permission."""
        match steps:
            case ["public" | "sign", *_] | ["info", "public", *_]:
                return method in READS
            case ["upload", "sign", *_]:
                return method == "PUT"
        return False

    async def respond(self, request: Request, caller: Caller, steps: list[str]) -> Response | None:  # noqa: C901, PLR0911
        """None for what is not served."""
        match (request.method, *steps):
            case ("POST", "list", *rest):
                return await self._list(request, caller, bucket_of(rest))
            case ("POST", "move"):
                return await self._move(request, caller)
            case ("POST", "copy"):
                return await self._copy(request, caller)
            case ("POST", "sign", bucket):
                return await self._sign_many(request, caller, checked_bucket(bucket))
            case ("POST", "sign", *rest):
                return await self._sign(request, caller, place_of(rest))
            case ("POST", "upload", "sign", *rest):
                return await self._sign_upload(request, caller, place_of(rest))
            case ("PUT", "upload", "sign", *rest):
                return await self._upload_signed(request, place_of(rest))
            case ("DELETE", bucket):
                return await self._remove_many(request, caller, checked_bucket(bucket))
            case ("DELETE", *rest):
                return await self._remove(request, caller, place_of(rest))
            case ("POST", *rest):
                upsert = request.headers.get("x-upsert") == "true"
                return await self._upload(request, caller, place_of(rest), "upload", upsert=upsert)
            case ("PUT", *rest):
                return await self._upload(request, caller, place_of(rest), "upload_update", upsert=True)
            case ("GET" | "HEAD", *rest):
                return await self._read(request, caller, rest)
        return None

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _read(self, request: Request, caller: Caller, steps: list[str]) -> Response:
        match steps:
            case ["public", *rest]:
                return await deliver(request, self._files.blobs, await self._public(place_of(rest)))
            case ["sign", *rest]:
                place = place_of(rest)
                self._check_token(request, place, "download")
                return await deliver(request, self._files.blobs, await self._any(place))
            case ["info", "public", *rest]:
                return _described(await self._public(place_of(rest)))
            case ["info", "authenticated", *rest] | ["info", *rest]:
                return _described(await self._visible(request, caller, place_of(rest), "info"))
            case ["authenticated", *rest] | rest:
                found = await self._visible(request, caller, place_of(rest), "get_authenticated")
                return await deliver(request, self._files.blobs, found)

    async def _visible(self, request: Request, caller: Caller, place: Place, operation: str) -> Row:
        rows = await self._files.visible_object(request, caller, f"object.{operation}", place)
        if not rows:
            raise no_object()
        return rows[0]

    async def _any(self, place: Place) -> Row:
        found = await self._files.any_object(place)
        if not found:
            raise no_object()
        return found

    async def _public(self, place: Place) -> Row:
        found = await self._files.public_object(place)
        if not found:
            raise no_bucket()
        if found["id"] is None:
            raise no_object()
        return found

    async def _list(self, request: Request, caller: Caller, bucket: str) -> Response:
        body = await read_object(request, refused)
        prefix, search = body.get("prefix") or "", body.get("search") or ""
        if not isinstance(prefix, str) or not isinstance(search, str):
            raise refused("prefix and search must be text")
        folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        sort_by = body.get("sortBy") if isinstance(body.get("sortBy"), dict) else {}
        column = (sort_by or {}).get("column") or "name"
        if column not in SORTABLE:
            raise refused(f"Cannot sort by '{column}'; use one of {', '.join(SORTABLE)}")
        order = "desc" if (sort_by or {}).get("order") == "desc" else "asc"
        limit = min(whole(body.get("limit"), 100) or HIGHEST_LIMIT, HIGHEST_LIMIT)
        offset = whole(body.get("offset"), 0)
        async with self._files.as_caller(request, caller, "object.list", read_only=True) as query:
            rows = await query(
                f"""with inside as (
                  select substr(name, length($2) + 1) as rest, * from storage.objects
                  where bucket_id = $1 and starts_with(name, $2)
                    and starts_with(lower(substr(name, length($2) + 1)), lower($3))
                ), entries as (
                  select distinct split_part(rest, '/', 1) as name, null::uuid as id, null::timestamptz as updated_at,
                    null::timestamptz as created_at, null::timestamptz as last_accessed_at, null::jsonb as metadata
                  from inside where rest like '%/%'
                  union all
                  select rest, id, updated_at, created_at, last_accessed_at, metadata
                  from inside where rest not like '%/%' and rest <> ''
                )
                select * from entries order by id is not null, {column} {order}, name limit $4 offset $5""",  # noqa: S608 - ours
                bucket,
                folder,
                search,
                limit,
                offset,
            )
        times = ("updated_at", "created_at", "last_accessed_at")
        return json_response([row | {name: iso(row[name]) for name in times} for row in rows])

    # Writing ---------------------------------------------------------------------------------------------------------

    async def _upload(
        self, request: Request, caller: Caller, place: Place, operation: str, *, upsert: bool, owner: Any = None
    ) -> Response:
        bucket = await self._files.bucket(place.bucket)
        limit = min(bucket["file_size_limit"] or self._files.size_limit, self._files.size_limit)
        owner = owner if caller is SERVICE else caller.claims.get("sub")
        file = await read_file(request, limit)
        check_type(file.type, bucket["allowed_mime_types"])
        # A caller without permission is refused before the bytes are read.
        expected, details = {"mimetype": file.type, "contentLength": file.length}, file.user_metadata
        await self._try(
            request, caller, place, operation, owner=owner, upsert=upsert, metadata=expected, details=details
        )
        blob = await self._files.blobs.write(file.chunks, limit)
        metadata = {
            "eTag": blob.etag,
            "size": blob.size,
            "mimetype": file.type,
            "cacheControl": file.cache_control,
            "lastModified": _now(),
            "contentLength": blob.size,
            "httpStatusCode": 200,
        }
        stored = await self._complete(
            request, place, operation, blob.version, owner=owner, upsert=upsert, metadata=metadata, details=details
        )
        return json_response({"Id": stored, "Key": str(place)})

    async def _try(
        self,
        request: Request,
        caller: Caller,
        place: Place,
        operation: str,
        *,
        owner: Any,
        upsert: bool,
        metadata: dict[str, Any] | None,
        details: dict[str, Any] | None,
    ) -> None:
        """Whether policies and triggers allow it, without storing anything."""
        async with self._files.as_caller(request, caller, f"object.{operation}", commit=False) as query:
            await store(query, place, owner=owner, upsert=upsert, version="1", metadata=metadata, user_metadata=details)

    async def _complete(
        self,
        request: Request,
        place: Place,
        operation: str,
        version: str,
        *,
        owner: Any,
        upsert: bool,
        metadata: dict[str, Any] | None,
        details: dict[str, Any] | None,
    ) -> str:
        """The bytes are stored as `version`: write the row, and remove the bytes that it replaces."""
        try:
            async with self._files.as_service(request, f"object.{operation}") as query:
                before = await query(
                    "select version from storage.objects where bucket_id = $1 and name = $2 for update",
                    place.bucket,
                    place.name,
                )
                stored = await store(
                    query, place, owner=owner, upsert=upsert, version=version, metadata=metadata, user_metadata=details
                )
        except BaseException:
            await self._files.blobs.remove([version])
            raise
        await self._files.blobs.remove(row["version"] for row in before)
        return stored

    async def _move(self, request: Request, caller: Caller) -> Response:
        source, target = await _route(request)
        await self._files.bucket(target.bucket)
        statement = """update storage.objects
          set bucket_id = $3, name = $4, owner_id = $5, owner = $6, updated_at = now()
          where bucket_id = $1 and name = $2 returning id"""
        owner = caller.claims.get("sub")
        uuid = owner if is_uuid(owner) else None
        values = (source.bucket, source.name, target.bucket, target.name, owner, uuid)
        await self._visible(request, caller, source, "move")
        async with self._files.as_caller(request, caller, "object.move", commit=False) as query:
            if not await query(statement, *values):
                raise no_object()
        async with self._files.as_service(request, "object.move") as query:
            moved = await query(statement, *values)
        if not moved:
            raise no_object()
        return json_response({"message": "Successfully moved", "Id": moved[0]["id"], "Key": str(target)})

    async def _copy(self, request: Request, caller: Caller) -> Response:
        source, target = await _route(request)
        await self._files.bucket(target.bucket)
        found = await self._visible(request, caller, source, "copy")
        upsert = request.headers.get("x-upsert") == "true"
        owner, metadata, details = caller.claims.get("sub"), found["metadata"], found["user_metadata"]
        await self._try(request, caller, target, "copy", owner=owner, upsert=upsert, metadata=metadata, details=details)
        try:
            version = await self._files.blobs.copy(found["version"])
        except OSError:
            raise no_object() from None
        stored = await self._complete(
            request, target, "copy", version, owner=owner, upsert=upsert, metadata=metadata, details=details
        )
        return json_response({"Id": stored, "Key": str(target)})

    async def _removed(
        self, request: Request, caller: Caller, operation: str, bucket: str, names: list[str]
    ) -> list[Row]:
        async with self._files.as_caller(request, caller, f"object.{operation}") as query:
            removed = await query(
                "delete from storage.objects where bucket_id = $1 and name = any($2::text[]) returning *", bucket, names
            )
        await self._files.blobs.remove(row["version"] for row in removed)
        return removed

    async def _remove(self, request: Request, caller: Caller, place: Place) -> Response:
        if not await self._removed(request, caller, "delete", place.bucket, [place.name]):
            raise no_object()
        return json_response({"message": "Successfully deleted"})

    async def _remove_many(self, request: Request, caller: Caller, bucket: str) -> Response:
        body = await read_object(request, refused)
        names = _names(body.get("prefixes"), "prefixes")
        removed = await self._removed(request, caller, "delete_many", bucket, names)
        times = ("updated_at", "created_at", "last_accessed_at")
        return json_response([row | {name: iso(row[name]) for name in times} for row in removed])

    # Signing ---------------------------------------------------------------------------------------------------------

    async def _sign(self, request: Request, caller: Caller, place: Place) -> Response:
        seconds = _seconds(await read_object(request, refused))
        await self._visible(request, caller, place, "sign")
        return json_response({"signedURL": self._signed_url(place, seconds)})

    async def _sign_many(self, request: Request, caller: Caller, bucket: str) -> Response:
        body = await read_object(request, refused)
        seconds = _seconds(body)
        paths = _names(body.get("paths"), "paths")
        async with self._files.as_caller(request, caller, "object.sign_many", read_only=True) as query:
            rows = await query(
                "select name from storage.objects where bucket_id = $1 and name = any($2::text[])", bucket, paths
            )
        visible = {row["name"] for row in rows}
        return json_response(
            [
                {"error": None, "path": name, "signedURL": self._signed_url(Place(bucket, name), seconds)}
                if name in visible
                else {"error": WITHOUT_ACCESS, "path": name, "signedURL": None}
                for name in paths
            ]
        )

    def _signed_url(self, place: Place, seconds: int) -> str:
        return f"/object/sign/{place}?token={self._token(place, 'download', seconds)}"

    async def _sign_upload(self, request: Request, caller: Caller, place: Place) -> Response:
        upsert = request.headers.get("x-upsert") == "true"
        owner = caller.claims.get("sub")
        await self._files.bucket(place.bucket)
        expected = {"mimetype": request.headers.get("content-type")}
        await self._try(
            request, caller, place, "sign_upload_url", owner=owner, upsert=upsert, metadata=expected, details=None
        )
        token = self._token(place, "upload", UPLOAD_URL_SECONDS, owner=owner, upsert=upsert)
        return json_response({"url": f"/object/upload/sign/{place}?token={token}", "token": token})

    async def _upload_signed(self, request: Request, place: Place) -> Response:
        claims = self._check_token(request, place, "upload")
        upsert = claims.get("upsert") is True
        return await self._upload(request, SERVICE, place, "upload_signed", upsert=upsert, owner=claims.get("owner"))

    def _token(self, place: Place, scope: str, seconds: int, **more: Any) -> str:
        now = int(time.time())
        return self._tokens.sign({"url": str(place), "scope": scope, "iat": now, "exp": now + seconds, **more})

    def _check_token(self, request: Request, place: Place, scope: Literal["download", "upload"]) -> Claims:
        token = request.query_params.get("token")
        if not token:
            raise _bad_signature("querystring must have required property 'token'")
        try:
            claims = self._tokens.verify(token, skew=0)
        except TokenError as error:
            expired = error.reason == "expired"
            message = '"exp" claim timestamp check failed' if expired else "signature verification failed"
            raise storage_error(400, "InvalidJWT", message) from None
        if claims.get("scope") != scope:
            raise _bad_signature(f"Token is not scoped for {scope}")
        if claims.get("url") != str(place):
            raise _bad_signature("Invalid signature")
        return claims


def _bad_signature(message: str) -> ApiError:
    return storage_error(400, "InvalidSignature", message)


def _described(row: Row) -> Response:
    metadata = row["metadata"] or {}
    return json_response(
        {
            "id": row["id"],
            "name": row["name"],
            "version": row["version"],
            "bucket_id": row["bucket_id"],
            "size": metadata.get("size"),
            "content_type": metadata.get("mimetype"),
            "cache_control": metadata.get("cacheControl"),
            "etag": metadata.get("eTag"),
            "metadata": row["user_metadata"] or {},
            "last_modified": iso(row["updated_at"]),
            "created_at": iso(row["created_at"]),
        }
    )


async def _route(request: Request) -> tuple[Place, Place]:
    body = await read_object(request, refused)
    source = Place(checked_bucket(body.get("bucketId")), checked_key(body.get("sourceKey")))
    bucket = body.get("destinationBucket") or source.bucket
    return source, Place(checked_bucket(bucket), checked_key(body.get("destinationKey")))


def _names(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise refused(f"{what} must be a list of object names")
    if len(value) > OBJECTS_PER_REQUEST:
        raise refused(f"Bulk object requests are limited to {OBJECTS_PER_REQUEST} objects per request.")
    return value


def _seconds(body: dict[str, Any]) -> int:
    value = body.get("expiresIn")
    # supabase-py sends it as text.
    count = int(value) if isinstance(value, int | str) and SECONDS.match(str(value)) else 0
    if 0 < count < 2**31:
        return count
    raise refused(f"expiresIn is {value!r}, not a number of seconds")


def _now() -> str:
    moment = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1000):03}Z"
