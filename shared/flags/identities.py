"""The identity of a caller: the database knows the users, and only our own servers may send a context."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from shared.auth.caller import Caller
from shared.database.session import Session
from shared.errors import RETRY, ApiError, error_response
from shared.flags.context import Context

# A suspension, another role or tier takes effect within a second, as a change of a flag does.
FRESH_SECONDS = 1.0
# From this age on, the next request starts a refresh in the background, so users who send many never wait for one.
REFRESH_SECONDS = 0.5
# A request waits this long for the refresh of a known identity, then gets the one that is known.
PATIENCE_SECONDS = 0.25
# A request waits this long for an identity that is not known yet.
FIRST_SECONDS = 2.0
# How long a known identity serves while the database is unavailable.
STALE_SECONDS = 600.0
# Some 500 bytes each.
REMEMBERED = 10_000
# While the database is unavailable, it gets one request for an identity in this time.
RETRY_SECONDS = 1.0

Load = Callable[[], Awaitable[str]]


@dataclass(slots=True)
class _Known:
    serialized: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    loaded: float = float("-inf")
    loading: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class Identity:
    """`serialized` is empty for a caller who is no user."""

    serialized: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stale: bool = False


NO_USER = Identity()


class Identities:
    """The identities of the users who called last: for a second, and for ten minutes without the database."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], _Known] = {}
        self._unavailable = False
        self._tried = float("-inf")

    async def of(self, caller: Caller, session: Session, headers: Mapping[bytes, bytes]) -> Identity:
        if caller.mode != "user":
            return NO_USER

        async def load() -> str:
            return (await session.run("private.flag_identity", "{}", counts=False))[0]

        # The claims hold the user and the organization of the token; the header may name another organization.
        return await self.get((caller.claims, headers.get(b"x-org-id", b"").lower()), load)

    async def get(self, key: tuple[str, bytes], load: Load) -> Identity:
        known = self._known.get(key)
        if known is None:
            known = self._remember(key)
        age = time.monotonic() - known.loaded
        if age >= REFRESH_SECONDS:
            await self._refresh(key, known, load, age)
            age = time.monotonic() - known.loaded
        if age >= STALE_SECONDS:
            raise ApiError(
                503,
                "identity_unavailable",
                "The database cannot confirm who you are at present",
                hint="Use your default values.",
                headers=RETRY,
            )
        return Identity(known.serialized, known.attributes, stale=age >= FRESH_SECONDS)

    def _remember(self, key: tuple[str, bytes]) -> _Known:
        while len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = known = _Known()
        return known

    async def _refresh(self, key: tuple[str, bytes], known: _Known, load: Load, age: float) -> None:
        """Load the identity again. Only a request that could not be answered otherwise waits for the database."""
        usable = age < STALE_SECONDS
        now = time.monotonic()
        if known.loading is None:
            if self._unavailable and usable and now - self._tried < RETRY_SECONDS:
                return
            self._tried = now
            known.loading = asyncio.create_task(self._load(key, known, load))
            known.loading.add_done_callback(_retrieve)
        if age < FRESH_SECONDS or (self._unavailable and usable):
            return
        loading = known.loading
        await asyncio.wait([loading], timeout=PATIENCE_SECONDS if usable else FIRST_SECONDS)
        if loading.done():
            loading.result()  # raises what the database refused
        else:
            self._unavailable = True

    async def _load(self, key: tuple[str, bytes], known: _Known, load: Load) -> None:
        began = time.monotonic()
        try:
            serialized = await load()
        except Exception as error:
            if error_response(error).status == HTTPStatus.SERVICE_UNAVAILABLE:
                self._unavailable = True
                if time.monotonic() - known.loaded < STALE_SECONDS:
                    return
            # The database refused the caller, who may be suspended: nothing is served from memory.
            self._known.pop(key, None)
            raise
        else:
            known.serialized, known.attributes, known.loaded = serialized, json.loads(serialized), began
            self._unavailable = False
            named = key[1].decode()
            if self._known.pop(key, None) and named in {"", known.attributes.get("organization_id")}:
                self._known[key] = known  # at the end, because the first are dropped first
            # Made-up organizations of one user would push out the identities of all others.
        finally:
            known.loading = None


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Retrieve the exception, so that a failed background refresh is not reported as unexpected."""
    if not task.cancelled():
        task.exception()


def context_of(caller: Caller, attributes: Mapping[str, Any], identity: Identity) -> Context:
    match caller.mode:
        case "user":
            return Context.identified(identity.attributes, attributes)
        case "secret":
            return Context(attributes)
    return Context.anonymous(attributes)
