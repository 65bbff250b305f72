import json
from typing import Annotated, Any, Literal

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError
from shared.flags.identities import context_of


class ExposureRequest(RequestModel):
    """The flag whose variant was shown, and the context with which it was evaluated."""

    flag: str = Field(min_length=1, max_length=100)
    context: dict[str, Any] = Field(default_factory=dict)


class RecordedExposure(ResponseModel):
    flag: str
    variant: str
    recorded: bool
    reason: Annotated[
        Literal["recorded", "recorded_before", "off", "user_limit", "network_limit"],
        Field(
            description="Why it was recorded or not. `user_limit`: this user recorded 5 units. `network_limit`: their"
            " network recorded 100 units within a day."
        ),
    ]


@function(
    "user",
    "secret",
    body_values=4_000,
    errors={400: "The flag cannot be evaluated for this context.", 404: "There is no such flag in this environment."},
)
async def record_exposure(call: Call[ExposureRequest]) -> Result[RecordedExposure]:
    """Record that a unit saw its variant of a flag.

    Call it when the variant is shown. The server evaluates the flag again, so a client cannot choose the variant. Each
    unit, user or organization, counts once per experiment. Only signed-in users and secret keys record exposures.
    """
    flags = call.flags()
    identity = await flags.identities.of(call.caller, call.session, call.headers)
    snapshot, _ = await flags.current()
    context = context_of(call.caller, call.body.context, identity)
    evaluation = snapshot.evaluate(call.body.flag, context)
    if evaluation.error_code:
        exists = evaluation.error_code != "FLAG_NOT_FOUND"
        raise ApiError(400 if exists else 404, evaluation.error_code.lower(), evaluation.error_details or "")
    exposure: dict[str, Any] = {"flag": evaluation.key, "variant": evaluation.variant}
    if not evaluation.on:
        return Result(json.dumps(exposure | {"recorded": False, "reason": "off"}))
    unit = snapshot.unit(evaluation.key, context)
    if unit is None:
        raise ApiError(400, "targeting_key_missing", "The context names no unit that this flag could count")
    # The seed says which experiment was evaluated, in case the flag changes before this is recorded.
    seed = snapshot.flags[evaluation.key].seed
    return await call.run("private.record_exposure", json.dumps(exposure | {"unit": unit, "seed": seed}))
