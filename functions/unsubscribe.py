from typing import Annotated, Any

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function


def page(sent: bool) -> bytes:
    from shared.mail.message import template  # noqa: PLC0415 - few requests need it

    content: bytes = template("unsubscribe.html").render(sent=sent).encode()
    return content


class Unsubscription(RequestModel):
    token: Annotated[str, Field(min_length=1, max_length=2000, description="From the link in an e-mail.")]
    one_click: Annotated[Any, Field(alias="List-Unsubscribe", description="Sent by mail programs (RFC 8058).")] = None


class Unsubscribed(ResponseModel):
    kind: str
    description: str | None


@function("anyone", page=page, errors={404: "The link is not valid."})
async def unsubscribe(call: Call[Unsubscription]) -> Result[Unsubscribed]:
    """Stop e-mails of one kind.

    The link in an e-mail leads here: GET shows a form and changes nothing, since mail scanners follow links; POST
    unsubscribes, also with one click in a mail program (RFC 8058). Repeating it does no harm.
    """
    return await call.run("private.unsubscribe", {"token": call.body.token})
