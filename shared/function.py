"""What a function is: who may call it, what it takes, what it gives, and one coroutine that does it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from shared.callers import Caller
from shared.settings import Settings

Body = TypeVar("Body")
Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Answered(Generic[Shape]):
    """JSON as the database wrote it. It is passed on unread; tests hold it against `Shape`."""

    json: str
    replayed: bool = False


class Call(Generic[Body]):
    """One request, after it was parsed and its caller is known."""

    __slots__ = ("_run", "body", "caller", "settings")

    def __init__(
        self,
        body: Body,
        caller: Caller,
        settings: Settings,
        run: Callable[[str, Any], Awaitable[Answered[Any]]],
    ) -> None:
        self.body = body
        self.caller = caller
        self.settings = settings
        self._run = run

    async def run(self, operation: str, payload: Any) -> Answered[Any]:
        """Run `operation(jsonb)` in the database as the caller, once per Idempotency-Key: one round trip."""
        return await self._run(operation, payload)


Work = Callable[[Call[Any]], Awaitable[Answered[Any]]]
# Raises unless the bytes were signed by who we expect; takes the settings, the headers and the body.
Signature = Callable[[Settings, Mapping[bytes, bytes], bytes], None]


@dataclass(frozen=True)
class Function:
    name: str
    summary: str
    description: str
    auth: tuple[str, ...]
    signature: Signature | None
    request: TypeAdapter[Any]
    response: TypeAdapter[Any]
    status: int
    idempotent: bool
    errors: Mapping[int, str]
    work: Work


def function(
    *auth: str,
    errors: Mapping[int, str] = {},
    status: int = 200,
    idempotent: bool = False,
    signature: Signature | None = None,
) -> Callable[[Work], Function]:
    """Declare the coroutine below to be a function.

    `auth` names who may call, in the order tried: user, publishable, secret, publishable:<name>, secret:<name>; or
    nobody, when `signature` verifies a webhook. `errors` says which further statuses it answers, and when.
    """

    def declare(work: Work) -> Function:
        hints = get_type_hints(work, include_extras=True)
        (request,) = get_args(next(hint for hint in hints.values() if get_origin(hint) is Call))
        (response,) = get_args(hints["return"])
        summary, _, description = (inspect.getdoc(work) or "").partition("\n")
        return Function(
            name=work.__name__.replace("_", "-"),
            summary=summary.rstrip("."),
            description=description.strip(),
            auth=auth,
            signature=signature,
            request=TypeAdapter(request),
            response=TypeAdapter(response),
            status=status,
            idempotent=idempotent,
            errors=errors,
            work=work,
        )

    return declare
