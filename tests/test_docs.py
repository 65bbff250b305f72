"""What the documents say is so: names, links and tables are those of the project, their examples work as written."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from local import ROOT
from local.database import migrations
from tests.database.isolation.expected import Expected, parse
from tests.database.isolation.matrix import Matrix
from tests.database.lint import advisors, ground, prepare, tenancy
from tests.support.responses import refused
from tests.support.serving import BESIDE, environment, serving
from tests.support.world import ACME, Database

DOCS = ROOT / "docs"
CALLERS = ROOT / "tests/database/isolation/expected.toml"
DOCUMENTS = sorted(DOCS.glob("*.md"))
TESTS = {
    name
    for path in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}


def anchors(document: Path) -> set[str]:
    """What its headings are called in a link."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text()))
    assert named <= TESTS


def test_every_attack_that_is_played_stands_in_the_threat_model() -> None:
    document = (DOCS / "security.md").read_text()
    files = {name: ROOT / name for name in re.findall(r"`(tests/[\w/]+\.py)`", document)}
    assert {name for name, path in files.items() if "test_attack_" not in path.read_text()} == set()
    played = {
        name: str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_attack_\w+)", path.read_text(), re.MULTILINE)
    }
    assert {name: file for name, file in played.items() if f"`{name}`" not in document and file not in files} == {}


@pytest.mark.parametrize(
    "document",
    [*sorted(DOCS.rglob("*.md")), *ROOT.glob("*.md"), *ROOT.glob("clients/*/*.md"), *ROOT.glob("examples/*/*.md")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:{} ]*)(?:#([^)]+))?\)", document.read_text())  # {…} is a value in a snippet
    for file, heading in links:
        path = document.parent / file if file else document
        assert path.exists(), file
        assert not heading or heading in anchors(path), f"{file}#{heading}"


def block(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)  # may be indented, in a list
    assert found
    return found[1]


def test_the_function_of_the_tutorial_works_as_written(tmp_path: Path, fresh_database: Database) -> None:
    tutorial = (DOCS / "functions.md").read_text()
    with fresh_database.connect() as connection:
        connection.execute(block(tutorial, "sql"))
    (tmp_path / "rename_organization.py").write_text(block(tutorial, "python"))
    words = [*BESIDE, str(tmp_path)]
    with serving(tmp_path, environment(fresh_database.url("strive_functions")), words) as functions:

        def rename(name: str, person: str = "admin", **headers: str) -> httpx.Response:
            with functions.client(person) as client:
                return client.post("/functions/v1/rename-organization", json={"name": name}, headers=headers)

        answer = rename("New & Better", **{"idempotency-key": "tutorial"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"id": str(ACME), "name": "New & Better", "slug": "new-better"}
        assert rename("New & Better", **{"idempotency-key": "tutorial"}).headers["idempotency-replayed"] == "true"
        refused(rename("Globex"), 409, "PT409")
        refused(rename("x"), 422, "invalid_body")
        refused(rename("Mine", "member"), 403, "42501")
        with functions.client(None) as client:
            paths = client.get("/functions/v1/openapi.json").json()["paths"]
        assert paths["/rename-organization"]["post"]["summary"] == "Rename the organization"


def test_tutorials_pass_the_checks_of_tables_and_functions(fresh_database: Database) -> None:
    tutorial, function = (DOCS / "tables.md").read_text(), (DOCS / "functions.md").read_text()
    expected = Expected.read()
    header, call = CALLERS.read_text().partition("[functions]")[2].splitlines()[3], block(function, "text").strip()
    called = parse(f"{header}\n{call}")
    columns = tomllib.loads(block(tutorial, "toml"))["columns"]["offers"]
    assert "[class.business]" in tutorial
    expected = replace(
        expected,
        lines={**expected.lines, "offers": expected.lines["projects"]},
        without={**expected.without, "offers": expected.without["projects"]},
        columns={**expected.columns, "offers": columns},
        functions={**expected.functions, **called},
    )
    rules = [*advisors.RULES, *tenancy.RULES, *ground.RULES]
    with fresh_database.connect("supabase_admin") as superuser, fresh_database.connect() as owner:
        prepare(superuser)
        before = [rule.offences(superuser) for rule in rules]
        owner.execute(block(tutorial, "sql"))
        owner.execute(block(function, "sql"))
        assert [rule.offences(superuser) for rule in rules] == before
        matrix = Matrix(superuser, expected)
        matrix.populate(owner)
        cells = matrix.check_table("offers")
        assert len(cells) > 100
        assert [str(cell) for cell in cells if not cell.holds] == []
        assert matrix.check_grants("offers") == []
        (name,) = called
        assert [str(cell) for cell in matrix.check_function(name) if not cell.holds] == []


def test_the_readme_leads_to_every_document_and_every_picture() -> None:
    readme = (ROOT / "README.md").read_text()
    wanted = [
        *(path for path in DOCUMENTS if path.name != "index.md"),
        DOCS / "benchmarks/README.md",
        *(DOCS / "pages").iterdir(),
        DOCS / "request.svg",
    ]
    assert [path.name for path in wanted if f"]({path.relative_to(ROOT)}" not in readme] == []
    plots = (DOCS / "benchmarks/README.md").read_text()
    assert [path.name for path in (DOCS / "benchmarks").glob("*.svg") if f"]({path.name})" not in plots] == []


def test_every_chapter_of_the_schema_stands_in_the_document() -> None:
    said = re.findall(
        r"`([a-z_]+)`", "".join(re.findall(r"^\| (`[a-z_`, ]+) \|", (DOCS / "schema.md").read_text(), re.MULTILINE))
    )
    assert sorted(said) == sorted(name for _, name, _ in migrations())


def test_every_setting_stands_in_the_document() -> None:
    document = (DOCS / "deployment.md").read_text()
    read = re.findall(
        r'"((?:SUPABASE|STRIPE|DATABASE|OTEL_EXPORTER)_[A-Z_]+)"', (ROOT / "shared/settings.py").read_text()
    )
    assert len(read) > 8
    for name in read:
        spoken_for = name in document or name.startswith("OTEL_EXPORTER_OTLP_")
        assert spoken_for, name


def test_every_module_of_the_runtime_stands_in_the_document() -> None:
    document = (DOCS / "functions.md").read_text()
    for path in (ROOT / "shared").glob("*.py"):
        assert path.name in document or path.name in {"__init__.py", "settings.py"}, path.name


def test_every_job_stands_in_the_document_with_its_time(database: Database) -> None:
    _, _, document = (DOCS / "operations.md").read_text().partition("## Jobs")
    said = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", document, re.MULTILINE))
    with database.connect() as connection:
        jobs = dict(connection.execute("select name, schedule from private.jobs").fetchall())
    assert {name: crontab(when) for name, when in said.items()} == jobs


def test_every_attention_kind_is_documented(database: Database) -> None:
    attention = (DOCS / "operations.md").read_text().partition("## Keys")[0]
    said = {kind for row in re.findall(r"^\| (`[A-Z_]+`.*?) \|", attention, re.MULTILINE) for kind in row.split(", ")}
    with database.connect() as connection:
        labels = "select enumlabel from pg_enum where enumtypid = %s::regtype"
        events = {label for (label,) in connection.execute(labels, ['public."StripeEventStatus"'])}
        refunds = {label for (label,) in connection.execute(labels, ['public."RefundStatus"'])}
        (view,) = connection.execute("select pg_get_viewdef('public.billing_attention'::regclass)").fetchone() or ("",)
    kinds = events - {"APPLIED", "IGNORED"} | {f"REFUND_{label}" for label in refunds - {"REFUNDED", "WITHDRAWN"}}
    others = set(re.findall(r"SELECT '([A-Z_]+)'::text", view))
    assert len(others) == 3
    assert said == {f"`{kind}`" for kind in kinds | others}


def test_every_warning_and_error_log_line_is_documented() -> None:
    document = (DOCS / "operations.md").read_text()
    sources = [path.read_text() for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")]
    logged = {
        text for source in sources for text in re.findall(r'log\(\s*"?(?:WARNING|ERROR|severity)"?,\s*"(.*?)"', source)
    }
    assert len(logged) >= 7
    assert {text for text in logged if f"`{text}`" not in document} == set()


def crontab(when: str) -> str:
    if when == "every minute":
        return "* * * * *"
    if often := re.fullmatch(r"every (\d+) minutes", when):
        return f"*/{often[1]} * * * *"
    if hourly := re.fullmatch(r"at minute (\d+)( of every hour)?", when):
        return f"{hourly[1]} * * * *"
    hour, minute = when.removeprefix("at ").split(":")
    return f"{minute} {hour} * * *"
