from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Discriminator, Field, Tag, model_validator

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import ActivitySeverity, ActivityType, DashboardActivityType

Title = Annotated[str, Field(min_length=1, max_length=255)]
EXAMPLE = {"type": "USER_ACTION", "title": "Hello", "entity_type": "document", "entity_id": "README", "action": "read"}
ABOUT = ("lead_id", "contact_id", "deal_id", "listing_id")


class CrmActivity(RequestModel):
    """Something done with a lead, contact, deal or listing; at least one of the four is named."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in ABOUT]}
    )

    type: ActivityType
    title: Title
    description: str | None = None
    outcome: str | None = None
    duration_minutes: Annotated[int, Field(ge=0, le=100_000)] | None = None
    completed_at: AwareDatetime | None = None
    lead_id: UUID | None = None
    contact_id: UUID | None = None
    deal_id: UUID | None = None
    listing_id: UUID | None = None

    @model_validator(mode="after")
    def is_about_something(self) -> "CrmActivity":
        if not any(getattr(self, name) for name in ABOUT):
            raise ValueError(f"one of {', '.join(ABOUT)} is needed")
        return self


class FeedEntry(RequestModel):
    """A plain entry of the organisation's feed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE}]})

    type: DashboardActivityType
    title: Title
    description: str | None = None
    entity_type: Annotated[str, Field(min_length=1, max_length=100)]
    entity_id: Annotated[str, Field(min_length=1, max_length=255)]
    action: Annotated[str, Field(min_length=1, max_length=100)]
    metadata: dict[str, Any] | None = None
    severity: ActivitySeverity = ActivitySeverity.INFO


def _kind(item: Any) -> str:
    found = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    return "activities" if "activities" in found else "feed" if "entity_type" in found else "activity"


Item = Annotated[Annotated[CrmActivity, Tag("activity")] | Annotated[FeedEntry, Tag("feed")], Discriminator(_kind)]


class Activities(RequestModel):
    """All are recorded, or none."""

    activities: Annotated[list[Item], Field(min_length=1, max_length=500)]


class Recorded(ResponseModel):
    activity_id: UUID | None
    feed_id: UUID
    organization_id: UUID
    created_at: AwareDatetime


class RecordedMany(ResponseModel):
    activities: list[Recorded]


RecordActivity = Annotated[
    Annotated[FeedEntry, Tag("feed")]
    | Annotated[CrmActivity, Tag("activity")]
    | Annotated[Activities, Tag("activities")],
    Discriminator(_kind),
]


@function(
    "user",
    status=201,
    idempotent=True,
    body_bytes=1 << 20,
    errors={404: "A lead, contact, deal or listing does not exist here."},
)
async def record_activity(call: Call[RecordActivity]) -> Result[Recorded | RecordedMany]:
    """Record what happened.

    A CRM activity on a lead, contact, deal or listing, with its entry in the feed, or a plain entry of the feed.
    """
    return await call.run("public.record_activity", call.body)
