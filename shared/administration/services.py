"""Supabase's Auth admin and Storage, through `supabase`'s client with the project's secret key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from shared.app import outgoing
from shared.app.libraries import load_modules
from shared.errors import RETRY, ApiError, ErrorResponse, register
from shared.settings import Settings

if TYPE_CHECKING:
    from supabase import AsyncClient

TIMEOUT_SECONDS = 10.0
CONNECTIONS = 8
BATCH = 1000


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator["AsyncClient"]:
    if not settings.secret_keys:
        raise ApiError(
            501,
            "no_secret_key",
            "SUPABASE_SECRET_KEY is not configured",
            hint="Set SUPABASE_SECRET_KEY, see docs/deployment.md.",
        )
    await load_modules("supabase", "httpx")
    import httpx  # noqa: PLC0415 - few functions need these libraries

    import supabase  # noqa: PLC0415 - as above

    _register()
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with await outgoing.client(timeout=TIMEOUT_SECONDS, limits=limits) as http:
        options = supabase.AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield supabase.AsyncClient(settings.url, next(iter(settings.secret_keys.values())), options)


async def ban(client: "AsyncClient", user_id: str, seconds: int) -> None:
    """Refuse this user new tokens for so long; 0 lets them sign in again."""
    await client.auth.admin.update_user_by_id(user_id, {"ban_duration": f"{seconds}s" if seconds else "none"})


async def delete_account(client: "AsyncClient", user_id: str) -> None:
    """Delete the user's avatars and their account; that it is deleted already is no error.

    Auth deletes softly: the id stays, without address, password or identity, for the rows that refer to it.
    """
    from supabase import AuthApiError  # noqa: PLC0415 - loaded by services()

    if avatars := [name async for name in files(client, "avatars", user_id)]:
        await remove(client, "avatars", avatars)
    try:
        await client.auth.admin.delete_user(user_id, should_soft_delete=True)
    except AuthApiError as error:
        if error.status != 404:  # noqa: PLR2004 - not found
            raise


async def files(client: "AsyncClient", bucket: str, folder: str) -> AsyncIterator[str]:
    """The paths of all files in a folder of a bucket and below."""
    offset = 0
    while entries := await client.storage.from_(bucket).list(folder, {"limit": BATCH, "offset": offset}):
        for entry in entries:
            path = f"{folder}/{entry['name']}"
            if entry["id"] is None:  # a folder
                async for below in files(client, bucket, path):
                    yield below
            else:
                yield path
        offset += len(entries)


async def remove(client: "AsyncClient", bucket: str, paths: list[str]) -> None:
    for first in range(0, len(paths), BATCH):
        await client.storage.from_(bucket).remove(paths[first : first + BATCH])


async def sign(client: "AsyncClient", bucket: str, paths: list[str], seconds: int) -> list[str]:
    """URLs from which anyone who has them may read these files, for so long."""
    signed: list[str] = []
    for first in range(0, len(paths), BATCH):
        for each in await client.storage.from_(bucket).create_signed_urls(paths[first : first + BATCH], seconds):
            if each["error"] or not each["signedURL"]:
                raise ApiError.of(_unavailable("storage_unavailable", each["error"]))
            signed.append(each["signedURL"])
    return signed


def _register() -> None:
    import httpx  # noqa: PLC0415 - loaded by services()

    from supabase import AuthError, StorageException  # noqa: PLC0415 - as above

    register(AuthError, lambda error: _unavailable("auth_unavailable", error))
    register(StorageException, lambda error: _unavailable("storage_unavailable", error))
    register(httpx.HTTPError, lambda error: _unavailable("storage_unavailable", type(error).__qualname__))


def _unavailable(code: str, found: Any) -> ErrorResponse:
    return ErrorResponse(
        503,
        code,
        "A service of Supabase did not complete the request",
        details=str(found)[:300],
        hint="Try again in a moment.",
        headers=RETRY,
    )
