"""The one look of all pages, and how values are written on them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from local.stripe import money
from local.stripe.cards import CARDS
from local.stripe.gateway import Response
from local.stripe.store import Object

PAGE = Path(__file__).with_name("page.html").read_text()
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'"
NEWEST = 15
# The cards a page offers; any other test number can be typed.
OFFERED = {
    "4242424242424242": "succeeds",
    "4000000000000002": "is declined",
    "4000000000009995": "has insufficient funds",
    "4000000000000069": "has expired",
    "4000000000003220": "asks for 3-D Secure",
    "4000000000000341": "can be saved, and fails when it is charged",
    "4000000000000259": "succeeds, and is disputed",
    "4000000000007726": "succeeds; a refund of it is pending for a day",
}


def page(title: str, body: str, status: int = 200) -> Response:
    headers = {"cache-control": "no-store", "content-security-policy": POLICY}
    content = PAGE.replace("{{title}}", escape(title)).replace("{{body}}", body)
    return Response(status, content, headers, "text/html; charset=utf-8")


def section(title: str, body: str) -> str:
    return f'<section tabindex="0"><h2>{escape(title)}</h2>{body}</section>'


def table(rows: list[list[str]], heads: str = "") -> str:
    if not rows:
        return '<p class="none">None yet.</p>'
    head = f"<thead><tr>{''.join(f'<th>{word}</th>' for word in heads.split('|'))}</tr></thead>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def form(fields: str, **buttons: str) -> str:
    """A form that is sent to its own page; a button's name and value are `name="value|words"`."""
    made = "".join(
        f'<button name="{name}" value="{escape(value.partition("|")[0])}">{escape(value.partition("|")[2])}</button> '
        for name, value in buttons.items()
    )
    return f'<form method="post">{fields}{made}</form>'


def field(name: str, label: str, value: str = "", kind: str = "text", more: str = "") -> str:
    attributes = f'name="{name}" type="{kind}" value="{escape(value)}" {more}'
    return f'<label class="field">{escape(label)} <input {attributes}></label>'


def choice(name: str, label: str, options: dict[str, str], chosen: str = "") -> str:
    made = "".join(
        f'<option value="{escape(value)}"{" selected" * (value == chosen)}>{escape(words)}</option>'
        for value, words in options.items()
    )
    return f'<label class="field">{escape(label)} <select name="{name}">{made}</select></label>'


def hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{escape(value)}">'


def cards() -> str:
    rows = "".join(
        f'<label><input type="radio" name="card" value="{number}"{" checked" * (not n)}>'
        f" <code>{number[:4]} … {number[-4:]}</code> {words}</label>"
        for n, (number, words) in enumerate(OFFERED.items())
    )
    return f'<fieldset class="cards">{rows}</fieldset>{field("number", "Another test card")}'


def chosen_card(given: dict[str, str]) -> str:
    """The number that was typed, else the card that was chosen."""
    typed = given.get("number", "").replace(" ", "")
    return typed if typed in CARDS else given["card"].replace(" ", "")


def newest(things: Iterable[Object]) -> list[Object]:
    return [thing for thing, _ in zip(things, range(NEWEST), strict=False)]


def link(target: str, words: str) -> str:
    safe = target if target.startswith(("/", "http://", "https://")) else "/"
    return f'<a href="{escape(safe)}">{escape(words)}</a>'


def amount(value: int, currency: str) -> str:
    return f"<b>{escape(money.formatted(value, currency))}</b>"


def moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def state(status: str) -> str:
    return f'<span class="state">{escape(status.replace("_", " "))}</span>'


def bad(words: str) -> str:
    return f'<p class="bad">{escape(words)}</p>'


def good(words: str) -> str:
    return f'<p class="good">{escape(words)}</p>'
