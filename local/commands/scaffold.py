"""`strive new`: write the files with which a function, a table or a flag begins."""

import re
from datetime import UTC, datetime
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
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (organization_id, id)
);
comment on table public.{name} is '{title}.';
comment on column public.{name}.id is 'Identifier of the row.';
comment on column public.{name}.organization_id is 'The organization that owns the row.';
comment on column public.{name}.name is 'What people call it.';
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
grant select, delete, insert (organization_id, name), update (name) on public.{name} to authenticated;
grant all on public.{name} to service_role;
"""
FLAG = """-- {title}. Off until an admin turns it on.
insert into public.feature_flags (name, description, is_enabled) values ('{name}', '{title}.', false);
"""
NAMES = {
    "function": (r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", "words in lower case, such as rename-organization"),
    "table": (r"[a-z][a-z0-9]*(_[a-z0-9]+)*", "words in lower case joined by _, such as price_offers"),
    "flag": (r"[a-z0-9._-]{1,100}", "lower case letters, digits and . _ -, such as crm.offers"),
}
EXPECTED = "tests/database/isolation/expected.toml"


def new(kind: str, name: str, root: Path = ROOT) -> list[str]:
    """Write the files; return what was written and what to do next, a line each."""
    pattern, example = NAMES[kind]
    if not re.fullmatch(pattern, name):
        raise StackError(f"{name!r} is not a name for a {kind}.", f"Use {example}.")
    snake = re.sub(r"[.-]", "_", name)
    title = re.sub(r"[._-]+", " ", name).capitalize()
    migration = f"supabase/migrations/{datetime.now(UTC):%Y%m%d%H%M%S}_{snake}.sql"
    match kind:
        case "function":
            model = "".join(word.capitalize() for word in snake.split("_"))
            files = {
                f"functions/{snake}.py": FUNCTION.format(name=snake, model=model, title=title),
                migration: OPERATION.format(name=snake, title=title),
                f"tests/functions/test_{snake}.py": FUNCTION_TEST.format(url=snake.replace("_", "-"), title=title),
            }
            after = ["Write the document again: .venv/bin/python -m functions openapi > docs/openapi.json"]
        case "table":
            files = {migration: TABLE.format(name=snake, title=title)}
            after = [_expect(root / EXPECTED, snake), "Write the generated files again: make schema"]
        case _:
            files = {migration: FLAG.format(name=name, title=title)}
            after = [f'Ask for it: call.flags().is_on("{name}", …), or from a client through evaluate-flag']
    if taken := [path for path in files if (root / path).exists()]:
        raise StackError(f"{taken[0]} exists already.", "Choose another name.")
    for path, text in files.items():
        (root / path).write_text(text)
    return [f"wrote {path}" for path in files] + after + ["Run `make dev` or `strive reset`, then `make check`."]


def _expect(file: Path, table: str) -> str:
    """Add the table to the business class of the expected access, which VIEWER reads and MEMBER writes."""
    text = file.read_text()
    header = "[class.business]"
    start = text.index(header)
    changed = re.sub(r"(tables = \[)", rf'\1"{table}", ', text[start:], count=1)
    columns = f'\n[columns.{table}]\ninsert = "organization_id name"\nupdate = "name"\n'
    file.write_text(text[:start] + changed.rstrip("\n") + "\n" + columns)
    return f"added {table} to {EXPECTED}"
