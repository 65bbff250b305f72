import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.flags.audience import AudienceCounter
from shared.schema import SubscriptionTier

# Users that are evaluated before other requests get a turn: some two milliseconds.
BATCH = 300
# Enough for some 3,300 ids; a longer list is a group.
BODY_BYTES = 128 * 1024


class FlagChanges(RequestModel):
    """Columns of the flag with the values to try; the others stay as they are."""

    is_enabled: bool = False
    rollout_percent: float = Field(default=0, ge=0, le=100)
    target_tiers: list[SubscriptionTier] = Field(default_factory=list)
    target_orgs: list[UUID] = Field(default_factory=list)
    target_users: list[UUID] = Field(default_factory=list)
    conditions: dict[str, Any] | None = None
    bucket_by: Literal["user", "org"] = "user"
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None


class FlagPreview(RequestModel):
    flag: str = Field(min_length=1, max_length=100)
    changes: FlagChanges = FlagChanges()


class FlagAudience(ResponseModel):
    users: Annotated[int, Field(description="All users who are neither suspended nor inactive.")]
    on: Annotated[int, Field(description="Users for whom the flag would be on, the undecided ones included.")]
    undecided: Annotated[int, Field(description="Users for whom it depends on attributes that only requests send.")]
    listed: Annotated[int, Field(description="Users who are in `target_users`, or whose organization is listed.")]


@function(
    "user",
    errors={400: "The conditions cannot be evaluated.", 404: "There is no such flag."},
    body_bytes=BODY_BYTES,
    body_values=4_000,
)
async def preview_flag_audience(call: Call[FlagPreview]) -> Result[FlagAudience]:
    """Count the users whom a flag would reach, now or after changes.

    For platform admins. Every user counts in the organization they joined first. Nothing is written.
    """
    async with call.snapshot() as lines:
        (definitions,) = [line async for line in lines("private.open_flag_to_preview", _request(call.body))]
        read = json.loads(definitions)
        counter = AudienceCounter(call.body.flag, read["flags"], read["groups"])
        batch: list[str] = []
        async for line in lines("private.open_users_to_preview", "{}"):
            batch.append(line)
            if len(batch) == BATCH:
                counter.count(batch)
                batch.clear()
                await asyncio.sleep(0)
        counter.count(batch)
    return Result(json.dumps(asdict(counter.counted)))


def _request(body: FlagPreview) -> str:
    return body.model_dump_json(exclude_unset=True)
