from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from shared.app.call import Call, Result
from shared.app.function import ResponseModel, function
from shared.mail.signatures import signed_by_provider

REASONS = {"email.bounced": "BOUNCED", "email.complained": "COMPLAINED"}


class Bounce(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: str = "Permanent"
    message: Annotated[str, Field(max_length=10_000)] | None = None


class Delivery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    to: Annotated[list[str], Field(max_length=100)]
    bounce: Bounce | None = None


class MailEvent(BaseModel):
    """Other fields and other types are ignored."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, Field(description="email.bounced or email.complained.")]
    data: Delivery | Any = None


class Suppressed(ResponseModel):
    suppressed: int


@function(signature=signed_by_provider)
async def mail_webhook(call: Call[MailEvent]) -> Result[Suppressed]:
    """Receive a bounce or a complaint from the mail provider.

    The addresses of a permanent bounce and of a complaint are not mailed any more. The request has a signature of
    Standard Webhooks, made with one of `MAIL_WEBHOOK_SECRETS`.
    """
    event = call.body
    reason = REASONS.get(event.type)
    delivery = event.data
    is_temporary = (
        isinstance(delivery, Delivery)
        and delivery.bounce is not None
        and delivery.bounce.type.lower() in {"transient", "temporary", "soft"}
    )
    if reason is None or not isinstance(delivery, Delivery) or is_temporary:
        return Result('{"suppressed": 0}')
    detail = delivery.bounce.message if delivery.bounce else None
    return await call.run("private.suppress_addresses", {"addresses": delivery.to, "reason": reason, "detail": detail})
