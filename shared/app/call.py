"""What a function works with: one request whose caller is known and whose body is parsed."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json

from shared.app.libraries import CONNECTING, load_modules
from shared.auth.caller import Caller
from shared.database.session import ReadLines, Session, Transaction
from shared.errors import ApiError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.billing.client import Stripe
    from shared.flags import Flags

Body = TypeVar("Body")
Given = TypeVar("Given")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Result(Generic[Given]):
    """JSON as the database wrote it. It is sent unparsed; tests validate it against `Given`.

    `status` overrides the one that the function declares.
    """

    json: str | bytes
    replayed: bool = False
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    """`raw_body` is the body as it was sent, `path_value` the text in place of the {…} that the path ends in.

    `ending` is set when the process is about to stop: a job that waits for work ends then.
    """

    body: Body
    caller: Caller
    settings: Settings
    headers: Mapping[bytes, bytes]
    raw_body: bytes
    path_value: str
    session: Session
    flags: "Callable[[], Flags]"
    stripe: "Callable[[], Stripe]"
    ending: asyncio.Event

    async def run(self, operation: str, payload: Any) -> Result[Any]:
        """Run `operation(jsonb)` in the database as the caller, once per Idempotency-Key: one round trip.

        The payload is the body or a part of it, or JSON as a string.
        """
        return Result(*await self.session.run(operation, payload if type(payload) is str else as_json(payload)))

    async def load(self, operation: str, payload: Any, shape: type[Parsed]) -> Parsed:
        """Run `operation(jsonb)` and parse what it returns."""
        parsed: Parsed = _parser(cast("Any", shape)).validate_json((await self.run(operation, payload)).json)
        return parsed

    async def load_stripe(self, *modules: str) -> None:
        """Import these modules, which bring Stripe's library, and make the client with its certificates, in a thread.

        Without a key, `stripe` raises where the function needs the client.
        """
        await load_modules(*modules, CONNECTING)
        with suppress(ApiError):
            await asyncio.to_thread(self.stripe)

    def snapshot(self) -> AbstractAsyncContextManager[ReadLines]:
        """Read many rows of one snapshot: an operation opens the cursor `exported`."""
        return self.session.snapshot()


@dataclass(frozen=True, slots=True)
class Upload(Call[Body]):
    """A call whose body is a file. `body` is the parsed query string."""

    file: IO[bytes]

    def transaction(self, operation: str) -> AbstractAsyncContextManager[Transaction]:
        """Run several operations as the caller, all or none; psycopg.Rollback undoes them."""
        return self.session.transaction(operation)


def as_json(value: Any) -> str:
    return (
        value.model_dump_json(exclude_unset=True)
        if isinstance(value, BaseModel)
        else to_json(value, inf_nan_mode="null").decode()
    )


@cache
def _parser(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
