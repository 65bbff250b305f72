"""GET /: what runs here, for a person who has just started it. GET /mail: what would have been mailed."""

import asyncio
import json
import re
import secrets
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import psycopg
from starlette.requests import Request
from starlette.responses import Response

from local.api.auth.mail import Mail, Message
from local.api.database import Database
from local.api.errors import ApiError, DatabaseUnavailable
from local.api.functions import Functions
from local.api.settings import Settings

HERE = Path(__file__).parent
DEMO_PASSWORD = "strive-demo-1"  # noqa: S105 - of every account in supabase/seed.sql, which only demo data has
UPSTREAM_SECONDS = 1
NO_FUNCTIONS = "No function server answers yet."
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
# Those of supabase/seed.sql alone: accounts of people are private.
ACCOUNTS = """select email from auth.users
  where split_part(email, '@', 2) in ('acme.test', 'globex.test', 'strive.test')
  order by split_part(email, '@', 2), created_at, email limit 20"""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-{nonce}'; connect-src {origins}"
)


class Landing:
    def __init__(self, database: Database, mail: Mail, functions: Functions, settings: Settings) -> None:
        self._database, self._mail, self._functions, self._settings = database, mail, functions, settings

    async def respond(self, _request: Request) -> Response:
        functions, accounts = await asyncio.gather(self._list_functions(), self._list_accounts())
        stripe = self._settings.stripe_url
        return _page(
            "landing.html",
            {
                "apiUrl": escape(self._settings.api_url),
                "publishableKey": escape(self._settings.keys["publishable_key"]),
                "database": _state(accounts is not None),
                "functionServer": _state(functions is not None),
                "payments": f'<a href="{escape(stripe)}/">pay with test cards</a>' if stripe else "at Stripe",
                "functions": _table(functions and functions[0], NO_FUNCTIONS, _function_row),
                "jobs": _table(functions and functions[1], NO_FUNCTIONS, _function_row),
                "accounts": _table(accounts, "The database does not answer yet.", _account_row),
                "choices": "".join(f"<option>{escape(email)}</option>" for email in accounts or []),
                "account": escape(accounts[0] if accounts else "you@example.com"),
                "password": DEMO_PASSWORD,
            },
        )

    async def respond_mail(self, _request: Request) -> Response:
        messages = [
            f"<article><h2>{escape(each.subject)}</h2>"
            f"<p>to <b>{escape(each.to)}</b> at {escape(_readable(each.at))}</p>"
            f"{_codes(each)}{_rendered(each)}</article>"
            for each in self._mail.box
        ]
        nothing = '<p class="none">Nothing has been mailed since the API started.</p>'
        return _page("mail.html", {"messages": "\n".join(messages) or nothing})

    async def _list_functions(self) -> tuple[list[Any], list[Any]] | None:
        """Functions that clients call, and jobs."""
        try:
            async with asyncio.timeout(UPSTREAM_SECONDS):
                paths = json.loads(await self._functions.get("/functions/v1/openapi.json"))["paths"]
        except (ApiError, OSError, ValueError, KeyError, TimeoutError):
            return None
        functions: list[Any] = []
        jobs: list[Any] = []
        for path, methods in paths.items():
            for about in methods.values():
                group = jobs if about.get("tags") == ["Jobs"] else functions
                group.append((f"/functions/v1{path}", about.get("operationId", ""), about.get("summary", "")))
        return functions, jobs

    async def _list_accounts(self) -> list[Any] | None:
        try:
            async with self._database.as_auth() as query:
                return [row["email"] for row in await query(ACCOUNTS)]
        except (DatabaseUnavailable, psycopg.Error):
            return None


def _readable(at: str) -> str:
    return at.replace("T", " ").replace("+00:00", " UTC")


def _codes(message: Message) -> str:
    if not message.code:
        return ""
    code, link = escape(message.code), escape(message.link)
    return f'<p>Code <code>{code}</code> · <a href="{link}">open the link</a></p>'


def _rendered(message: Message) -> str:
    """As a mail program shows it: without scripts, links open in another tab."""
    if not message.page:
        return ""
    page = escape(message.page.replace("<head>", '<head><base target="_blank">', 1))
    return f'<iframe sandbox="allow-popups" title="The e-mail" srcdoc="{page}"></iframe>'


def _page(file: str, values: dict[str, str]) -> Response:
    page = (HERE / file).read_text()
    nonce = secrets.token_urlsafe(16)
    filled = PLACEHOLDER.sub(lambda found: (values | {"nonce": nonce})[found[1]], page)
    headers = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        "content-security-policy": POLICY.format(nonce=nonce, origins="'self' ws: wss:"),
    }
    return Response(filled, 200, headers)


def _table(rows: list[Any] | None, otherwise: str, row: Callable[[Any], str]) -> str:
    if rows is None:
        return f'<p class="none">{otherwise}</p>'
    return f"<table>{''.join(map(row, rows))}</table>" if rows else '<p class="none">None.</p>'


def _function_row(function: tuple[str, str, str]) -> str:
    path, name, summary = map(escape, function)
    return f'<tr><td><a href="/functions/v1/docs#{name}"><code>{path}</code></a></td><td>{summary}</td></tr>'


def _account_row(email: str) -> str:
    return f"<tr><td><code>{escape(email)}</code></td></tr>"


def _state(up: bool) -> str:
    return '<span class="up">running</span>' if up else '<span class="down">not running</span>'
