"""The storage service at /storage/v1, which answers as the storage API of hosted Supabase does."""

import psycopg
from starlette.requests import Request
from starlette.responses import Response

from local.api.callers import Caller, Callers
from local.api.database import Database
from local.api.errors import HOSTED, ApiError, storage_error
from local.api.http import json_response
from local.api.settings import Settings
from local.api.storage.buckets import Buckets
from local.api.storage.files import Files
from local.api.storage.names import PATH, steps_of
from local.api.storage.objects import Objects
from local.api.tokens import TokenError, Tokens

NOT_SERVED = {"upload", "render", "s3", "iceberg", "vector", "cdn"}
# Never used: open routes ask for no caller.
ANONYMOUS = Caller("anon", {"role": "anon"})


class Storage:
    def __init__(self, database: Database, tokens: Tokens, callers: Callers, settings: Settings) -> None:
        files = Files(database, settings.storage_directory, settings.file_size_limit)
        self._callers = callers
        self._buckets = Buckets(files)
        self._objects = Objects(files, tokens)

    async def respond(self, request: Request) -> Response:
        service, *steps = steps_of(request)
        is_open = service == "status" or (service == "object" and Objects.is_open(request.method, steps))
        caller = ANONYMOUS if is_open else self._callers.caller(request)
        if service in NOT_SERVED or steps[:1] == ["list-v2"]:
            message = f"/storage/v1/{service} is not part of the local API. {HOSTED}"
            raise storage_error(501, "not_served", message)
        if service == "status":
            return json_response({})
        if service == "bucket" and (answer := await self._buckets.answer(request, caller, steps)) is not None:
            return json_response(answer)
        if service == "object" and (response := await self._objects.respond(request, caller, steps)) is not None:
            return response
        where = PATH + "/".join([service, *steps])
        raise storage_error(404, "not_found", f"Route {request.method}:{where[:200]} not found")

    def failure(self, error: Exception) -> ApiError | None:  # noqa: PLR0911 - a table of errors
        """The response to an error of tokens or of the database."""
        if isinstance(error, TokenError):
            return storage_error(403, "Unauthorized", error.message)
        if not isinstance(error, psycopg.Error):
            return None
        message = error.diag.message_primary or str(error)
        match error.sqlstate:
            case "42501":
                return storage_error(403, "Unauthorized", message)
            case "23505":
                return storage_error(409, "Duplicate", "The resource already exists")
            case "23503":
                return storage_error(404, "not_found", "The related resource does not exist")
        if error.sqlstate is None or error.sqlstate.startswith(("22", "23", "P0001", "PT4")):
            return storage_error(400, "InvalidRequest", message)
        print(f"storage: {message} {error.diag.message_detail or ''}", flush=True)
        if error.sqlstate == "57014":
            return storage_error(544, "DatabaseTimeout", "The connection to the database timed out")
        return storage_error(500, "DatabaseError", message)
