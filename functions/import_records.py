import csv
import io
import re
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

from psycopg import Rollback
from pydantic import Field, Json

from shared.app.call import Upload, as_json
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError

PEOPLE = ("name", "email", "phone", "company", "notes", "tags", "budget", "property_types", "cities", "min_bedrooms")
COLUMNS = {
    "leads": {*PEOPLE, "source", "status", "score_value", "timeline"},
    "contacts": {*PEOPLE, "position", "type", "status"},
}
LISTS = {"tags", "cities", "property_types"}
WORDS = {"source", "status", "type"}
NUMBERS = {"budget", "score_value", "min_bedrooms"}
BATCH = 1000
LONGEST_REPORT = 1000
# What a spreadsheet would run; numbers and telephone numbers do nothing.
FORMULA = re.compile(r"[=@\t\r\n]|[-+](?![0-9(). /-]*$)")


class Import(RequestModel):
    """How a file is read; its first line names the columns."""

    kind: Literal["leads", "contacts"]
    mapping: Annotated[
        Json[dict[str, str]] | None,
        Field(description="Columns of the file to columns of the table; without it they are taken by their names."),
    ] = None
    dry_run: Annotated[bool, Field(description="Report, and import nothing.")] = False
    on_error: Annotated[
        Literal["stop", "skip"], Field(description="stop: all lines or none; skip: all but the wrong ones.")
    ] = "stop"
    skip_known: Annotated[bool, Field(description="Leave out whose email the organisation has already.")] = False


class Problem(ResponseModel):
    line: int
    problem: str


class Progress(ResponseModel):
    """A line of the answer; the last one is `done`, and only it says whether anything was kept."""

    done: bool
    committed: bool
    lines: int
    imported: int
    failed: int
    known: int
    problems: list[Problem]
    ignored_columns: list[str]


@function("user", upload="text/csv", idempotent=True)
async def import_records(upload: Upload[Import]) -> AsyncIterator[Progress]:
    """Import leads or contacts from a CSV file.

    The answer is a line of JSON for every thousand lines of the file, and a last one. A cell that a spreadsheet would
    take for a formula is an error of its line. An upload repeated with its Idempotency-Key is imported once: the answer
    is the last line of the first one.
    """
    asked = upload.body
    reader = csv.reader(io.TextIOWrapper(upload.file, "utf-8-sig", newline=""), strict=True)
    columns, ignored = _columns(asked, _lines(reader))
    total = Progress(
        done=False, committed=False, lines=0, imported=0, failed=0, known=0, problems=[], ignored_columns=ignored
    )
    seen: set[str] = set()
    async with upload.transaction("import_records") as transaction:
        if transaction.stored:
            yield Progress(**transaction.stored)
            return
        lines = _lines(reader)
        while batch := list(islice(lines, BATCH)):
            rows: list[dict[str, Any]] = []
            problems: list[dict[str, Any]] = []
            known = 0
            for number, cells in batch:
                row, problem = _read(columns, cells)
                email = str(row.get("email", "")).lower()
                if problem:
                    problems.append({"line": number, "problem": problem})
                elif asked.skip_known and email in seen:
                    known += 1
                else:
                    rows.append({"line": number, "row": row})
                    seen |= {email} - {""}
            answer = await transaction.run(
                "private.import_rows", as_json({"kind": asked.kind, "rows": rows, "skip_known": asked.skip_known})
            )
            problems = sorted(problems + answer["problems"], key=lambda each: int(each["line"]))
            total.lines += len(batch)
            total.imported += answer["imported"]
            total.failed += len(problems)
            total.known += known + answer["known"]
            room = LONGEST_REPORT - (total.failed - len(problems))
            total.problems = [Problem(**each) for each in problems[: max(room, 0)]]
            yield total
        total.problems = []
        if asked.dry_run or (total.failed and asked.on_error == "stop"):
            raise Rollback
        if total.imported:
            title = f"{total.imported} {asked.kind} imported"
            about = {"entity_type": "import", "entity_id": asked.kind, "action": "imported", "type": "USER_ACTION"}
            await transaction.run("public.record_activity", as_json(about | {"title": title}))
        total.committed = total.done = True
        await transaction.store(total.model_dump())
    total.done = True
    yield total


def _lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The lines that hold something, each with its number in the file."""
    try:
        for cells in reader:
            if any(cells):
                yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise ApiError(
            400, "malformed_csv", "The file is not CSV in UTF-8", details=f"After line {reader.line_num}: {error}."
        ) from None


def _columns(asked: Import, lines: Iterator[tuple[int, list[str]]]) -> tuple[list[str | None], list[str]]:
    """The column of the table for each of the file; and those of the file that nobody reads."""
    _, names = next(lines, (0, []))
    mapping = asked.mapping or {name: re.sub(r"\W+", "_", name.strip().lower()) for name in names}
    known = COLUMNS[asked.kind]
    columns = [column if (column := mapping.get(name)) in known else None for name in names]
    used = [column for column in columns if column]
    unknown = sorted(set(asked.mapping or {}) - set(names) | set((asked.mapping or {}).values()) - known)
    if "name" not in used or len(used) != len(set(used)) or unknown:
        raise ApiError(
            422,
            "invalid_mapping",
            "The columns of the file do not fit: one is the name, and each is mapped once",
            details=f"The file has {', '.join(names) or 'none'}; not known: {', '.join(unknown) or 'none'}.",
            hint=f"Columns of {asked.kind} are {', '.join(sorted(known))}.",
        )
    return columns, [name for name, column in zip(names, columns, strict=True) if not column]


def _read(columns: list[str | None], cells: list[str]) -> tuple[dict[str, Any], str | None]:
    if len(cells) > len(columns):
        return {}, f"It has {len(cells)} cells, the first line has {len(columns)}"
    row: dict[str, Any] = {}
    for column, text in zip(columns, cells, strict=False):
        if not column or not (cell := text.strip(" ")):
            continue
        if "\0" in cell:
            return {}, f"{column} holds a NUL"
        if FORMULA.match(cell):
            return {}, f"{column} begins like a formula"
        if column in LISTS:
            parts = [part.strip() for part in cell.split(";") if part.strip()]
            row[column] = [_word(part) for part in parts] if column == "property_types" else parts
        elif column in NUMBERS:
            row[column] = cell.lstrip("$").replace(",", "")
        else:
            row[column] = _word(cell) if column in WORDS else cell
    return row, None


def _word(cell: str) -> str:
    return re.sub(r"\W+", "_", cell.upper())
