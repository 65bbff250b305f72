"""Onboarding sessions in the form of the API. Outside this module a token is only its hash."""

import hashlib
import json
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.app.function import RequestModel, ResponseModel
from shared.schema import BillingCycle, PaymentStatus, RefundStatus, SubscriptionTier


class SessionReference(RequestModel):
    """Which session: by its token, or by its id for a signed-in caller, else the caller's newest open one."""

    token: Annotated[str, Field(description="As create-onboarding-session returned it.")] | None = None
    session_id: UUID | None = None

    def request(self, **more: Any) -> str:
        """The request to the database, which never sees the token."""
        named: dict[str, Any] = {"token_hash": hash_of(self.token)} if self.token is not None else {}
        if self.session_id and self.token is None:
            named["session_id"] = str(self.session_id)
        return json.dumps(named | more)


class CreatedOrganization(ResponseModel):
    id: UUID
    name: str
    slug: str


class OnboardingSession(ResponseModel):
    """`current_step` is the next step: 1 organization, 2 plan, 3 payment, 4 completion."""

    session_id: UUID
    current_step: int
    total_steps: int
    name: str | None
    website: str | None
    description: str | None
    tier: SubscriptionTier | None
    billing_cycle: BillingCycle | None
    amount_cents: Annotated[int | None, Field(description="Price of one billing cycle.")]
    currency: str | None
    payment_status: Annotated[PaymentStatus, Field(description="Status of the payment at Stripe.")]
    refund: Annotated[RefundStatus | None, Field(description="Status of the refund of the payment, if there is one.")]
    is_completed: bool
    completed_at: AwareDatetime | None
    expires_at: AwareDatetime
    organization: Annotated[CreatedOrganization | None, Field(description="The organization of a completed session.")]


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
