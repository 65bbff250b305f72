"""The bytes of the objects: one file per version, named by a random id. No name of a client ever reaches the disk."""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from local.api.errors import ApiError, storage_error

VERSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
PART_BYTES = 256 * 1024


@dataclass(frozen=True)
class Blob:
    version: str
    size: int
    etag: str


class Blobs:
    """Files are read and written in threads: the disk never holds up other requests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def write(self, chunks: AsyncIterable[bytes], limit: int) -> Blob:
        """Keep the chunks as a new version, up to `limit` bytes."""
        version = str(uuid4())
        file = await asyncio.to_thread(self._made, version)
        descriptor = await asyncio.to_thread(os.open, file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        digest, size, held = hashlib.md5(usedforsecurity=False), 0, bytearray()

        def keep(data: bytes) -> None:
            digest.update(data)
            while data:
                data = data[os.write(descriptor, data) :]

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise too_large()  # noqa: TRY301 - what was written is removed below
                held += chunk
                if len(held) >= PART_BYTES:
                    await asyncio.to_thread(keep, bytes(held))
                    held.clear()
            await asyncio.to_thread(keep, bytes(held))
            await asyncio.to_thread(os.fsync, descriptor)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return Blob(version, size, f'"{digest.hexdigest()}"')

    async def copy(self, version: str | None) -> str:
        copied = str(uuid4())

        def work() -> None:
            shutil.copyfile(self._file(version), self._made(copied))

        await asyncio.to_thread(work)
        return copied

    async def open(self, version: str | None) -> tuple[BinaryIO, int, bytes]:
        """The open file, its size, and its content if that is short: most files cost one hop to a thread."""

        def work() -> tuple[BinaryIO, int, bytes]:
            file = self._file(version).open("rb")
            size = os.fstat(file.fileno()).st_size
            return file, size, file.read() if size <= PART_BYTES else b""

        return await asyncio.to_thread(work)

    async def read(self, file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to and including `end`."""
        try:
            await asyncio.to_thread(file.seek, start)
            left = end - start + 1
            while left > 0 and (data := await asyncio.to_thread(file.read, min(left, PART_BYTES))):
                left -= len(data)
                yield data
        finally:
            file.close()

    async def remove(self, versions: Iterable[str | None]) -> None:
        files = [self._file(version) for version in versions if version and VERSION.match(version)]

        def work() -> None:
            for file in files:
                file.unlink(missing_ok=True)

        if files:
            await asyncio.to_thread(work)

    def _file(self, version: str | None) -> Path:
        """A row may have been written by other means than this service; its version still leads to no other file."""
        if not version or not VERSION.match(version):
            raise FileNotFoundError(f"{version!r} is no version of a file")
        return self._directory / version[:2] / version

    def _made(self, version: str) -> Path:
        file = self._file(version)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return file


def too_large() -> ApiError:
    return storage_error(413, "Payload too large", "The object exceeded the maximum allowed size")
