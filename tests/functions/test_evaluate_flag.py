"""evaluate-flag: what it answers, to whom, in OFREP's words."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.functions.serving import PUBLISHABLE_KEY, SECRET_KEY, Serving
from tests.world import PEOPLE, Database

EVALUATE = "/functions/v1/evaluate-flag"
FLAGS = f"{EVALUATE}/ofrep/v1/evaluate/flags"


def make(database: Database, name: str, **columns: Any) -> None:
    columns = {
        "name": name,
        "is_enabled": True,
        "rollout_percent": 100,
        "created_by": PEOPLE["platform_admin"],
    } | columns
    with database.connect() as connection:
        connection.execute(
            f"insert into public.feature_flags ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
            [json.dumps(value) if isinstance(value, dict) else value for value in columns.values()],
        )


def test_a_flag(functions: Serving, database: Database) -> None:
    make(database, "new-ui")
    with functions.client("member") as client:
        print(client.post(EVALUATE, json={"flag": "new-ui"}).text)
        a = client.post(FLAGS, json={})
        print(a.text, a.headers)
        print(client.post(FLAGS, json={}, headers={"if-none-match": a.headers["etag"]}))
        print(client.post(FLAGS + "/new-ui", json={"context": {"tier": "X"}}).text)
        print(client.post(FLAGS + "/newer-ui", json={"context": {"tier": "X"}}).text)
    assert 0
