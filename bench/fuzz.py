"""Random requests to the data API and the functions: `python -m bench.fuzz [SECONDS] [SEED]` (600 seconds by default).

One generator of our own for PostgREST and for bodies of functions, then Schemathesis for what the functions' document
promises. It ends with status 1 if a response is a 5xx that is neither documented nor a 503 with a code, and prints
those.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import httpx

from bench.drill.neighbor import Account
from bench.drill.stack import running
from local import ROOT
from local.stack import Stack

HANDS = 4
TABLES = """
    select c.relname, array_agg(a.attname::text order by a.attnum)
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') group by 1 order by 1
"""
FUNCTIONS = """
    select p.proname, coalesce(p.proargnames, '{}') from pg_proc p
    where p.pronamespace = 'public'::regnamespace order by 1
"""
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 1e-308, 0.1, "", " ", "NaN", "Infinity",
    "-infinity",
    "1e400", "null", "'", '"', "\\", "%", "*", "\u0001", "\u202e", "😀" * 50, "a" * 300, "x" * 20_000,
    "--", "/*", "$1", "{}", "[]",
    "2026-01-01", "0001-01-01", "infinity", "294276-12-31", "12:00", "P1D", "OWNER", "FREE", "{a,b}",
    "(1,2)", "(,)", "[1,2)",
    [], {}, [None], [[]], {"a": None}, {"": ""},
    {"$in": 1}, [{}] * 50, {"a": {"b": {"c": [1, 2, {"d": "e"}]}}},
    {"source": "leads", "aggregate": "count"}, {"source": "deals", "aggregate": "sum", "column": "value",
     "period": "9999y"},
]  # fmt: skip
OPERATORS = (
    *(
        "eq",
        "neq",
        "gt",
        "lt",
        "gte",
        "lte",
        "like",
        "ilike",
        "match",
        "imatch",
        "in",
        "is",
        "isdistinct",
        "fts",
        "plfts",
    ),
    *("phfts", "wfts", "cs", "cd", "ov", "sl", "sr", "adj", "not"),
)
PREFER = [
    "return=representation",
    "count=exact",
    "count=planned",
    "resolution=merge-duplicates",
    "missing=default",
    "tx=rollback",
]
UNFIT = 500


class Fuzzer:
    def __init__(self, stack: Stack, seed: int) -> None:
        self.dice = random.Random(seed)
        self.eve = Account(stack.values(), "fuzz")
        self.eve.found(stack, "ELITE")
        with stack.cluster.connect() as connection:
            self.tables: dict[str, list[str]] = dict(connection.execute(TABLES).fetchall())
            self.functions: list[tuple[str, list[str]]] = connection.execute(FUNCTIONS).fetchall()
        document = self.eve.http.get("/functions/v1/openapi.json").raise_for_status().json()
        self.paths = [(path, method) for path, methods in document["paths"].items() for method in methods]
        self.documented = {
            (method.upper(), f"/functions/v1{path}"): set(operation["responses"])
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        self.names = sorted(
            set(document["components"]["schemas"]) | {"type", "title", "organization_id", "token", "step"}
        )

    def value(self) -> Any:
        made = self.dice.choice(NASTY)
        return self.dice.choice([made, made, str(uuid4()), self.eve.organization, self.eve.user])

    def text(self) -> str:
        made = self.value()
        return made if isinstance(made, str) else json.dumps(made)

    def row(self, columns: list[str]) -> dict[str, Any]:
        row = {column: self.value() for column in self.dice.sample(columns, self.dice.randint(0, min(5, len(columns))))}
        return row | ({"organization_id": self.eve.organization} if self.dice.random() < 0.7 else {})

    def filters(self, columns: list[str]) -> list[tuple[str, str]]:
        chosen = []
        for _ in range(self.dice.randint(0, 3)):
            name = self.dice.choice(
                [*columns, "and", "or", "select", "order", "limit", "offset", "columns", "on_conflict"]
            )
            value = self.dice.choice(
                [f"{self.dice.choice(OPERATORS)}.{self.text()}", self.text(), self.dice.choice(columns)]
            )
            chosen.append((name, value[:2000]))
        return chosen

    def data_request(self) -> tuple[str, str, dict[str, Any]]:
        table, columns = self.dice.choice(list(self.tables.items()))
        other = self.dice.choice(list(self.tables))
        parameters = self.filters(columns)
        if self.dice.random() < 0.3:
            parameters.append(("select", f"*,{other}(*)"))
        method = self.dice.choice(["GET", "GET", "POST", "PATCH", "DELETE", "HEAD", "PUT"])
        if method in {"PATCH", "DELETE"}:  # of few rows, so that some remain
            parameters.append(("id", f"eq.{uuid4()}"))
        options: dict[str, Any] = {"params": parameters, "headers": {"prefer": self.dice.choice(PREFER)}}
        if method in {"POST", "PATCH", "PUT"}:
            options["json"] = self.dice.choice(
                [self.row(columns), [self.row(columns), self.row(columns)], self.value()]
            )
        return method, f"/rest/v1/{table}", options

    def call(self) -> tuple[str, str, dict[str, Any]]:
        name, arguments = self.dice.choice(self.functions)
        given = {argument: self.value() for argument in arguments if argument and self.dice.random() < 0.8}
        return "POST", f"/rest/v1/rpc/{name}", {"json": given}

    def function_request(self) -> tuple[str, str, dict[str, Any]]:
        path, method = self.dice.choice(self.paths)
        body = {self.dice.choice(self.names): self.value() for _ in range(self.dice.randint(0, 4))}
        return method.upper(), f"/functions/v1{path}", {"json": self.dice.choice([body, self.value()])}

    def run(self, until: float, counts: Counter[str], wrong: list[dict[str, Any]]) -> None:
        while time.monotonic() < until:
            method, path, options = self.dice.choice([self.data_request, self.call, self.function_request])()
            try:
                answer = self.eve.http.request(method, path, **options)
            except (httpx.InvalidURL, UnicodeError):
                continue
            except httpx.TransportError as error:
                wrong.append({"request": f"{method} {path}", "sent": repr(options)[:500], "response": repr(error)})
                continue
            counts[f"{answer.status_code // 100}xx"] += 1
            expected = {"503"} | self.documented.get((method, path), set())
            is_documented = str(answer.status_code) in expected and '"code"' in answer.text
            if answer.status_code >= UNFIT and not is_documented:
                wrong.append({
                    "request": f"{method} {path}", "sent": repr(options)[:500],
                    "response": f"{answer.status_code} {answer.text[:300]}",
                })  # fmt: skip


def schemathesis(stack: Stack, home: Path, seconds: float, seed: int) -> list[dict[str, Any]]:
    url = stack.values()["FUNCTIONS_URL"]
    account = Account(stack.values(), "schema")
    account.found(stack, "ELITE")
    report = home / "schemathesis.xml"
    subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis", "run", f"{url}/openapi.json", "--url", url,
            "--header", f"Authorization: {account.http.headers['authorization']}",
            "--checks", "no_undocumented_server_error", "--max-time", str(int(seconds)),
            "--max-examples", "100000", "--seed", str(seed), "--continue-on-failure", "--no-color",
            "--generation-allow-x00", "false", "--report", "junit", "--report-junit-path", report,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.support.fuzzing"},
        cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if not report.exists():
        return [{"request": "schemathesis", "response": "it wrote no report"}]
    # Errors are about data that it cannot generate; failures are responses of 5xx.
    return [
        {"request": case.get("name"), "response": (failure.text or "").strip()[:1000]}
        for case in ET.parse(report).iter("testcase")  # noqa: S314 - written by our own process
        for failure in case.findall("failure")
    ]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    counts: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running(Path(folder)) as stack:
        fuzzers = [Fuzzer(stack, seed + hand) for hand in range(HANDS)]
        until = time.monotonic() + seconds / 2
        threads = [threading.Thread(target=fuzzer.run, args=(until, counts, wrong)) for fuzzer in fuzzers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong += schemathesis(stack, Path(folder), seconds / 2, seed)
    print(
        json.dumps(
            {"seed": seed, "responses": dict(counts), "undocumented_5xx": len(wrong), "examples": wrong[:40]}, indent=2
        )
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
