import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError
from shared.flags import Context, Evaluation, Snapshot
from shared.flags.asking import context_of, identity_of
from shared.flags.evaluation import failed


class Asked(RequestModel):
    """The flag, and what is known of whoever it is for. Of a user, what says who they are is the database's to say."""

    flag: str = Field(min_length=1, max_length=100)
    context: dict[str, Any] = Field(default_factory=dict)


class Evaluate(BaseModel):
    """OFREP's request."""

    model_config = ConfigDict(defer_build=True)
    # Anything is taken, so that what is wrong with it is said in the protocol's words.
    context: Annotated[Any, WithJsonSchema({"type": "object"})] = None


class FlagMetadata(ResponseModel):
    on: bool
    rule: str
    version: int


class Evaluated(ResponseModel):
    key: str
    value: Any
    reason: Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "DEFAULT", "STALE"]
    variant: str
    metadata: FlagMetadata


class Failed(ResponseModel):
    key: str
    errorCode: Literal["FLAG_NOT_FOUND", "PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"]  # noqa: N815 - OFREP's name - OFREP's name
    errorDetails: str  # noqa: N815 - OFREP's name


class SetMetadata(ResponseModel):
    version: int
    stale: bool


class EvaluatedAll(ResponseModel):
    flags: list[Evaluated | Failed]
    metadata: SetMetadata


FAILURES = {400: "The flag cannot be evaluated for this context.", 404: "There is no such flag in this environment."}


@function("user", "publishable", "secret", errors=FAILURES)
async def evaluate_flag(call: Call[Asked]) -> Result[Evaluated]:
    """Evaluate one feature flag.

    For a user's token the database says who they are; with a publishable key they are nobody known, drawn by their
    `targetingKey`; a secret key is believed every attribute. OpenFeature clients use the addresses beneath this one.
    """
    snapshot, stale = await call.flags().current()
    evaluation = snapshot.evaluate(call.body.flag, context_of(call, call.body.context, await identity_of(call)))
    if evaluation.error_code:
        raise _refused(evaluation, extra={})
    return Result(_json(evaluation, stale=stale))


@evaluate_flag.nested("ofrep/v1/evaluate/flags/{key}", errors=FAILURES)
async def evaluate_one(call: Call[Evaluate]) -> Result[Evaluated]:
    """Evaluate one feature flag, as OFREP asks for it."""
    snapshot, stale = await call.flags().current()
    evaluation = snapshot.evaluate(call.path_value, context_of(call, _given(call), await identity_of(call)))
    if evaluation.error_code:
        raise _refused(evaluation, extra=evaluation.words())
    return Result(_json(evaluation, stale=stale))


@evaluate_flag.nested("ofrep/v1/evaluate/flags", errors={304: "Nothing has changed since `If-None-Match`."})
async def evaluate_all(call: Call[Evaluate]) -> Result[EvaluatedAll]:
    """Evaluate all feature flags, as OFREP asks for it."""
    snapshot, stale = await call.flags().current()
    identity = await identity_of(call)
    tag = _tag(call, snapshot, identity, stale=stale)
    if _matches(call.headers.get(b"if-none-match"), tag):
        return Result(b"", status=304, headers={"etag": tag})
    context = context_of(call, _given(call), identity)
    return Result(
        snapshot.remembered(tag, lambda: _all_of(snapshot, context, stale=stale)),
        headers={"etag": tag},
    )


def _all_of(snapshot: Snapshot, context: Context, *, stale: bool) -> bytes:
    flags = b",".join(
        [_json(each, stale=True) for each in snapshot.evaluate_all(context)] if stale else snapshot.answers(context)
    )
    about = b'{"version":%d,"stale":%b}' % (snapshot.version, b"true" if stale else b"false")
    return b'{"flags":[%b],"metadata":%b}' % (flags, about)


def _given(call: Call[Evaluate]) -> dict[str, Any]:
    given = {} if call.body.context is None else call.body.context
    if not isinstance(given, dict):
        wrong = failed(call.path_value, "INVALID_CONTEXT", "The context is not an object")
        raise _refused(wrong, extra=wrong.words())
    return given


def _refused(evaluation: Evaluation, *, extra: dict[str, Any]) -> ApiError:
    """In our words; `extra` are OFREP's, for who speaks that."""
    code = str(evaluation.error_code)
    status = 404 if code == "FLAG_NOT_FOUND" else 400
    return ApiError(status, code.lower(), str(evaluation.error_details), extra=extra)


def _tag(call: Call[Any], snapshot: Snapshot, identity: str, *, stale: bool) -> str:
    """Of all that the answer depends on: the flags, the time as far as they have schedules, who asks, and what."""
    state = f"{call.flags().environment} {snapshot.version} {snapshot.phase()} {stale} {call.caller.mode} {identity}\n"
    return f'"{hashlib.sha256(state.encode() + call.raw_body).hexdigest()[:32]}"'


def _matches(sent: bytes | None, tag: str) -> bool:
    tags = [each.strip().removeprefix("W/") for each in sent.decode("latin-1").split(",")] if sent else []
    return tag in tags or "*" in tags


def _json(evaluation: Evaluation, *, stale: bool) -> bytes:
    return json.dumps(evaluation.words(stale=True), ensure_ascii=False).encode() if stale else evaluation.json
