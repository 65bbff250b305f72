"""`strive new`: write the files with which a function, a table or a flag begins."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from local import ROOT, StackError

FUNCTION = '''from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function


class {model}Request(RequestModel):
    name: str = Field(min_length=1, max_length=100)


class {model}Result(ResponseModel):
    name: str


@function("user", idempotent=True)
async def {name}(call: Call[{model}Request]) -> Result[{model}Result]:
    """{title}."""
    return await call.run("public.{name}", call.body)
'''
OPERATION = """-- {title}.
create function public.{name}(request jsonb) returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform private.require_org('MEMBER');
  return jsonb_build_object('name', request ->> 'name');
end $$;
comment on function public.{name}(jsonb) is '{title}.';
grant execute on function public.{name}(jsonb) to authenticated;
"""
FUNCTION_TEST = '''"""{title}."""

from tests.support.responses import refused
from tests.support.serving import Serving

PATH = "/functions/v1/{url}"


def test_member_gets_the_result(functions: Serving) -> None:
    with functions.client("member") as client:
        response = client.post(PATH, json={{"name": "x"}})
    assert (response.status_code, response.json()) == (200, {{"name": "x"}})


def test_viewer_is_refused(functions: Serving) -> None:
    with functions.client("viewer") as client:
        refused(client.post(PATH, json={{"name": "x"}}), 403, "42501")
'''
TABLE = """-- {title}.
create table public.{name} (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid not null default private.current_user_org()
    references public.organizations (id) on delete cascade,
  name text not null constraint "name has 1 to 200 characters" check (length(name) between 1 and 200),
  description text constraint "description has at most 2000 characters" check (length(description) <= 2000),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id)
);
comment on table public.{name} is '{title}.';
comment on column public.{name}.id is 'Identifier of the row.';
comment on column public.{name}.organization_id is 'The organization that owns the row.';
comment on column public.{name}.name is 'What people call it.';
comment on column public.{name}.description is 'More about it.';
comment on column public.{name}.created_at is 'When the row was created.';
comment on column public.{name}.updated_at is 'When the row was last changed.';
create index {name}_organization_idx on public.{name} (organization_id, created_at desc);
create trigger touch before update on public.{name} for each row execute function private.touch_updated_at();

alter table public.{name} enable row level security;
create policy "members read {name}" on public.{name} for select to authenticated
  using (organization_id = (select private.current_user_org()));
create policy "members insert {name}" on public.{name} for insert to authenticated
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "members update {name}" on public.{name} for update to authenticated
  using (organization_id = (select private.current_user_org('MEMBER')))
  with check (organization_id = (select private.current_user_org('MEMBER')));
create policy "admins delete {name}" on public.{name} for delete to authenticated
  using (organization_id = (select private.current_user_org('ADMIN')));
grant select, delete, insert (organization_id, name, description), update (name, description)
  on public.{name} to authenticated;
grant all on public.{name} to service_role;
select private.bound_client_columns(), private.explain_refusals(), private.limit_rows(), private.guard_moves();
"""
TABLE_TEST = '''"""{title}."""

import pytest
from psycopg.errors import CheckViolation

from tests.support.rows import add
from tests.support.world import ACME, Database


def test_row_belongs_to_the_organization_of_the_member(database: Database) -> None:
    with database.acting_as("member") as cursor:
        assert add(cursor, "{name}", name="One")["organization_id"] == ACME


def test_row_without_a_name_is_refused(database: Database) -> None:
    with database.acting_as("member") as cursor, pytest.raises(CheckViolation, match="name has 1 to 200 characters"):
        add(cursor, "{name}", name="")
'''
FLAG_TEST = '''"""A flag: test here what the code does while it is off, and while it is on."""

from tests.support.served_flags import evaluate, is_on, make, wait_for
from tests.support.serving import Serving
from tests.support.world import Database

FLAG = "{name}"


def test_flag_is_off_until_it_is_enabled(database: Database, functions: Serving) -> None:
    make(database, FLAG, is_enabled=False)
    wait_for(lambda: evaluate(functions, FLAG, person="member").status_code == 200)
    assert not is_on(evaluate(functions, FLAG, person="member"))
    make(database, FLAG)
    wait_for(lambda: is_on(evaluate(functions, FLAG, person="member")))
'''
FLAG = """  ('{name}', '{title}.', false, 0, '{{}}', auth.uid()),\n"""
NAMES = {
    "function": (r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", "words in lower case, such as rename-organization"),
    "table": (r"[a-z][a-z0-9]*(_[a-z0-9]+)*", "words in lower case joined by _, such as price_offers"),
    "flag": (r"[a-z0-9._-]{1,100}", "lower case letters, digits and . _ -, such as crm.offers"),
}
EXPECTED = "tests/database/isolation/expected.toml"
NEXT = """Name the group of {url} in DOMAINS of shared/app/openapi.py, and show a call of {name} in a page of docs/;
`make check` requires both."""
CHAPTERS = "docs/schema.md"
SEED = "supabase/seed.sql"
FLAGS = re.compile(r"insert into public\.feature_flags \(.*\)\nvalues\n")
# MEMBER and above of the own organization; in the order of the callers in the expected access.
MEMBERS = "no no no ok ok ok ok no PT403 no no no"


def new(kind: str, name: str, root: Path = ROOT) -> list[str]:
    """Write the files; return what was written and what to do next, a line each."""
    pattern, example = NAMES[kind]
    if not re.fullmatch(pattern, name):
        raise StackError(f"{name!r} is not a name for a {kind}.", f"Use {example}.")
    snake = re.sub(r"[.-]", "_", name)
    title = re.sub(r"[._-]+", " ", name).capitalize()
    if kind == "flag":
        return _flag(root, name, title)
    migrations = root / "supabase/migrations"
    created = f"create {kind} public.{snake}"
    if taken := [path.name for path in migrations.glob("*.sql") if re.search(rf"{created}\b", path.read_text())]:
        raise StackError(f"{taken[0]} has a {kind} {snake} already.", "Choose another name.")
    time = datetime.now(UTC)
    while any(migrations.glob(f"{time:%Y%m%d%H%M%S}_*")):  # a version belongs to one chapter
        time += timedelta(seconds=1)
    chapter = f"supabase/migrations/{time:%Y%m%d%H%M%S}_{snake}.sql"
    if kind == "function":
        model = "".join(word.capitalize() for word in snake.split("_"))
        files = {
            f"functions/{snake}.py": FUNCTION.format(name=snake, model=model, title=title),
            chapter: OPERATION.format(name=snake, title=title),
            f"tests/functions/test_{snake}.py": FUNCTION_TEST.format(url=snake.replace("_", "-"), title=title),
        }
    else:
        files = {
            chapter: TABLE.format(name=snake, title=title),
            f"tests/database/test_{snake}.py": TABLE_TEST.format(name=snake, title=title),
        }
    if exists := [path for path in files if (root / path).exists()]:
        raise StackError(f"{exists[0]} exists already.", "Choose another name.")
    for path, text in files.items():
        (root / path).write_text(text)
    _name_chapter(root / CHAPTERS, snake, title)
    (_expect_function if kind == "function" else _expect_table)(root / EXPECTED, snake)
    return [
        *(f"wrote {path}" for path in files),
        f"added {snake} to {EXPECTED}: who may do what",
        f"added {snake} to {CHAPTERS}: say there what it is for",
        "`make dev` applies a new chapter at once. Then run `make schema` and `make check`.",
        *(NEXT.format(name=snake, url=snake.replace("_", "-")).splitlines() if kind == "function" else []),
    ]


def _flag(root: Path, name: str, title: str) -> list[str]:
    """Add a flag to the demo data. In a deployment an admin creates it: no migration knows who that will be."""
    seed, test = root / SEED, f"tests/functions/test_flag_{re.sub(r'[.-]', '_', name)}.py"
    text = seed.read_text()
    if f"('{name}'," in text:
        raise StackError(f"{SEED} has a flag {name} already.", "Choose another name.")
    if (root / test).exists():
        raise StackError(f"{test} exists already.", "Choose another name.")
    (root / test).write_text(FLAG_TEST.format(name=name))
    row = FLAG.format(name=name, title=title)
    seed.write_text(FLAGS.sub(lambda insert: insert[0] + row, text))
    return [
        f"wrote {test}",
        f"added {name}, off, to {SEED}; `strive reset` creates it on this machine",
        "In a deployment a platform admin creates it; until then it is off: docs/flags.md",
    ]


def _name_chapter(page: Path, chapter: str, title: str) -> None:
    """Add a row to the table of chapters."""
    before, rows, after = re.split(r"((?:^\| `.*\n)+)", page.read_text(), maxsplit=1, flags=re.MULTILINE)
    page.write_text(f"{before}{rows}| `{chapter}` | {title.lower()} |\n{after}")


def _expect_function(file: Path, function: str) -> None:
    """Add the function to the expected access as one that MEMBER and above may call."""
    before, table, after = file.read_text().partition("\nmy_account()")
    file.write_text(f'{before}\n{function}(\'{{"name": "x"}}\') {MEMBERS}{table}{after}')


def _expect_table(file: Path, table: str) -> None:
    """Add the table to the business class of the expected access, which VIEWER reads and MEMBER writes."""
    before, header, after = file.read_text().partition("[class.business]")
    after = re.sub(r"(tables = \[)", rf'\1"{table}", ', after, count=1).rstrip("\n")
    columns = f'\n\n[columns.{table}]\ninsert = "organization_id name description"\nupdate = "name description"\n'
    file.write_text(before + header + after + columns)
