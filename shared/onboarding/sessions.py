"""Onboarding sessions as clients name and see them. Beyond this module a token is only its hash."""

import hashlib
import json
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.app.function import RequestModel, ResponseModel
from shared.schema import BillingCycle, PaymentStatus, RefundStatus, SubscriptionTier


class Named(RequestModel):
    """Which session: by its token, or signed in by its id; signed in and with neither, the newest one of the caller."""

    token: Annotated[str, Field(description="As create-onboarding-session gave it.")] | None = None
    session_id: UUID | None = None

    def asked(self, **more: Any) -> str:
        """What the database is asked; it never sees the token."""
        named: dict[str, Any] = {"token_hash": hash_of(self.token)} if self.token is not None else {}
        if self.session_id and self.token is None:
            named["session_id"] = str(self.session_id)
        return json.dumps(named | more)


class Made(ResponseModel):
    id: UUID
    name: str
    slug: str


class Session(ResponseModel):
    """`current_step` is to be done next: 1 organisation, 2 plan, 3 payment, 4 completion."""

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
    payment_status: Annotated[PaymentStatus, Field(description="As Stripe says.")]
    refund: Annotated[RefundStatus | None, Field(description="Whether what was paid is being given back.")]
    is_completed: bool
    completed_at: AwareDatetime | None
    expires_at: AwareDatetime
    organization: Annotated[Made | None, Field(description="What the completed session made.")]


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
