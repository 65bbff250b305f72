from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import ApiKeyScope, ComplexityLevel, OrderStatus, SubscriptionTier

Integration = Annotated[str, Field(min_length=1, max_length=100)]


class OrderRequirements(BaseModel):
    """Free-form requirements of the agent; these four fields decide the estimate."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    integrations: Annotated[list[Integration], Field(max_length=100)] = []
    custom_ui: StrictBool = False
    multi_model: StrictBool = False
    advanced_memory: StrictBool = False


class OrderSubmission(RequestModel):
    """Requirements and complexity replace those of the draft, if sent."""

    order_id: UUID
    requirements: OrderRequirements | None = None
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
    scope=ApiKeyScope.ORDERS_WRITE,
    idempotent=True,
    body_bytes=1 << 17,
    body_values=4_000,
    errors={
        402: "The plan allows no more orders this month; `details` has its limit, `hint` that of the next plan.",
        404: "There is no such order in this organization.",
        409: "The order is not a draft.",
    },
)
async def submit_order(call: Call[OrderSubmission]) -> Result[SubmittedOrder]:
    """Submit a draft.

    For MEMBER and above. The estimate is fixed, the milestones are created, the order counts towards the month's quota,
    and the creator is notified. The rpc `estimate_order` shows the cost beforehand, `order_quota` the remaining quota.
    """
    return await call.run("private.submit_order", call.body)
