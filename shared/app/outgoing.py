"""HTTP clients for requests to other services.

Importing httpx and reading the trusted certificates take longer than other requests may wait. A thread does both, once.
"""

import asyncio
import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    import httpx


async def client(**options: Any) -> "httpx.AsyncClient":
    """A client with these options of httpx."""
    context = await asyncio.to_thread(_trusted)
    made: httpx.AsyncClient = importlib.import_module("httpx").AsyncClient(verify=context, **options)
    return made


@cache
def _trusted() -> "ssl.SSLContext":
    context: ssl.SSLContext = importlib.import_module("httpx").create_ssl_context()
    return context
