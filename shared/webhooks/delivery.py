"""Send what is due, many receivers at once. private.claim_webhooks() says how many requests each gets."""

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpcore
from standardwebhooks.webhooks import Webhook

from shared.app.call import Call
from shared.database.pool import Connection, one
from shared.webhooks.connections import Connections, ForbiddenAddressError, trusted

# Ends with its minute. The next run waits for the last attempts.
SECONDS_OF_RUN = 58.0
SECONDS_OF_ATTEMPT = 10.0
SECONDS_OF_HANDOVER = SECONDS_OF_ATTEMPT + 2
# An endpoint that takes longer gets one request at a time.
SECONDS_OF_SLOW = 2.0
# Polled, since LISTEN works neither through a transaction pooler nor without a lock on every commit.
SECONDS_BETWEEN_CLAIMS = 0.2
AT_A_TIME = 128
RESPONSE_BYTES = 4096
USER_AGENT = "Strive-Webhooks/1"


def signed_headers(delivery: dict[str, Any], now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks; after a rotation they have a signature of each secret."""
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
    # The log keeps the beginning of a failed response; Postgres cannot store NUL.
    text = body.decode("utf-8", "replace").replace("\0", "")[:200]
    return result | {"status": status, "error": f"Status {status}: {text}" if failed else None}


async def deliver(call: Call[Any], connection: Connection, *, wait: bool) -> dict[str, int]:
    """Send until the time of a run is over; without `wait`, until nothing is due."""
    connections = Connections(call.settings.webhook_networks, AT_A_TIME, await asyncio.to_thread(trusted))
    sender = _Sender(connections, connection, call.ending)
    try:
        return await sender.run(wait=wait)
    finally:
        await sender.close()


class _Sender:
    def __init__(self, connections: Connections, connection: Connection, ending: asyncio.Event) -> None:
        self._connection = connection
        self._ending = ending
        self._connections = connections
        self._running: set[asyncio.Task[dict[str, Any]]] = set()
        self._of_endpoint: Counter[str] = Counter()
        self._slow: set[str] = set()
        self._counts = Counter(delivered=0, failed=0)

    async def run(self, *, wait: bool) -> dict[str, int]:
        ends = time.monotonic() + SECONDS_OF_RUN
        done: set[asyncio.Task[dict[str, Any]]] = set()
        while True:
            is_over = time.monotonic() >= ends or self._ending.is_set()
            claimed, is_needed = await self._exchange([task.result() for task in done], claim=not is_over)
            for delivery in claimed:
                self._of_endpoint[delivery["endpoint_id"]] += 1
                self._running.add(asyncio.create_task(self._send(delivery)))
            if self._running:
                done, self._running = await asyncio.wait(
                    self._running, timeout=SECONDS_BETWEEN_CLAIMS, return_when=asyncio.FIRST_COMPLETED
                )
            elif is_over or not (wait and is_needed):
                return dict(self._counts)
            else:
                done = set()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), SECONDS_BETWEEN_CLAIMS)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await self._connections.close()

    async def _exchange(self, results: list[dict[str, Any]], *, claim: bool) -> tuple[list[dict[str, Any]], bool]:
        """Stores what has ended and claims more: one statement, however many attempts end at once."""
        request = {
            "results": results,
            "most": AT_A_TIME - len(self._running) if claim else 0,
            "running": +self._of_endpoint,
            "slow": list(self._slow),
        }
        answer = await one(self._connection, "select private.exchange_webhooks(%s::jsonb)", [json.dumps(request)])
        return answer["claimed"], answer["is_needed"]

    async def _send(self, delivery: dict[str, Any]) -> dict[str, Any]:
        endpoint, began = delivery["endpoint_id"], time.monotonic()
        try:
            result = await attempt(self._connections, delivery)
        finally:
            self._of_endpoint[endpoint] -= 1
        is_slow = time.monotonic() - began > SECONDS_OF_SLOW or result["status"] is None
        (self._slow.add if is_slow else self._slow.discard)(endpoint)
        self._counts["failed" if result["error"] else "delivered"] += 1
        return result
