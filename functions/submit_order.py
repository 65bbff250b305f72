from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import ComplexityLevel, OrderStatus, SubscriptionTier

Integration = Annotated[str, Field(min_length=1, max_length=100)]


class Requirements(BaseModel):
    """What the agent has to do, in any words; these four decide the estimate."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    integrations: Annotated[list[Integration], Field(max_length=100)] = []
    custom_ui: StrictBool = False
    multi_model: StrictBool = False
    advanced_memory: StrictBool = False


class OrderSubmission(RequestModel):
    """Requirements and complexity replace those of the draft, where given."""

    order_id: UUID
    requirements: Requirements | None = None
    complexity: ComplexityLevel | None = None


class OrderMilestone(ResponseModel):
    id: UUID
    name: str
    stage: str
    is_completed: bool


class OrderQuota(ResponseModel):
    """Orders of this calendar month (UTC); `allowed` is null where the plan allows any number."""

    tier: SubscriptionTier
    allowed: int | None
    used: int
    renews_at: AwareDatetime


class SubmittedOrder(ResponseModel):
    """`estimated_cost` is in US dollars."""

    order_id: UUID
    status: OrderStatus
    submitted_at: AwareDatetime
    complexity: ComplexityLevel
    requirements: dict[str, Any]
    estimated_hours: int
    estimated_cost: float
    milestones: list[OrderMilestone]
    quota: OrderQuota


@function(
    "user",
    idempotent=True,
    body_bytes=1 << 17,
    errors={
        402: "The plan allows no more orders this month; details say what it allows, the hint what the next one would.",
        404: "There is no such order here.",
        409: "The order is no draft.",
    },
)
async def submit_order(call: Call[OrderSubmission]) -> Result[SubmittedOrder]:
    """Submit a draft.

    A MEMBER or above of its organisation hands it in: the estimate is fixed, the milestones are made, the month's quota
    is used, the creator is told. What it would cost is shown before by the rpc `estimate_order`, what is left of the
    month by `order_quota`.
    """
    return await call.run("private.submit_order", call.body)
