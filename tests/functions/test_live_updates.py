"""Live updates of the product on any Supabase, through supabase-py: channels, rows, presence, removal, suspension."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from realtime import RealtimePostgresChangesListenEvent

from supabase import AsyncClient, AsyncClientOptions, acreate_client
from tests.conftest import Strive
from tests.support.platform import PASSWORD, Person, Platform

SECONDS = 30


@asynccontextmanager
async def signed_in(stack: Strive, person: Person) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient(timeout=SECONDS) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        client = await acreate_client(stack.api_url, stack.publishable_key, options)
        await client.auth.sign_in_with_password({"email": person.email, "password": PASSWORD})
        session = await client.auth.get_session()
        assert session
        await client.realtime.set_auth(session.access_token)
        yield client
        await client.realtime.close()


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_true():  # noqa: ASYNC110 - callbacks of the client change it
            await asyncio.sleep(0.02)


async def join(client: AsyncClient, topic: str, **presence: Any) -> tuple[Any, list[Any], str]:
    """Join a private channel. Returns the channel, the broadcasts that arrive, and the status or the reason."""
    options: Any = {"config": {"private": True, "broadcast": None, "presence": presence or None}}
    channel = client.channel(topic, options)
    heard: list[Any] = []
    channel.on_broadcast("*", lambda message: heard.append(message["payload"]))
    joined: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(status: Any, error: Exception | None) -> None:
        if not joined.done():
            joined.set_result(str(error or status.value))

    await channel.subscribe(note)
    return channel, heard, await asyncio.wait_for(joined, SECONDS)


async def changes(client: AsyncClient, table: str) -> list[Any]:
    """Rows of a table as they change."""
    heard: list[Any] = []
    ready = asyncio.Event()
    channel = client.channel(f"changes of {table}")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.All, lambda found: heard.append(found["data"]), table=table, schema="public"
    )
    channel.on_system(lambda _: ready.set())
    await channel.subscribe()
    await asyncio.wait_for(ready.wait(), SECONDS)
    return heard


def add_lead(person: Person) -> str:
    body = {"name": f"Lead {uuid4().hex[:8]}"}
    created = person.http.post("/rest/v1/leads", json=body, headers={"prefer": "return=representation"})
    assert created.status_code == 201, created.text
    return str(created.json()[0]["id"])


def test_members_hear_of_changes_and_strangers_cannot_join(stack: Strive, platform: Platform) -> None:
    ours, theirs = platform.organization(), platform.organization()
    member, colleague = (platform.person(member_of=ours) for _ in range(2))
    stranger = platform.person(member_of=theirs)

    async def run() -> None:
        async with signed_in(stack, member) as client, signed_in(stack, stranger) as other:
            _, heard, status = await join(client, f"org:{ours}:crm")
            assert status == "SUBSCRIBED"
            _, overheard, _ = await join(other, f"org:{theirs}:crm")
            _, _, reason = await join(other, f"org:{ours}:crm")
            assert "do not have permissions to read from this Channel topic" in reason
            lead = await asyncio.to_thread(add_lead, colleague)
            await until(lambda: bool(heard))
            assert {key: heard[0][key] for key in ("table", "operation", "ids", "by")} == {
                "table": "leads", "operation": "INSERT", "ids": [lead], "by": colleague.id,
            }  # fmt: skip
            await asyncio.to_thread(add_lead, stranger)
            await until(lambda: bool(overheard))
            assert len(heard) == len(overheard) == 1

    asyncio.run(run())


def test_rows_of_both_organizations_arrive_until_removal_and_suspension(stack: Strive, platform: Platform) -> None:
    first, second, third = (platform.organization() for _ in range(3))
    both = platform.person(member_of=first)
    colleagues = [platform.person(member_of=org) for org in (first, second, third)]
    platform.sql(
        "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, 'MEMBER')",
        both.id, second,
    )  # fmt: skip

    async def run() -> None:
        async with signed_in(stack, both) as client, signed_in(stack, colleagues[1]) as witness:
            heard, witnessed = await changes(client, "leads"), await changes(witness, "leads")
            leads = [await asyncio.to_thread(add_lead, colleague) for colleague in colleagues]
            await until(lambda: len(heard) == 2)
            assert [row["record"]["id"] for row in heard] == leads[:2]
            platform.sql(
                "delete from public.organization_members where user_id = %s and organization_id = %s", both.id, second
            )
            await asyncio.to_thread(add_lead, colleagues[1])
            await until(lambda: len(witnessed) == 2)  # the change has been sent to all who may see it
            last = await asyncio.to_thread(add_lead, colleagues[0])
            await until(lambda: len(heard) == 3)
            assert heard[2]["record"]["id"] == last
            platform.sql("update public.users set suspended_at = now() where id = %s", both.id)
            await asyncio.to_thread(add_lead, colleagues[0])
            await asyncio.to_thread(add_lead, colleagues[1])
            await until(lambda: len(witnessed) == 3)
            assert len(heard) == 3

    asyncio.run(run())


@pytest.mark.parametrize("role", ["MEMBER", "VIEWER"])
def test_presence_shows_two_people_to_each_other(stack: Strive, platform: Platform, role: str) -> None:
    org = platform.organization()
    people = [platform.person(member_of=org, org_role=role) for _ in range(2)]

    async def run() -> None:
        async with signed_in(stack, people[0]) as mia, signed_in(stack, people[1]) as ben:
            seen: list[set[str]] = [set(), set()]
            for number, (client, name) in enumerate(((mia, "mia"), (ben, "ben"))):
                channel, _, status = await join(client, f"org:{org}:presence", key=name, enabled=True)
                assert status == "SUBSCRIBED"

                def note(channel: Any = channel, number: int = number) -> None:
                    seen[number] = set(channel.presence_state())

                channel.on_presence_sync(note)
                await channel.track({"name": name})
            await until(lambda: seen == [{"mia", "ben"}, {"mia", "ben"}])

    asyncio.run(run())
