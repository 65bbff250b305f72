"""Sends the outbox: several conversations at once, each e-mail claimed, handed over and settled in the database."""

import asyncio
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from shared.database.pool import Connection, one
from shared.logs import log
from shared.mail.conversation import Conversation, RefusedError, UnavailableError, UncertainError
from shared.mail.message import Email, Sender, compose
from shared.settings import SmtpServer

SENDERS = 8
BATCH = 100
# Longer than all timeouts of one message together: a later sender counts as dead.
LEASE = "5 minutes"
# A run ends soon after, so that runs of a schedule of every minute do not pile up.
RUN_SECONDS = 45.0

EMAILS = TypeAdapter(list[Email])


@dataclass
class Outbox:
    connection: Connection
    server: SmtpServer
    sender: Sender
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._claimed: deque[Email] = deque()
        self._claiming = asyncio.Lock()
        self._is_unavailable = False
        self._until = time.monotonic() + RUN_SECONDS

    async def send(self) -> dict[str, int]:
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="smtp") as threads:
            async with asyncio.TaskGroup() as group:
                for _ in range(SENDERS):
                    group.create_task(self._send_some(threads))
        for email in self._claimed:  # the server became unavailable
            await self._settle(email, "RELEASE", "The mail server is unavailable.")
        problems = await one(self.connection, "select private.alert_email_problems()")
        if self.counts["FAILED"] or self.counts["UNCERTAIN"]:
            log("ERROR", "e-mails could not be delivered", failed=self.counts["FAILED"], problems=problems)
        return {
            "sent": self.counts["SENT"],
            "postponed": self.counts["RETRY"] + self.counts["RELEASE"],
            "failed": self.counts["FAILED"],
            "uncertain": self.counts["UNCERTAIN"],
        }

    async def _send_some(self, threads: ThreadPoolExecutor) -> None:
        conversation = Conversation(self.server)
        run = asyncio.get_running_loop().run_in_executor
        try:
            while email := await self._next():
                try:
                    content = await run(threads, _written, email, self.sender)
                except Exception as problem:  # noqa: BLE001 - such as an address that no header can hold; others are sent
                    await self._settle(email, "FAILED", f"{type(problem).__name__}: {problem}")
                    continue
                try:
                    await run(threads, conversation.begin, self.sender.address, email.to, content)
                    if not await self._hand_over(email):
                        conversation.close()
                        continue
                    await run(threads, conversation.finish)
                except UnavailableError as problem:
                    self._is_unavailable = True
                    log("WARNING", "the mail server is unavailable; the next run retries", why=str(problem))
                    await self._settle(email, "RELEASE", str(problem))
                except RefusedError as refusal:
                    await self._settle(email, "FAILED" if refusal.permanent else "RETRY", str(refusal), refusal.bounced)
                except UncertainError as problem:
                    await self._settle(email, "UNCERTAIN", str(problem))
                else:
                    await self._settle(email, "SENT", None)
            await run(threads, conversation.quit)
        finally:
            conversation.close()

    async def _next(self) -> Email | None:
        async with self._claiming:
            if self._is_unavailable or time.monotonic() > self._until:
                return None
            while not self._claimed:
                rows = await one(self.connection, "select private.claim_emails(%s, %s)", [BATCH, LEASE])
                if rows is None:
                    return None
                self._claimed.extend(EMAILS.validate_python(rows))
            return self._claimed.popleft()

    async def _hand_over(self, email: Email) -> bool:
        return bool(await one(self.connection, "select private.hand_over_email(%s, %s)", [email.id, email.attempt]))

    async def _settle(self, email: Email, outcome: str, error: str | None, bounced: bool = False) -> None:
        arguments: list[Any] = [email.id, email.attempt, outcome, error, bounced]
        await one(self.connection, "select private.settle_email(%s, %s, %s, %s, %s)", arguments)
        self.counts[outcome] += 1


def _written(email: Email, sender: Sender) -> bytes:
    """Compose the message in a thread: it takes milliseconds, and may import the library of calendars."""
    return compose(email, sender).as_bytes()
