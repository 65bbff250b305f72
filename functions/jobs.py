"""The jobs: each at the URL of its name. Names and summaries are those of the table private.jobs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any, cast

from pydantic import Field, model_validator

from shared.administration.attachments import sync
from shared.administration.operations import AuthSyncs, Settled, settle_syncs
from shared.app.call import Call, Result, as_json
from shared.app.function import Function, Handler, RequestModel, function
from shared.app.libraries import CONNECTING, load_modules
from shared.database.pool import Connection, one
from shared.jobs import JobRun, NoInput, run_here, run_in_database
from shared.logs import log
from shared.schema import JOBS

MOST_DAYS = 1000


class ReconcileOptions(RequestModel):
    compare: bool | None = Field(
        None, description="Whether to compare all subscriptions, too; without it that happens once a day."
    )


class DeliveryOptions(RequestModel):
    wait: bool = Field(True, description="Whether to wait for new events; false: only what is due now.")


class MetricDays(RequestModel):
    """A range of past days to count; without it today and the days that were missed before."""

    first: date | None = None
    last: date | None = None

    @model_validator(mode="after")
    def is_a_range(self) -> "MetricDays":
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last must be sent together")
        if self.first and self.last and not timedelta() <= self.last - self.first < timedelta(MOST_DAYS):
            raise ValueError(f"first to last must be 1 to {MOST_DAYS} days")
        return self


# Takes the call and the name of the job.
JobHandler = Callable[[Call[Any], str], Awaitable[Result[JobRun]]]


def job(description: str = "", **declared: Any) -> Callable[[JobHandler], Function]:
    """Declare that the coroutine below runs the job of its name."""

    def declare(handler: JobHandler) -> Function:
        name = handler.__name__
        made = function("secret", **declared)(cast("Handler", handler))
        summary = JOBS[name].rstrip(".")
        return replace(made, handler=lambda call: handler(call, name), summary=summary, description=description)

    return declare


def database_job(name: str) -> Function:
    async def run(call: Call[NoInput], job: str) -> Result[JobRun]:
        return await run_in_database(call, job)

    run.__name__ = name
    return job()(run)


@job(
    "A payment is unfinished when another plan replaced it or its session expired. A run handles up to 50 of each "
    "kind; `undone` counts those that failed, which the next run retries.",
)
async def settle_onboarding_payments(call: Call[NoInput], name: str) -> Result[JobRun]:
    await call.load_stripe("shared.onboarding.settlement")
    from shared.onboarding.settlement import settle  # noqa: PLC0415 - brings Stripe's library

    return await run_here(call, name, lambda _: settle(call))


@job(
    "Applies events that were never delivered, fetches objects in doubt, makes the changes at Stripe that are due, and "
    "once a day compares all subscriptions. The result says what was corrected; `skipped` counts objects that stayed "
    "locked, which the next run retries.",
)
async def reconcile_stripe(call: Call[ReconcileOptions], name: str) -> Result[JobRun]:
    await call.load_stripe("shared.billing.reconciliation", "shared.billing.tasks")
    from shared.billing.reconciliation import Reconciliation  # noqa: PLC0415 - brings Stripe's library
    from shared.billing.tasks import perform_tasks  # noqa: PLC0415 - as above

    async def work(connection: Connection) -> dict[str, object]:
        reconciliation = Reconciliation(connection, call.stripe(), livemode=call.settings.stripe_livemode)
        result = await reconciliation.run(compare=call.body.compare) | await perform_tasks(call)
        log("INFO", "reconciled with Stripe", missed_events=result["missed_events"], changes=result["changes"])
        return result

    return await run_here(call, name, work)


@job(
    "Deletes the files of deleted rows, organizations and users, adds rows for files that have none, and deletes rows "
    "without a file, also those whose upload did not arrive within a day.",
)
async def sync_attachments(call: Call[NoInput], name: str) -> Result[JobRun]:
    return await run_here(call, name, partial(sync, call.settings))


@job(
    "A run lasts 58 seconds and sends new events within a second, those of a record in order; it ends at once where no "
    "webhook is active. An attempt that fails is repeated nine times within three days.",
)
async def deliver_webhooks(call: Call[DeliveryOptions], name: str) -> Result[JobRun]:
    await load_modules("shared.webhooks.delivery", CONNECTING)
    from shared.webhooks.delivery import (  # noqa: PLC0415 - brings a client that no other function needs
        SECONDS_OF_HANDOVER,
        deliver,
    )

    patience = SECONDS_OF_HANDOVER if call.body.wait else 0
    return await run_here(call, name, partial(deliver, call, wait=call.body.wait), patience=patience)


@job("Up to 100 users a run, those with the fewest failures first.")
async def sync_auth(call: Call[NoInput], name: str) -> Result[JobRun]:
    async def work(connection: Connection) -> dict[str, int]:
        async def settle(done: AuthSyncs | None) -> AuthSyncs:
            payload = as_json({} if done is None else {"done": done})
            return Settled(**await one(connection, "select private.settle_auth_syncs(%s)", [payload])).syncs

        due = await settle(None)
        pending = await settle_syncs(call.settings, due, settle)
        return {"synced": len(due) - pending, "pending": pending}

    return await run_here(call, name, work)


@job(
    "One row for each day (UTC). A day that was counted after its end stays as it is.",
    errors={422: "The range is not a range of days, or it ends in the future."},
)
async def refresh_platform_metrics(call: Call[MetricDays], name: str) -> Result[JobRun]:
    first, last = call.body.first, call.body.last
    if not (first and last):
        return await run_in_database(call, name)

    async def work(connection: Connection) -> int:
        """Each day on its own, so that a failure keeps the days before."""
        days = [first + timedelta(offset) for offset in range((last - first).days + 1)]
        return sum([await one(connection, "select private.record_platform_metrics(%s)", [day]) or 0 for day in days])

    return await run_here(call, name, work)


@job(
    "Sends several e-mails at once, for up to 45 seconds. An e-mail that the server refuses temporarily is sent "
    "again after 30 seconds, then less and less often, for a day. Without `SMTP_URL` the e-mails stay in the outbox.",
)
async def send_emails(call: Call[NoInput], name: str) -> Result[JobRun]:
    async def work(connection: Connection) -> dict[str, int] | None:
        settings = call.settings
        if settings.smtp is None or settings.mail_from is None:
            return None
        await load_modules("shared.mail.message", "shared.mail.outbox", "shared.calendar")
        from shared.mail.message import Sender  # noqa: PLC0415 - no other function needs the templates
        from shared.mail.outbox import Outbox  # noqa: PLC0415 - as above

        sender = Sender(*settings.mail_from, settings.app_url, settings.functions_url)
        return await Outbox(connection, settings.smtp, sender).send()

    return await run_here(call, name, work)


def load(name: str) -> Function:
    found = globals().get(name)
    return found if isinstance(found, Function) else database_job(name)
