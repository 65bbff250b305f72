"""A file of 50,000 leads over HTTP through import-records, beside COPY of the same lines into the same table."""

import csv
import io
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from bench.functions.world import ours
from bench.population import MEMBER, TENANT, people
from bench.rounds import ratios, rounds, spread
from local.postgres import SUPERUSER, Cluster
from tests.support.serving import token
from tests.support.world import Database

LINES, ROUNDS = 50_000, 2
TAG = "imported by the bench"


def importing(own: Cluster) -> dict[str, Any]:
    lines = [
        [f"{first} {last}", email, phone, company] for first, last, email, phone, company in islice(people(), LINES)
    ]
    file = io.StringIO()
    csv.writer(file).writerows([["name", "email", "phone", "company", "notes"], *([*line, TAG] for line in lines)])
    seconds: dict[str, list[float]] = {"over_http": [], "copy": []}
    with tempfile.TemporaryDirectory() as home, ours(Path(home), Database(own, "postgres")) as (port, _):
        for _ in rounds("an import of 50,000 leads", ROUNDS):
            seconds["over_http"].append(_over_http(port, file.getvalue()))
            seconds["copy"].append(_copy(own, lines))
            _forget(own)
    return {
        "over_http_s": spread(seconds["over_http"]),
        "copy_s": spread(seconds["copy"]),
        "ratio": ratios(seconds["over_http"], seconds["copy"]),
    }


def _over_http(port: int, content: str) -> float:
    authorization = f"Bearer {token(sub=MEMBER, app_metadata={'org_id': TENANT})}"
    headers = {"authorization": authorization, "content-type": "text/csv"}
    address = f"http://127.0.0.1:{port}/functions/v1/import-records?kind=leads"
    began = time.perf_counter()
    answer = httpx.post(address, content=content.encode(), headers=headers, timeout=120)
    took = time.perf_counter() - began
    assert f'"committed":true,"lines":{LINES}' in answer.text.splitlines()[-1].replace(" ", ""), answer.text[-1000:]
    return took


def _copy(own: Cluster, lines: list[list[str]]) -> float:
    """With triggers and indexes, as for the import, but without policies and in one statement; then rolled back."""
    with own.connect() as connection, connection.transaction(force_rollback=True), connection.cursor() as cursor:
        began = time.perf_counter()
        with cursor.copy("copy public.leads (organization_id, name, email, phone, company, notes) from stdin") as copy:
            for line in lines:
                copy.write_row([TENANT, *line, TAG])
        return time.perf_counter() - began


def _forget(own: Cluster) -> None:
    with own.connect(SUPERUSER) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("delete from public.leads where organization_id = %s and notes = %s", [TENANT, TAG])
        connection.execute("vacuum public.leads")
