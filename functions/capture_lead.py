from decimal import Decimal
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import PropertyType

Word = Annotated[str, Field(max_length=255)]
Address = Annotated[str, Field(max_length=2000)]


class LeadCapture(RequestModel):
    """A form that a visitor sent; an email or a phone number is required."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["email"], "properties": {"email": {"type": "string"}}},
                {"required": ["phone"], "properties": {"phone": {"type": "string"}}},
            ]
        }
    )

    token: Annotated[str, Field(min_length=1, max_length=100, description="The organization's capture token.")]
    name: Annotated[str, Field(min_length=1, max_length=255, pattern=r"\S")]
    email: Annotated[str, Field(max_length=255, min_length=3, pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    phone: Annotated[str, Field(max_length=50, pattern=r"\d")] | None = None
    company: Word | None = None
    message: Annotated[str, Field(max_length=10_000)] | None = None
    budget: Annotated[Decimal, Field(ge=0, lt=10**10)] | None = None
    property_types: Annotated[list[PropertyType], Field(max_length=7)] | None = None
    cities: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=20)] | None = None
    min_bedrooms: Annotated[int, Field(ge=0, le=1000)] | None = None
    page: Address | None = None
    referrer: Address | None = None
    utm_source: Word | None = None
    utm_medium: Word | None = None
    utm_campaign: Word | None = None
    website: (
        Annotated[
            Word,
            Field(
                description="Hide this field from people: a request that fills it in comes from a robot and is ignored."
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def has_contact_data(self) -> "LeadCapture":
        if not (self.email or self.phone):
            raise ValueError("send email or phone")
        return self


class LeadReceived(ResponseModel):
    received: bool


@function(
    "anyone", status=202, body_bytes=1 << 17, errors={429: "Too many leads came with this token, or from this address."}
)
async def capture_lead(call: Call[LeadCapture]) -> Result[LeadReceived]:
    """Receive a lead from a website.

    The token names the organization. A person who is known by email or phone does not become a second lead; the message
    is added to the first. The person in charge of the lead is notified, otherwise the owners. The response is the same
    in all cases.
    """
    return await call.run("private.capture_lead", call.body)
