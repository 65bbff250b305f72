"""The pages for a person: everything there is, paying, checkout, the portal, invoices, and time."""

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from local.stripe.errors import ApiError
from local.stripe.gateway import Response
from local.stripe.pages import checkout, invoice, overview, payment, portal
from local.stripe.pages.html import bad, link, page

if TYPE_CHECKING:
    from local.stripe.server import Double

Show = Callable[["Double", str], Response]
Act = Callable[["Double", str, dict[str, str]], None]
PAGES: list[tuple[str, Show, Act | None]] = [
    (r"/()", overview.show, overview.act),
    (r"/pay/(\w+)", payment.show, payment.act),
    (r"/setup/(\w+)", payment.show_setup, payment.act_setup),
    (r"/checkout/(\w+)", checkout.show, checkout.act),
    (r"/portal/(\w+)", portal.show, portal.act),
    (r"/invoice/(\w+)", invoice.show, invoice.act),
    (r"/invoice/(\w+)/pdf", invoice.show_pdf, None),
    (r"/credit_note/(\w+)/pdf", invoice.show_credit_note, None),
    (r"/receipt/(\w+)", invoice.show_receipt, None),
]


class Form(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise ApiError(f"The form lacks: {name}.", param=name)


def respond(double: "Double", method: str, path: str, body: str, headers: Mapping[str, str]) -> Response:
    """Every form is answered with the page it came from."""
    if method == "POST" and headers.get("sec-fetch-site") == "cross-site":
        return page("Forbidden", bad("Another website sent this form."), 403)
    if (method, path) == ("POST", "/control"):
        return control(double, body)
    given = Form(parse_qsl(body, keep_blank_values=True))
    path = path.partition("?")[0]
    for pattern, show, act in PAGES:
        if found := re.fullmatch(pattern, path):
            try:
                if method == "POST" and act:
                    act(double, found[1], given)
                    double.deliveries.wake()
                return show(double, found[1])
            except ApiError as error:
                back = link(path, "Back") if method == "POST" else link("/", "All objects")
                return page("Refused", bad(str(error)) + back, error.status)
    return page("Not found", f"<p>{link('/', 'All objects')}</p>", 404)


def control(double: "Double", body: str) -> Response:
    """For scripts: what a test does by hand, as {"advance": {"days": 31}, "mischief": {"seed": 1, "drop": 0.05}}."""
    doing: dict[str, Callable[[object], object]] = {
        "advance": lambda value: double.advance(**value),  # type: ignore[arg-type]  # JSON; a wrong one is a TypeError
        "fail": lambda value: double.fail(**value),  # type: ignore[arg-type]  # as above
        "mischief": lambda value: double.mischief(**value),  # type: ignore[arg-type]  # as above
        "lag": double.lag,  # type: ignore[dict-item]  # as above
        "after_retries": lambda value: double.after_retries(str(value)),
        "tax": double.tax,  # type: ignore[dict-item]  # as above
        "dispute": lambda value: double.dispute(str(value)),
    }
    try:
        given = json.loads(body)
        if unknown := sorted(given.keys() - doing):
            return _text(400, f"Unknown: {', '.join(unknown)}; accepted: {', '.join(sorted(doing))}.")
        for name, value in given.items():
            doing[name](value)
    except (ValueError, TypeError, AttributeError, ApiError) as error:
        return _text(400, f"Invalid: {error}")
    return Response(200, json.dumps({"now": double.account.now()}))


def _text(status: int, words: str) -> Response:
    return Response(status, words, kind="text/plain; charset=utf-8")
