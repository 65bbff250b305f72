"""multipart/form-data, parsed as it arrives: a file is passed on chunk by chunk, never held as a whole."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from local.api.errors import ApiError
from local.api.storage.names import refused

HEADER_LIMIT = 16 * 1024
FIELD_LIMIT = 1024 * 1024
FIELDS = 10


@dataclass(frozen=True)
class Form:
    """The fields before the file, and the file; later fields are ignored."""

    fields: dict[str, str]
    type: str | None
    content: AsyncIterator[bytes]


async def read_form(chunks: AsyncIterator[bytes], content_type: str) -> Form:
    _, options = parse_options_header(content_type)
    if not options.get(b"boundary"):
        raise malformed("the content type names no boundary")
    try:
        parser = _Parser(options[b"boundary"])
    except FormParserError as error:
        raise malformed(str(error)) from None
    async for chunk in chunks:
        parser.feed(chunk)
        if parser.in_file:
            return Form(parser.fields, parser.file_type, _content(parser, chunks))
        if parser.ended:
            raise refused("The multipart body holds no file")
    raise malformed("it ends too early")


async def _content(parser: "_Parser", chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        while parser.content:
            yield parser.content.popleft()
        if parser.file_ended:
            return
        chunk = await anext(chunks, None)
        if chunk is None:
            raise malformed("it ends too early")
        parser.feed(chunk)


def malformed(message: str) -> ApiError:
    return refused(f"The multipart body is malformed: {message}")


class _Parser:
    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.file_type: str | None = None
        self.content: deque[bytes] = deque()
        self.in_file = self.file_ended = self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._field: str | None = None
        self._text = bytearray()
        self._header_bytes = self._count_of_fields = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._all_ended,
            },
        )

    def feed(self, chunk: bytes) -> None:
        if self.file_ended:
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise malformed(str(error)) from None

    def _begin(self) -> None:
        self._headers, self._header_bytes = {}, 0

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEADER_LIMIT:
            raise malformed("a header is too long")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if self.in_file:
            self.file_ended = True  # another part after the file
        elif b"filename" in options or b"filename*" in options:
            self.in_file = True
            kind = self._headers.get(b"content-type")
            self.file_type = kind.decode("latin-1") if kind else None
        else:
            self._count_of_fields += 1
            if self._count_of_fields > FIELDS:
                raise malformed("it has too many fields")
            self._field = options.get(b"name", b"").decode("utf-8", "replace")
            self._text.clear()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.in_file:
            if not self.file_ended:
                self.content.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_LIMIT:
            raise malformed("a field is too long")

    def _end(self) -> None:
        if self.in_file:
            self.file_ended = True
        elif self._field is not None:
            self.fields[self._field] = self._text.decode("utf-8", "replace")

    def _all_ended(self) -> None:
        self.ended = True
