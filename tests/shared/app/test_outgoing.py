"""Clients for other services are made without holding up other requests."""

import asyncio
import ssl
import threading

import pytest

from shared.app import outgoing


def test_certificates_are_read_once_and_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    outgoing._trusted.cache_clear()
    readers = []
    read = ssl.create_default_context

    def recorded(*arguments: object, **options: object) -> ssl.SSLContext:
        readers.append(threading.current_thread())
        return read(*arguments, **options)  # type: ignore[arg-type]  # what the caller gave

    async def twice() -> None:
        for _ in range(2):
            async with await outgoing.client(timeout=1) as client:
                assert client.timeout.connect == 1

    monkeypatch.setattr(ssl, "create_default_context", recorded)
    asyncio.run(twice())
    assert len(readers) == 1
    assert readers[0] is not threading.main_thread()
