"""Send what is due, many receivers at once: each has four requests at most, and ten seconds for a response."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpcore
from standardwebhooks.webhooks import Webhook

from shared.app.call import Call
from shared.database.pool import Connection, one
from shared.settings import Settings
from shared.webhooks.connections import Connections, ForbiddenAddressError

SECONDS_OF_RUN = 50.0
SECONDS_OF_ATTEMPT = 10.0
AT_A_TIME = 64
OF_ENDPOINT = 4
RESPONSE_BYTES = 4096
USER_AGENT = "Strive-Webhooks/1"


def signed_headers(delivery: dict[str, Any], now: datetime) -> dict[str, str]:
    """Those of Standard Webhooks; after a rotation with a signature of each secret."""
    identity = str(delivery["id"])
    signatures = [Webhook(secret).sign(identity, now, delivery["payload"]) for secret in delivery["secrets"]]
    return {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


async def attempt(connections: Connections, delivery: dict[str, Any]) -> dict[str, Any]:
    """The result of one request. Anything but a status from 200 to 299 is a failure, also a redirect."""
    result: dict[str, Any] = {"id": delivery["id"], "status": None, "error": None}
    try:
        async with asyncio.timeout(SECONDS_OF_ATTEMPT):
            status, body = await connections.post(
                delivery["url"],
                signed_headers(delivery, datetime.now(UTC)),
                delivery["payload"].encode(),
                most_bytes=RESPONSE_BYTES,
            )
    except TimeoutError:
        return result | {"error": f"No response within {SECONDS_OF_ATTEMPT:.0f} seconds"}
    except ForbiddenAddressError as forbidden:
        return result | {"error": f"Not sent: {forbidden}"}
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ValueError) as problem:
        return result | {"error": f"{type(problem).__name__}: {problem}"}
    failed = not 200 <= status <= 299  # noqa: PLR2004 - the statuses of success
    # Of a failure the log has the beginning of the response; NUL is no text for the database.
    text = body.decode("utf-8", "replace").replace("\0", "")[:200]
    return result | {"status": status, "error": f"Status {status}: {text}" if failed else None}


async def deliver(call: Call[Any], connection: Connection) -> dict[str, int]:
    """Until nothing is due, or the time of a run is over."""
    sender = _Sender(call.settings, connection)
    try:
        return await sender.run()
    finally:
        await sender.close()


class _Sender:
    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()  # a connection runs one statement at a time
        self._connections = Connections(settings.webhook_networks, AT_A_TIME)
        self._running: set[asyncio.Task[None]] = set()
        self._of_endpoint: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    async def run(self) -> dict[str, int]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + SECONDS_OF_RUN
        while loop.time() < ends:
            for delivery in await self._claim():
                self._of_endpoint[delivery["endpoint_id"]] += 1
                self._running.add(asyncio.create_task(self._send(delivery)))
            if not self._running:
                break
            done, self._running = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        if self._running:
            await asyncio.gather(*self._running)
        return {"delivered": self._counts["delivered"], "failed": self._counts["failed"]}

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await self._connections.close()

    async def _claim(self) -> list[dict[str, Any]]:
        free = AT_A_TIME - len(self._running)
        busy = [endpoint for endpoint, running in self._of_endpoint.items() if running >= OF_ENDPOINT]
        claimed: list[dict[str, Any]] = await self._operate("private.claim_webhooks", {"most": free, "busy": busy})
        return claimed

    async def _send(self, delivery: dict[str, Any]) -> None:
        result = await attempt(self._connections, delivery)
        await self._operate("private.settle_webhook", result)
        self._of_endpoint[delivery["endpoint_id"]] -= 1
        self._counts["failed" if result["error"] else "delivered"] += 1

    async def _operate(self, operation: str, payload: dict[str, Any]) -> Any:
        async with self._lock:
            return await one(self._connection, f"select {operation}(%s::jsonb)", [json.dumps(payload)])
