"""Who asks: of a user the database says who they are, nobody else is believed but our own servers."""

import json
from collections.abc import Mapping
from typing import Any

from shared.app.call import Call
from shared.flags.context import Context


async def identity_of(call: Call[Any]) -> str:
    """The caller as the database knows them, as JSON; empty where no user calls, and nothing is asked then."""
    if call.caller.mode != "user":
        return ""
    return str((await call.run("private.flag_identity", "{}")).json)


def context_of(call: Call[Any], given: Mapping[str, Any], identity: str) -> Context:
    match call.caller.mode:
        case "user":
            return Context.identified(json.loads(identity), given)
        case "secret":
            return Context.asserted(given)
    return Context.anonymous(given)
