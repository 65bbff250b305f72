import asyncio
import csv
import io
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import IO, Annotated, Any, Literal

from psycopg import Rollback
from pydantic import Field, Json

from shared.app.call import Upload, as_json
from shared.app.function import RequestModel, ResponseModel, function
from shared.database.session import Transaction
from shared.errors import ApiError
from shared.schema import ApiKeyScope

PEOPLE = ("name", "email", "phone", "company", "notes", "tags", "budget", "property_types", "cities", "min_bedrooms")
COLUMNS = {
    "leads": {*PEOPLE, "source", "status", "score_value", "timeline"},
    "contacts": {*PEOPLE, "position", "type", "status"},
}
LISTS = {"tags", "cities", "property_types"}
WORDS = {"source", "status", "type"}
NUMBERS = {"budget", "score_value", "min_bedrooms"}
BATCH = 1000
# Rows, and their characters, that the parsing thread reads before other requests get their turn.
SLICE, SLICE_CHARACTERS = 100, 1 << 18
BATCH_CHARACTERS = 1 << 20
MOST_SECONDS = 120
MOST_LINES = 200_000
MOST_COLUMNS = 200
LINE_CHARACTERS = 128 * 1024
HEADER_CHARACTERS = 16 * 1024
REPORTED_ERRORS = 1000
ERROR_CHARACTERS = 300
# No column accepts more.
LISTED = 100
CHARACTERS = {"tags": 60_000, "cities": 60_000, "property_types": 1000} | dict.fromkeys(WORDS | NUMBERS, 100)
CELL_CHARACTERS = 10_000
# A spreadsheet would run such a cell; numbers and telephone numbers are harmless.
FORMULA = re.compile(r"[=@\t\r\n]|[-+](?![0-9(). /-]*$)")


class ImportOptions(RequestModel):
    """How to read the file; its first line names the columns."""

    kind: Literal["leads", "contacts"]
    mapping: Annotated[
        Json[dict[str, str]] | None,
        Field(description="Maps columns of the file to columns of the table; without it, columns are matched by name."),
    ] = None
    dry_run: Annotated[bool, Field(description="Report errors and import nothing.")] = False
    on_error: Annotated[
        Literal["stop", "skip"], Field(description="stop: import all lines or none; skip: import all valid lines.")
    ] = "stop"
    skip_known: Annotated[bool, Field(description="Skip lines whose email the organization already has.")] = False


class LineError(ResponseModel):
    line: int
    problem: str


class ImportProgress(ResponseModel):
    """One line of the response. Only the last one, with `done`, says whether the rows were committed."""

    done: bool
    committed: bool
    lines: int
    imported: int
    failed: int
    known: int
    problems: list[LineError]
    ignored_columns: list[str]


class Rows:
    """The rows of a file, read in a thread: no line, record or file is larger than its bound."""

    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        self._reader = csv.reader(self, strict=True)
        self._most = HEADER_CHARACTERS
        self._characters = 0
        self._numbered = self._read()

    async def header(self) -> list[str]:
        _, names = await asyncio.to_thread(next, self._numbered, (0, []))
        self._most = LINE_CHARACTERS
        return names

    async def batch(self) -> list[tuple[int, list[str]]]:
        rows: list[tuple[int, list[str]]] = []
        characters = 0
        while len(rows) < BATCH and characters < BATCH_CHARACTERS:
            some, length = await asyncio.to_thread(self._some)
            if not some:
                break
            rows += some
            characters += length
        return rows

    def _some(self) -> tuple[list[tuple[int, list[str]]], int]:
        """A few rows, and how many characters they have."""
        rows: list[tuple[int, list[str]]] = []
        characters = 0
        for number, cells in self._numbered:
            rows.append((number, cells))
            characters += sum(map(len, cells))
            if len(rows) == SLICE or characters > SLICE_CHARACTERS:
                break
        return rows, characters

    def __iter__(self) -> "Rows":
        return self

    def __next__(self) -> str:
        """A line for the reader, which asks for several of them where a cell spans lines."""
        line = self._text.readline(self._most + 1)
        self._characters += len(line)
        if self._characters > self._most:
            raise ApiError(
                413,
                "line_too_long",
                f"A line of the file is longer than {self._most:,} characters",
                details=f"After line {self._reader.line_num}.",
                hint="A quote that is never closed makes the rest of the file one line.",
            )
        if not line:
            raise StopIteration
        return line

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Rows that are not empty, each with its line number."""
        try:
            for cells in self._reader:
                self._characters = 0
                if self._reader.line_num > MOST_LINES:
                    raise ApiError(
                        413, "too_many_lines", f"The file has more than {MOST_LINES:,} lines", hint="Send it in parts."
                    )
                if any(cells):
                    yield self._reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ApiError(
                400,
                "malformed_csv",
                "The file is not CSV in UTF-8",
                details=f"After line {self._reader.line_num}: {error}.",
            ) from None


@function("user", upload="text/csv", authorize="private.authorize_import", scope=ApiKeyScope.CRM_WRITE, idempotent=True)
async def import_records(upload: Upload[ImportOptions]) -> AsyncIterator[ImportProgress]:
    """Import leads or contacts from a CSV file.

    For MEMBER and above, or an API key.

    The response has a line of JSON for every thousand lines of the file, and a last one. A cell that a spreadsheet
    would run as a formula is an error. An organization runs one import at a time, for at most two minutes. An upload
    repeated with its Idempotency-Key is imported once; the response is the last line of the first one.
    """
    options, deadline = upload.body, time.monotonic() + MOST_SECONDS
    rows = Rows(upload.file)
    columns, ignored = _columns(options, await rows.header())
    total = ImportProgress(
        done=False, committed=False, lines=0, imported=0, failed=0, known=0, problems=[], ignored_columns=ignored
    )
    seen: set[str] = set()
    async with upload.transaction("import_records") as transaction:
        if transaction.stored:
            yield ImportProgress(**transaction.stored)
            return
        await transaction.run("private.begin_import", "{}")
        while batch := await rows.batch():
            if time.monotonic() > deadline:
                raise ApiError(
                    408,
                    "import_too_slow",
                    f"The import took longer than {MOST_SECONDS} seconds",
                    hint="Send the file in parts.",
                )
            await _import(transaction, options, columns, batch, seen, total)
            yield total
            if options.on_error == "stop" and total.failed >= REPORTED_ERRORS:
                break
        total.problems = []
        if options.dry_run or (total.failed and options.on_error == "stop"):
            raise Rollback
        if total.imported:
            about = {"entity_type": "import", "entity_id": options.kind, "action": "imported", "type": "USER_ACTION"}
            title = f"{total.imported} {options.kind} imported"
            await transaction.run("public.record_activity", as_json(about | {"title": title}))
        total.committed = total.done = True
        await transaction.store(total.model_dump())
    total.done = True
    yield total


async def _import(
    transaction: Transaction,
    options: ImportOptions,
    columns: list[str | None],
    batch: list[tuple[int, list[str]]],
    seen: set[str],
    total: ImportProgress,
) -> None:
    rows: list[dict[str, Any]] = []
    problems: list[LineError] = []
    known = 0
    for index, (number, cells) in enumerate(batch):
        if index % SLICE == 0:
            await asyncio.sleep(0)
        row, problem = _parse(columns, cells)
        email = str(row.get("email", "")).lower()
        if problem:
            problems.append(LineError(line=number, problem=problem))
        elif options.skip_known and email in seen:
            known += 1
        else:
            rows.append({"line": number, "row": row})
            seen |= {email} - {""}
    payload = {"kind": options.kind, "rows": rows, "skip_known": options.skip_known}
    imported = await transaction.run("private.import_rows", as_json(payload))
    problems += [
        LineError(line=each["line"], problem=each["problem"][:ERROR_CHARACTERS]) for each in imported["problems"]
    ]
    total.lines += len(batch)
    total.imported += imported["imported"]
    total.known += known + imported["known"]
    room = max(REPORTED_ERRORS - total.failed, 0)
    total.failed += len(problems)
    total.problems = sorted(problems, key=lambda each: each.line)[:room]


def _columns(options: ImportOptions, names: list[str]) -> tuple[list[str | None], list[str]]:
    """For each column of the file the column of the table; and the columns that are ignored."""
    if len(names) > MOST_COLUMNS:
        raise ApiError(
            422, "invalid_mapping", f"The file has {len(names):,} columns", hint=f"At most {MOST_COLUMNS} are accepted."
        )
    mapping = options.mapping or {name: re.sub(r"\W+", "_", name.strip().lower()) for name in names}
    known = COLUMNS[options.kind]
    columns = [column if (column := mapping.get(name)) in known else None for name in names]
    used = [column for column in columns if column]
    unknown = sorted(set(options.mapping or {}) - set(names) | set((options.mapping or {}).values()) - known)
    if "name" not in used or len(used) != len(set(used)) or unknown:
        raise ApiError(
            422,
            "invalid_mapping",
            "The columns must include `name`, and each column of the table only once",
            details=f"The file has {_list(names)}; unknown: {_list(unknown)}.",
            hint=f"Columns of {options.kind} are {', '.join(sorted(known))}.",
        )
    return columns, [name for name, column in zip(names, columns, strict=True) if not column]


def _parse(columns: list[str | None], cells: list[str]) -> tuple[dict[str, Any], str | None]:
    if len(cells) > len(columns):
        return {}, f"The line has {len(cells)} cells, the first line {len(columns)}"
    row: dict[str, Any] = {}
    for column, text in zip(columns, cells, strict=False):
        if not column or not (cell := text.strip(" ")):
            continue
        if len(cell) > (most := CHARACTERS.get(column, CELL_CHARACTERS)):
            return {}, f"{column} has {len(cell):,} characters, at most {most:,} are accepted"
        if "\0" in cell:
            return {}, f"{column} contains a NUL character"
        if FORMULA.match(cell):
            return {}, f"{column} begins like a formula (=, @, + or -)"
        if column in LISTS:
            parts = [part.strip() for part in cell.split(";", 2 * LISTED) if part.strip()]
            if len(parts) > LISTED:
                return {}, f"{column} lists more than {LISTED} values"
            row[column] = [_word(part) for part in parts] if column == "property_types" else parts
        elif column in NUMBERS:
            row[column] = cell.lstrip("$").replace(",", "")
        else:
            row[column] = _word(cell) if column in WORDS else cell
    return row, None


def _word(cell: str) -> str:
    return re.sub(r"\W+", "_", cell.upper())


def _list(names: list[str]) -> str:
    return ", ".join(names)[:ERROR_CHARACTERS] or "none"
