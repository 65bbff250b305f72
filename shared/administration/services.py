"""What we ask of Supabase's own services, Auth and Storage, with the project's secret key."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from shared.errors import RETRY, ApiError
from shared.settings import Settings

if TYPE_CHECKING:
    import httpx

ANSWER_SECONDS = 10.0
AT_ONCE = 8
LISTED_AT_ONCE = 1000
SENT_AT_ONCE = 64 * 1024


class ServiceError(ApiError):
    """A service did not do what it was asked; `told` is what it said."""

    def __init__(self, service: str, told: str) -> None:
        super().__init__(
            503,
            f"{service}_unavailable",
            f"The {service} service did not do its part",
            details=told,
            hint="Try again in a moment.",
            headers=RETRY,
        )
        self.told = told


class Services:
    def __init__(self, client: "httpx.AsyncClient") -> None:
        self._client = client
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def ban(self, user_id: str, seconds: int) -> None:
        """Refuse this user new tokens for so long; 0 lets them sign in again."""
        await self._ask("auth", "PUT", f"admin/users/{user_id}", {"ban_duration": f"{seconds}s" if seconds else "none"})

    async def forget(self, user_id: str) -> None:
        """Remove the user's pictures, and their account; who was forgotten before is no error.

        The account is deleted softly: its id stays, without address, password or identity, for what refers to it.
        """
        if pictures := [name async for name in self.files("avatars", f"{user_id}/")]:
            await self.remove("avatars", pictures)
        await self._ask("auth", "DELETE", f"admin/users/{user_id}", {"should_soft_delete": True}, allowed=(404,))

    async def put(self, bucket: str, path: str, content: bytes, content_type: str) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            # Given at once, it would be copied by every layer on its way.
            for first in range(0, len(content), SENT_AT_ONCE):
                yield content[first : first + SENT_AT_ONCE]

        headers = {"content-type": content_type, "content-length": str(len(content))}
        await self._send("storage", "POST", f"object/{bucket}/{path}", content=pieces(), headers=headers)

    async def sign(self, bucket: str, paths: list[str], seconds: int) -> list[str]:
        """Addresses at which anybody who has them reads these files, for so long."""
        signed: list[str] = []
        for first in range(0, len(paths), LISTED_AT_ONCE):
            asked = {"expiresIn": seconds, "paths": paths[first : first + LISTED_AT_ONCE]}
            told = await self._ask("storage", "POST", f"object/sign/{bucket}", asked)
            if wrong := [each["error"] for each in told if not each["signedURL"]]:
                raise ServiceError("storage", str(wrong[0]))
            signed += [f"{str(self._client.base_url).rstrip('/')}/storage/v1{each['signedURL']}" for each in told]
        return signed

    async def files(self, bucket: str, folder: str) -> AsyncIterator[str]:
        """The paths of all files in a folder of a bucket and below."""
        offset = 0
        while entries := await self._ask(
            "storage", "POST", f"object/list/{bucket}", {"prefix": folder, "limit": LISTED_AT_ONCE, "offset": offset}
        ):
            for entry in entries:
                if entry["id"] is None:
                    async for below in self.files(bucket, f"{folder}{entry['name']}/"):
                        yield below
                else:
                    yield folder + entry["name"]
            offset += len(entries)

    async def remove(self, bucket: str, paths: list[str]) -> None:
        for first in range(0, len(paths), LISTED_AT_ONCE):
            await self._ask(
                "storage", "DELETE", f"object/{bucket}", {"prefixes": paths[first : first + LISTED_AT_ONCE]}
            )

    async def _ask(self, service: str, method: str, path: str, body: Any, *, allowed: Iterable[int] = ()) -> Any:
        return await self._send(service, method, path, json=body, allowed=allowed)

    async def _send(self, service: str, method: str, path: str, *, allowed: Iterable[int] = (), **content: Any) -> Any:
        import httpx  # noqa: PLC0415 - see services()

        async with self._slots:
            try:
                answer = await self._client.request(method, f"/{service}/v1/{path}", **content)
            except httpx.HTTPError as problem:
                raise ServiceError(service, type(problem).__qualname__) from None
        if answer.is_error and answer.status_code not in allowed:
            raise ServiceError(service, f"{answer.status_code} {_said(answer)}"[:300])
        try:
            return answer.json()
        except ValueError:
            return None


def _said(answer: "httpx.Response") -> str:
    try:
        found: Mapping[str, Any] = answer.json()
        return str(found.get("msg") or found.get("message") or found.get("error"))
    except (ValueError, AttributeError):
        return answer.reason_phrase


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[Services]:
    import httpx  # noqa: PLC0415 - costs as much as everything else together, and few functions need it

    if not settings.secret_keys:
        raise ApiError(
            501,
            "no_secret_key",
            "These functions hold no secret key",
            hint="Set SUPABASE_SECRET_KEY, see docs/deployment.md.",
        )
    key = next(iter(settings.secret_keys.values()))
    headers = {"apikey": key, "authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=settings.url, headers=headers, timeout=ANSWER_SECONDS) as client:
        yield Services(client)
