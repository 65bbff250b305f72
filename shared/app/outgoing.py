"""HTTP clients for requests to other services.

Importing httpx and reading the trusted certificates take longer than other requests may wait. A thread does both, once.
"""

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from shared.app.libraries import CONNECTING, load_modules

if TYPE_CHECKING:
    import ssl

    import httpx


async def client(**options: Any) -> "httpx.AsyncClient":
    """A client with these options of httpx."""
    await load_modules("httpx", CONNECTING)
    import httpx  # noqa: PLC0415 - see above

    return httpx.AsyncClient(verify=await asyncio.to_thread(_trusted), **options)


@cache
def _trusted() -> "ssl.SSLContext":
    import httpx  # noqa: PLC0415 - see above

    return httpx.create_ssl_context()
