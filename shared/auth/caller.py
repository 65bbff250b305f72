"""Who calls."""

import re
from dataclasses import dataclass

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """`claims` is JSON for the database, which trusts it: it holds only what was verified."""

    mode: str
    claims: str
    user_id: str | None = None
    key_name: str | None = None
    # Of an API key: who made it. All keys of one person share their bounds.
    acts_for: str | None = None
    # The one that the token names, or none.
    organization: str = ""
    scopes: frozenset[str] = frozenset()


ANYONE = Caller("anyone", '{"role":"anon"}')
WEBHOOK = Caller("webhook", '{"role":"service_role"}')
