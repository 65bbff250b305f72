"""The caller of a request."""

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
    # The user who made an API key. All keys of one user share their bounds.
    acts_for: str | None = None
    # The organization that the token names, or "".
    organization: str = ""
    scopes: frozenset[str] = frozenset()


ANYONE = Caller("anyone", '{"role":"anon"}')
WEBHOOK = Caller("webhook", '{"role":"service_role"}')
