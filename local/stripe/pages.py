"""What a person clicks on."""

from typing import TYPE_CHECKING

from local.stripe.forms import Answer

if TYPE_CHECKING:
    from local.stripe.server import Double


def answer(_double: "Double", _method: str, _target: str, _body: str) -> Answer:
    return Answer(404, "There is no such page.", kind="text/plain")
