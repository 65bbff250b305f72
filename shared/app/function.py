"""What a function is: who may call it, what it takes, what it gives, and one coroutine that does it."""

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter

from shared.auth.callers import Caller
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.billing.client import Stripe
    from shared.flags import Flags

CALLER = re.compile(r"user|anyone|(publishable|secret)(:\w+)?")

Body = TypeVar("Body")
Given = TypeVar("Given")


class Strict(BaseModel):
    """What a function takes. A field that nobody would read is an error, not a silence."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Shape(BaseModel):
    """What a function gives: described and tested, never built while serving."""

    model_config = ConfigDict(defer_build=True)


@dataclass(frozen=True, slots=True)
class Answered(Generic[Given]):
    """JSON as the database wrote it. It is passed on unread; tests hold it against `Given`.

    `status` is the declared one unless another is given.
    """

    json: str | bytes
    replayed: bool = False
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


# Runs an operation within a transaction; its answer, read.
Step = Callable[[str, Any], Awaitable[Any]]
# Opens a cursor by an operation with a payload of JSON: its lines.
Lines = Callable[[str, str], AsyncIterator[str]]


class Call(Generic[Body]):
    """One request, after it was parsed and its caller is known.

    `place` is what stood for the {…} at the end of the address, `sent` the body before it was parsed.
    """

    __slots__ = (
        "_run",
        "body",
        "caller",
        "file",
        "flags",
        "headers",
        "place",
        "sent",
        "settings",
        "snapshot",
        "stripe",
        "transaction",
    )

    # A function that takes a file has it here, and in `body` what the address said. In its transaction several
    # operations run as the caller, all or none: psycopg.Rollback undoes them.
    file: IO[bytes]
    transaction: Callable[[], AbstractAsyncContextManager[Step]]
    # All others have this, to read much as of one moment: an operation opens the cursor `exported`.
    snapshot: Callable[[], AbstractAsyncContextManager[Lines]]

    def __init__(
        self,
        body: Body,
        caller: Caller,
        settings: Settings,
        run: Callable[[str, Any], Awaitable[Answered[Any]]],
        flags: Callable[[], "Flags"],
        stripe: Callable[[], "Stripe"],
        *,
        headers: Mapping[bytes, bytes],
        sent: bytes,
        place: str,
    ) -> None:
        self.body = body
        self.caller = caller
        self.settings = settings
        self._run = run
        self.flags = flags
        self.stripe = stripe
        self.headers = headers
        self.sent = sent
        self.place = place

    async def run(self, operation: str, payload: Any) -> Answered[Any]:
        """Run `operation(jsonb)` in the database as the caller, once per Idempotency-Key: one round trip.

        The payload is the body or a part of it; a text is JSON already.
        """
        return await self._run(operation, payload)


Work = Callable[[Call[Any]], Awaitable[Answered[Any]]]
# A file is answered in lines, everything else at once.
FileWork = Callable[[Call[Any]], AsyncIterator[BaseModel]]
# Raises unless the bytes were signed by who we expect; takes the settings, the headers and the body.
Signature = Callable[[Settings, Mapping[bytes, bytes], bytes], None]


@dataclass(frozen=True)
class Function:
    name: str
    summary: str
    description: str
    auth: tuple[str, ...]
    signature: Signature | None
    takes: Any
    gives: Any
    status: int
    idempotent: bool
    errors: Mapping[int, str]
    work: Work
    takes_file: str | None = None
    beneath: list["Function"] = field(default_factory=list)

    @cached_property
    def request(self) -> TypeAdapter[Any]:
        """Built by the first request: among many functions, most processes serve few."""
        return TypeAdapter(self.takes)

    @cached_property
    def response(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.gives)

    def under(self, path: str, **declared: Any) -> Callable[[Work], "Function"]:
        """Declare another function, at an address beneath this one; it may end in one {…}, which is `Call.place`."""

        def declare(work: Work) -> Function:
            made: Function = function(*self.auth, **declared)(work)
            made = replace(made, name=f"{self.name}/{path}")
            self.beneath.append(made)
            return made

        return declare


def function(
    *auth: str,
    errors: Mapping[int, str] = {},
    status: int = 200,
    idempotent: bool = False,
    signature: Signature | None = None,
    takes_file: str | None = None,
) -> Callable[[Work | FileWork], Function]:
    """Declare the coroutine below to be a function.

    `auth` names who may call, in the order tried: user, publishable, secret, publishable:<name>, secret:<name>,
    anyone; or nobody, when `signature` verifies a webhook. `errors` says which further statuses it answers, and when.
    `takes_file` is a content type: the body is a file of that type, what else it takes stands in the address, and the
    answer is lines of JSON.
    """
    if bool(auth) == bool(signature) or any(CALLER.fullmatch(mode) is None for mode in auth):
        raise ValueError(f"found {auth} and {signature}; expected who may call, or who signs")

    def declare(work: Work | FileWork) -> Function:
        hints = get_type_hints(work, include_extras=True)
        (takes,) = get_args(next(hint for hint in hints.values() if get_origin(hint) is Call))
        (gives,) = get_args(hints["return"])
        summary, _, description = (inspect.getdoc(work) or "").partition("\n")
        return Function(
            name=work.__name__.replace("_", "-"),
            summary=summary.rstrip("."),
            description=description.strip(),
            auth=auth,
            signature=signature,
            takes=takes,
            gives=gives,
            status=status,
            idempotent=idempotent,
            errors=errors,
            work=cast("Work", work),
            takes_file=takes_file,
        )

    return declare
