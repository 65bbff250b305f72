import json
from typing import Any

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError
from shared.flags.asking import context_of, identity_of


class Exposure(RequestModel):
    """The flag that somebody has met, and the context with which it was evaluated for them."""

    flag: str = Field(min_length=1, max_length=100)
    context: dict[str, Any] = Field(default_factory=dict)


class Recorded(ResponseModel):
    """`recorded` is false when this user (or organisation, as the flag draws) was counted before, or has it off."""

    flag: str
    variant: str
    recorded: bool


@function(
    "user",
    "publishable",
    "secret",
    errors={400: "The flag cannot be evaluated for this context.", 404: "There is no such flag in this environment."},
)
async def record_exposure(call: Call[Exposure]) -> Result[Recorded]:
    """Record that somebody has met their variant of a flag.

    Call it when the variant is shown. Which variant that is, the flag says: nobody reports another one's. Everybody
    counts once for each flag.
    """
    snapshot, _ = await call.flags().current()
    context = context_of(call, call.body.context, await identity_of(call))
    evaluation = snapshot.evaluate(call.body.flag, context)
    if evaluation.error_code:
        found = evaluation.error_code != "FLAG_NOT_FOUND"
        raise ApiError(400 if found else 404, evaluation.error_code.lower(), evaluation.error_details or "")
    seen: dict[str, Any] = {"flag": evaluation.key, "variant": evaluation.variant}
    if not evaluation.on:
        return Result(json.dumps(seen | {"recorded": False}))
    unit = snapshot.unit(evaluation.key, context)
    if unit is None:
        raise ApiError(400, "targeting_key_missing", "Nobody is named whom this flag could count")
    if call.caller.mode == "publishable":  # a key of their own choice must not stand for a user
        unit = f"anonymous:{unit}"
    # A user's takes two round trips, a key's this one: only the database says who a user is, and only we, knowing that,
    # which variant they meet. What this one notes is the experiment that was evaluated, whatever changed between them.
    seed = snapshot.flags[evaluation.key].seed
    return await call.run("private.record_exposure", json.dumps(seen | {"unit": unit, "seed": seed}))
