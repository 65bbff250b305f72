"""Modules that bring large libraries. Few functions need them, so they are imported when the first request does.

That takes longer than other requests may wait for, so a thread does it.
"""

import asyncio
import importlib

# httpx imports this when it first connects.
CONNECTING = "anyio._backends._asyncio"

_loaded: set[str] = set()


async def load_modules(*modules: str) -> None:
    """Import these modules, so that the statement `import` finds them afterwards."""
    for module in modules:
        if module not in _loaded:  # sys.modules also has one that another thread has half imported
            await asyncio.to_thread(importlib.import_module, module)
            _loaded.add(module)
