"""The documents are correct: names, links and tables exist, examples work as written."""

import re
from pathlib import Path

import httpx
import pytest

from local import ROOT
from local.database import migrations
from tests.support.responses import refused
from tests.support.serving import BESIDE, environment, serving
from tests.support.world import ACME, Database

DOCS = ROOT / "docs"
DOCUMENTS = sorted(DOCS.glob("*.md"))
TESTS = {
    name
    for path in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}


def anchors(document: Path) -> set[str]:
    """The anchors of its headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text()))
    assert named <= TESTS


def test_every_attack_test_is_in_the_threat_model() -> None:
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
        connection.execute("drop function if exists public.rename_organization")  # of a reader who followed the recipe
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


def test_every_operation_has_an_example(database: Database) -> None:
    with database.connect() as connection:
        operations = connection.execute(
            "select distinct proname from pg_proc where pronamespace = 'public'::regnamespace"
            " and prorettype <> 'trigger'::regtype and has_function_privilege('authenticated', oid, 'execute')"
        ).fetchall()
    pages = "\n".join(path.read_text() for path in DOCUMENTS)
    code = "\n".join(re.findall(r"^ *```\w+\n(.*?)^ *```$", pages, re.MULTILINE | re.DOTALL))
    assert [name for (name,) in operations if not re.search(rf"\b{name}\b", code)] == []


def test_the_readme_leads_to_every_document_and_every_picture() -> None:
    readme = (ROOT / "README.md").read_text()
    wanted = [
        *(path for path in DOCUMENTS if path.name != "index.md"),
        DOCS / "benchmarks/README.md",
        *(DOCS / "pages").iterdir(),
        DOCS / "request.svg",
    ]
    assert [path.name for path in wanted if f"]({path.relative_to(ROOT)}" not in readme] == []
    pictures = [path.read_bytes()[16:24] for path in (DOCS / "pages").iterdir()]  # width and height of a PNG
    assert len(set(pictures)) == 1
    plots = (DOCS / "benchmarks/README.md").read_text()
    assert [path.name for path in (DOCS / "benchmarks").glob("*.svg") if f"]({path.name})" not in plots] == []


# 390 µs, 2,000 requests a second, 1,100 lines: results of measurements, out of date after the next change.
MEASURED = re.compile(
    r"\d[\d,.]* ?(?:µs|ms|s|MB/s)(?![\w/])|\d[\d,.]* (?:\w+ )?(?:a|per) second|\d[\d,.]* lines\b"
    r"|(?:two|three|four|five|six|seven|eight|nine|ten) (?:to \w+ )?times (?:as|faster|slower)"
)
GENERATED = re.compile(r"<!-- (\w+): begin -->.*?<!-- \1: end -->|```.*?```", re.DOTALL)


def test_measured_figures_are_in_generated_files_alone() -> None:
    """`make bench` writes docs/benchmarks and the marked parts of pages; decisions are records of their day."""
    pages = [
        ROOT / "README.md",
        *DOCUMENTS,
        *DOCS.glob("build/*.md"),
        *ROOT.glob("clients/*/*.md"),
        *ROOT.glob("examples/*/*.md"),
    ]
    found = {page.name: MEASURED.findall(GENERATED.sub("", page.read_text())) for page in pages}
    assert {name: figures for name, figures in found.items() if figures} == {}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = set(re.findall(r"(?:^|[ :])([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    # A new chapter may make a page of the reference; the page is found by search until the navigation names it.
    required = {page for page in pages if not page.startswith("reference/")}
    assert required <= navigation
    assert navigation - pages == {"changelog.md"}


def test_every_schema_chapter_is_documented() -> None:
    documented = re.findall(
        r"`([a-z_]+)`", "".join(re.findall(r"^\| (`[a-z_`, ]+) \|", (DOCS / "schema.md").read_text(), re.MULTILINE))
    )
    assert sorted(documented) == sorted(name for _, name, _ in migrations())


def test_every_setting_is_documented() -> None:
    document = (DOCS / "deployment.md").read_text()
    read = re.findall(
        r'"((?:SUPABASE|STRIPE|DATABASE|OTEL_EXPORTER|SMTP|MAIL|APP|FUNCTIONS)_[A-Z_]+)"',
        (ROOT / "shared/settings.py").read_text(),
    )
    assert len(read) > 8
    for name in read:
        spoken_for = name in document or name.startswith("OTEL_EXPORTER_OTLP_")
        assert spoken_for, name


def test_every_runtime_module_is_documented() -> None:
    document = (DOCS / "functions.md").read_text()
    for path in (ROOT / "shared").glob("*.py"):
        assert path.name in document or path.name in {"__init__.py", "settings.py"}, path.name


def test_every_job_is_documented_with_its_schedule(database: Database) -> None:
    _, _, document = (DOCS / "operations.md").read_text().partition("## Jobs")
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", document, re.MULTILINE))
    with database.connect() as connection:
        jobs = dict(connection.execute("select name, schedule from private.jobs").fetchall())
    assert {name: crontab(when) for name, when in documented.items()} == jobs


def test_every_attention_kind_is_documented(database: Database) -> None:
    attention = (DOCS / "operations.md").read_text().partition("## Keys")[0]
    documented = {
        kind for row in re.findall(r"^\| (`[A-Z_]+`.*?) \|", attention, re.MULTILINE) for kind in row.split(", ")
    }
    with database.connect() as connection:
        labels = "select enumlabel from pg_enum where enumtypid = %s::regtype"
        events = {label for (label,) in connection.execute(labels, ['public."StripeEventStatus"'])}
        refunds = {label for (label,) in connection.execute(labels, ['public."RefundStatus"'])}
        (view,) = connection.execute("select pg_get_viewdef('public.billing_attention'::regclass)").fetchone() or ("",)
    kinds = events - {"APPLIED", "IGNORED"} | {f"REFUND_{label}" for label in refunds - {"REFUNDED", "WITHDRAWN"}}
    others = set(re.findall(r"SELECT '([A-Z_]+)'::text", view))
    assert len(others) == 3
    assert documented == {f"`{kind}`" for kind in kinds | others}


def test_every_warning_and_error_log_line_is_documented() -> None:
    document = (DOCS / "operations.md").read_text()
    sources = [path.read_text() for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")]
    logged = {
        text for source in sources for text in re.findall(r'log\(\s*"?(?:WARNING|ERROR|severity)"?,\s*"(.*?)"', source)
    }
    assert len(logged) >= 7
    assert {text for text in logged if f"`{text}`" not in document} == set()


WEEKDAYS = {"": "*", "Mondays": "1"}


def crontab(when: str) -> str:
    if when == "every minute":
        return "* * * * *"
    if often := re.fullmatch(r"every (\d+) minutes", when):
        return f"*/{often[1]} * * * *"
    if hourly := re.fullmatch(r"at minute (\d+)( of every hour)?", when):
        return f"{hourly[1]} * * * *"
    time, _, day = when.removeprefix("at ").partition(" on ")
    hour, minute = map(int, time.split(":"))
    return f"{minute} {hour} * * {WEEKDAYS[day]}"
