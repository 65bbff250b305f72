"""The counts in docs/supabase.md, from the recorded answers.

`python -m tests.local.postgrest.closeness` writes them.
"""

import re
from pathlib import Path

from local import ROOT
from tests.local.postgrest.replay import recorded

DOCUMENT: Path = ROOT / "docs" / "supabase.md"
BEGIN, END = "<!-- counts: begin -->", "<!-- counts: end -->"

SUBJECTS = {
    "operators": "filters",
    "logic": "`and`, `or`, `not`",
    "select": "columns, aliases, casts, JSON paths",
    "types": "values of every type",
    "order": "`order`",
    "paging": "`limit`, `offset`, Range",
    "counts": "`Prefer: count`",
    "embed": "embedded resources",
    "names": "unusual names",
    "accept": "media types",
    "insert": "POST",
    "tx": "`Prefer: tx`",
    "missing": "`columns`, `Prefer: missing`",
    "payload": "bodies: JSON, CSV, forms",
    "update": "PATCH",
    "unfiltered": "PATCH and DELETE without a filter",
    "max-affected": "`Prefer: max-affected`",
    "delete": "DELETE",
    "upsert": "`Prefer: resolution`, `on_conflict`",
    "put": "PUT",
    "group": "requests that build on each other",
    "rpc": "functions by GET",
    "rpc-post": "functions by POST",
    "errors": "errors of the database",
    "rls": "row-level security",
    "jwt": "tokens",
    "claims": "claims in the database",
    "settings": "settings of the request",
    "prefer": "other preferences",
    "schemas": "schema profiles",
    "methods": "HTTP methods",
    "paths": "paths",
    "root": "the description of the API",
}
# Classes in which the stack follows hosted projects; see local/api/README.md.
ON_PURPOSE = {"unfiltered", "tx", "methods", "root"}


def table() -> str:
    classes = recorded()
    rows = [
        f"| `{name}` | {SUBJECTS[name]} | {len(cases)} | {'as hosted' if name in ON_PURPOSE else 'equal'} |"
        for name, cases in classes.items()
    ]
    total = sum(map(len, classes.values()))
    equal = sum(len(cases) for name, cases in classes.items() if name not in ON_PURPOSE)
    head = "| class | subject | recorded requests | the stack |\n|---|---|---:|---|"
    return "\n".join([head, *rows, f"| **all** | | **{total}** | **{equal} equal, {total - equal} as hosted** |"])


def with_counts(text: str) -> str:
    return re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n{table()}\n{END}", text, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(with_counts(DOCUMENT.read_text()))
