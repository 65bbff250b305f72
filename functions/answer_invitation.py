from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function


def page(sent: bool) -> bytes:
    from shared.mail.message import template  # noqa: PLC0415 - few requests need it

    content: bytes = template("answer.html").render(sent=sent).encode()
    return content


class AppointmentReply(RequestModel):
    token: Annotated[str, Field(min_length=1, max_length=500, description="From the link in an e-mail.")]
    reply: Literal["ACCEPTED", "TENTATIVE", "DECLINED"]


class StoredReply(ResponseModel):
    title: str
    start_time: datetime
    reply: str


@function("anyone", page=page, errors={404: "The link is not valid.", 410: "The appointment is over or cancelled."})
async def answer_invitation(call: Call[AppointmentReply]) -> Result[StoredReply]:
    """Answer an invitation to an appointment.

    The link in an invitation leads here: GET shows a form and changes nothing, since mail scanners follow links; POST
    stores the reply, which may be changed until the appointment is over. Members can also write `reply` of their row in
    `appointment_attendees`.
    """
    return await call.run("private.answer_invitation", call.body)
