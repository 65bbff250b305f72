from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import ActivitySeverity, ActivityType, ApiKeyScope, DashboardActivityType

Title = Annotated[str, Field(min_length=1, max_length=255)]
EXAMPLE = {"type": "USER_ACTION", "title": "Hello", "entity_type": "document", "entity_id": "README", "action": "read"}
MOST_FIELDS = 50
ABOUT = ("lead_id", "contact_id", "deal_id", "listing_id")


class NewActivity(RequestModel):
    """Something done with a lead, contact, deal or listing: send the id of at least one."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in ABOUT]}
    )

    type: ActivityType
    title: Title
    description: Annotated[str | None, Field(max_length=10_000)] = None
    outcome: Annotated[str | None, Field(max_length=10_000)] = None
    duration_minutes: Annotated[int, Field(ge=0, le=100_000)] | None = None
    completed_at: AwareDatetime | None = None
    lead_id: UUID | None = None
    contact_id: UUID | None = None
    deal_id: UUID | None = None
    listing_id: UUID | None = None

    @model_validator(mode="after")
    def is_about_something(self) -> "NewActivity":
        if not any(getattr(self, name) for name in ABOUT):
            raise ValueError(f"send at least one of {', '.join(ABOUT)}")
        return self


class NewFeedEntry(RequestModel):
    """An entry of the organization's feed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE}]})

    type: DashboardActivityType
    title: Title
    description: Annotated[str | None, Field(max_length=10_000)] = None
    entity_type: Annotated[str, Field(min_length=1, max_length=100)]
    entity_id: Annotated[str, Field(min_length=1, max_length=255)]
    action: Annotated[str, Field(min_length=1, max_length=100)]
    metadata: dict[str, Any] | None = None
    severity: ActivitySeverity = ActivitySeverity.INFO


def _kind(item: Any) -> str:
    found = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    return "activities" if "activities" in found else "feed" if "entity_type" in found else "activity"


def _few_fields(item: Any) -> Any:
    """Each unknown field costs time to explain."""
    if isinstance(item, dict) and len(item) > MOST_FIELDS:
        raise ValueError(f"found {len(item):,} fields, at most {MOST_FIELDS} are accepted")
    return item


Item = Annotated[
    Annotated[NewActivity, Tag("activity")] | Annotated[NewFeedEntry, Tag("feed")],
    Discriminator(_kind),
    BeforeValidator(_few_fields),
]


class NewActivities(RequestModel):
    """All are recorded, or none."""

    # The first invalid one ends the validation: 500 of them would take too long to explain.
    activities: Annotated[list[Item], Field(min_length=1, max_length=500, fail_fast=True)]


class RecordedActivity(ResponseModel):
    activity_id: UUID | None
    feed_id: UUID
    organization_id: UUID
    created_at: AwareDatetime


class RecordedActivities(ResponseModel):
    activities: list[RecordedActivity]


RecordActivity = Annotated[
    Annotated[NewFeedEntry, Tag("feed")]
    | Annotated[NewActivity, Tag("activity")]
    | Annotated[NewActivities, Tag("activities")],
    Discriminator(_kind),
    BeforeValidator(_few_fields),
]


@function(
    "user",
    scope=ApiKeyScope.CRM_WRITE,
    status=201,
    idempotent=True,
    body_bytes=1 << 18,
    body_values=8_000,
    errors={404: "A lead, contact, deal or listing does not exist in this organization."},
)
async def record_activity(call: Call[RecordActivity]) -> Result[RecordedActivity | RecordedActivities]:
    """Record an activity.

    A CRM activity on a lead, contact, deal or listing, with its entry in the feed, or an entry of the feed alone.
    """
    return await call.run("public.record_activity", call.body)
