"""`strive watch`: what a demo user sees change, as it happens."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Any

from local import StackError
from local.stack import Stack

PASSWORD = "strive-demo-1"  # noqa: S105 - of the demo accounts in supabase/seed.sql
# By name: the published table, and the column that names a row.
TABLES = {
    "feed": ("activity_feeds", "title"),
    "leads": ("leads", "name"),
    "notifications": ("notifications", "title"),
    "orders": ("custom_agent_orders", "title"),
    "tasks": ("tasks", "title"),
}


def watch(stack: Stack, name: str, email: str, last: int, seconds: float | None) -> int:
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(stack.values(), name, email, last, seconds))
    return 0


async def _watch(values: dict[str, str], name: str, email: str, last: int, seconds: float | None) -> None:
    import httpx  # noqa: PLC0415 - the client is loaded only by this command
    from realtime import RealtimePostgresChangesListenEvent  # noqa: PLC0415 - see above

    from supabase import AsyncClientOptions, AuthApiError, acreate_client  # noqa: PLC0415 - see above

    table, title = TABLES[name]
    async with httpx.AsyncClient() as http:
        options = AsyncClientOptions(persist_session=False, httpx_client=http)
        client = await acreate_client(values["API_URL"], values["PUBLISHABLE_KEY"], options)
        try:
            session = (await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})).session
        except AuthApiError as error:
            raise StackError(
                f"{email} can't sign in: {error.message}.", "Name a demo account with --as EMAIL"
            ) from None
        await client.realtime.set_auth(session.access_token if session else None)
        ended = asyncio.Event()

        def show(change: Any) -> None:
            data = change["data"]
            _print(data["record"], title, "" if data["type"] == "INSERT" else "  (changed)")

        channel = client.channel(f"watch {name}")
        for event in (RealtimePostgresChangesListenEvent.Insert, RealtimePostgresChangesListenEvent.Update):
            channel.on_postgres_changes(event, show, table=table, schema="public")
        await channel.subscribe()
        rows: list[Any] = (
            await client.table(table).select("*").order("created_at", desc=True).limit(last).execute()
        ).data
        for row in reversed(rows):
            _print(row, title)
        end = "until Ctrl-C" if seconds is None else f"for {seconds:g} seconds"
        print(f"— {name} of {email}, live {end} —", flush=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        await client.realtime.close()


def _print(row: dict[str, Any], title: str, more: str = "") -> None:
    moment = datetime.fromisoformat(row["created_at"]).astimezone()
    print(f"{moment:%H:%M:%S}  {row[title]}{more}", flush=True)
