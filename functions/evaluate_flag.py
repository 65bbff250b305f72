import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError
from shared.flags import Context, Evaluation, Snapshot
from shared.flags.evaluation import failed
from shared.flags.identities import Identity, context_of


class EvaluateFlag(RequestModel):
    """The flag and the context. A user's identity always comes from the database."""

    flag: str = Field(min_length=1, max_length=100)
    context: dict[str, Any] = Field(default_factory=dict)


class EvaluationRequest(BaseModel):
    """OFREP's request."""

    model_config = ConfigDict(defer_build=True)
    # Anything is accepted here, so that errors are reported in the form of the protocol.
    context: Annotated[Any, WithJsonSchema({"type": "object"})] = None


class FlagMetadata(ResponseModel):
    on: bool
    rule: str
    version: int


class FlagEvaluation(ResponseModel):
    key: str
    value: Any
    reason: Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "DEFAULT", "STALE"]
    variant: str
    metadata: FlagMetadata


class FlagEvaluationFailure(ResponseModel):
    key: str
    errorCode: Literal["FLAG_NOT_FOUND", "PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"]  # noqa: N815 - OFREP's name
    errorDetails: str  # noqa: N815 - OFREP's name


class FlagSetMetadata(ResponseModel):
    version: int
    stale: bool


class BulkEvaluation(ResponseModel):
    flags: list[FlagEvaluation | FlagEvaluationFailure]
    metadata: FlagSetMetadata


FAILURES = {400: "The flag cannot be evaluated for this context.", 404: "There is no such flag in this environment."}


# Not metered: it answers from memory, and a row for each evaluation would cost more than the evaluation.
@function("user", "publishable", "secret", body_values=4_000, errors=FAILURES, metered=False)
async def evaluate_flag(call: Call[EvaluateFlag]) -> Result[FlagEvaluation]:
    """Evaluate one feature flag.

    With a user's token, the identity comes from the database. With a publishable key, the user is unknown, and
    `targetingKey` selects the bucket. With a secret key, every attribute of the context is trusted.
    OpenFeature clients use the OFREP addresses below this one.
    """
    evaluation, stale = await _evaluate(call, call.body.flag, call.body.context)
    if evaluation.error_code:
        raise _error(evaluation, extra={})
    return Result(_json(evaluation, stale=stale))


@evaluate_flag.nested("ofrep/v1/evaluate/flags/{key}", body_values=4_000, errors=FAILURES)
async def evaluate_one(call: Call[EvaluationRequest]) -> Result[FlagEvaluation]:
    """Evaluate one feature flag by OFREP."""
    evaluation, stale = await _evaluate(call, call.path_value, _attributes(call))
    if evaluation.error_code:
        raise _error(evaluation, extra=evaluation.fields())
    return Result(_json(evaluation, stale=stale))


@evaluate_flag.nested(
    "ofrep/v1/evaluate/flags", body_values=4_000, errors={304: "Nothing has changed since `If-None-Match`."}
)
async def evaluate_all(call: Call[EvaluationRequest]) -> Result[BulkEvaluation]:
    """Evaluate all feature flags by OFREP."""
    flags = call.flags()
    identity = await flags.identities.of(call.caller, call.session, call.headers)
    snapshot, stale = await flags.current()
    stale = stale or identity.stale
    tag = _tag(call, snapshot, identity, stale=stale)
    if _matches(call.headers.get(b"if-none-match"), tag):
        return Result(b"", status=304, headers={"etag": tag})
    context = context_of(call.caller, _attributes(call), identity)
    return Result(snapshot.remembered(tag, lambda: _all(snapshot, context, stale=stale)), headers={"etag": tag})


async def _evaluate(call: Call[Any], name: str, attributes: dict[str, Any]) -> tuple[Evaluation, bool]:
    """The evaluation, and whether it is stale."""
    flags = call.flags()
    identity = await flags.identities.of(call.caller, call.session, call.headers)
    snapshot, stale = await flags.current()
    return snapshot.evaluate(name, context_of(call.caller, attributes, identity)), stale or identity.stale


def _all(snapshot: Snapshot, context: Context, *, stale: bool) -> bytes:
    evaluations = snapshot.evaluate_all(context)
    flags = b",".join([_json(each, stale=stale) for each in evaluations])
    metadata = b'{"version":%d,"stale":%b}' % (snapshot.version, b"true" if stale else b"false")
    return b'{"flags":[%b],"metadata":%b}' % (flags, metadata)


def _attributes(call: Call[EvaluationRequest]) -> dict[str, Any]:
    context = {} if call.body.context is None else call.body.context
    if not isinstance(context, dict):
        invalid = failed(
            call.path_value, "INVALID_CONTEXT", f"context: found {json.dumps(context)[:100]}, expected an object"
        )
        raise _error(invalid, extra=invalid.fields())
    return context


def _error(evaluation: Evaluation, *, extra: dict[str, Any]) -> ApiError:
    """Our form of the error; `extra` adds the fields of OFREP."""
    code = str(evaluation.error_code)
    status = 404 if code == "FLAG_NOT_FOUND" else 400
    return ApiError(status, code.lower(), str(evaluation.error_details), extra=extra)


def _tag(call: Call[Any], snapshot: Snapshot, identity: Identity, *, stale: bool) -> str:
    """A hash of everything that the response depends on: flags, phase of their schedules, caller and context."""
    environment, mode = call.flags().environment, call.caller.mode
    state = f"{environment} {snapshot.version} {snapshot.phase()} {stale} {mode} {identity.serialized}\n"
    return f'"{hashlib.sha256(state.encode() + call.raw_body).hexdigest()[:32]}"'


def _matches(if_none_match: bytes | None, tag: str) -> bool:
    tags = (
        [each.strip().removeprefix("W/") for each in if_none_match.decode("latin-1").split(",")]
        if if_none_match
        else []
    )
    return tag in tags or "*" in tags


def _json(evaluation: Evaluation, *, stale: bool) -> bytes:
    if stale:
        return json.dumps(evaluation.fields(stale=True), ensure_ascii=False).encode()
    return evaluation.serialized or evaluation.json
