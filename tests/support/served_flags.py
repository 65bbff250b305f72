"""Create flags in a test's database and evaluate them over HTTP."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.support.serving import SECRET_KEY, Serving
from tests.support.world import PEOPLE, Database

EVALUATE = "/functions/v1/evaluate-flag"
FLAGS = f"{EVALUATE}/ofrep/v1/evaluate/flags"
RECORD = "/functions/v1/record-exposure"
JSONB = {"conditions", "variants"}


def make(database: Database, name: str, **columns: Any) -> None:
    """Create or replace a flag; it is on for all users unless these columns say otherwise."""
    columns = {
        "name": name,
        "is_enabled": True,
        "rollout_percent": 100,
        "created_by": PEOPLE["platform_admin"],
        **{column: json.dumps(value) if column in JSONB else value for column, value in columns.items()},
    }
    with database.connect() as connection, connection.transaction():
        connection.execute("delete from public.feature_flags where name = %s", [name])
        connection.execute(
            f"insert into public.feature_flags ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
            [*columns.values()],
        )


def make_broken(database: Database, name: str) -> None:
    """A stored flag that today's validation would reject."""
    make(database, name)
    with database.connect("supabase_admin") as connection:
        connection.execute("set session_replication_role = replica")  # no trigger looks
        connection.execute(
            """update public.feature_flags set conditions = '{"a": {"$gtx": 1}}' where name = %s""", [name]
        )


def change(database: Database, name: str, **columns: Any) -> None:
    assignments = ", ".join(f"{column} = %s" for column in columns)
    with database.connect() as connection:
        connection.execute(f"update public.feature_flags set {assignments} where name = %s", [*columns.values(), name])


def evaluate(
    functions: Serving,
    flag: str,
    context: Any = None,
    *,
    person: str | None = None,
    key: str = SECRET_KEY,
    **headers: str,
) -> httpx.Response:
    """One flag by OFREP, as one of our servers unless a person or another key is named."""
    with functions.client(person, **({} if person else {"apikey": key})) as client:
        return client.post(f"{FLAGS}/{flag}", json={"context": {} if context is None else context}, headers=headers)


def evaluate_all(
    functions: Serving, context: Any = None, *, person: str | None = None, key: str = SECRET_KEY, **headers: str
) -> httpx.Response:
    with functions.client(person, **({} if person else {"apikey": key})) as client:
        return client.post(FLAGS, json={"context": {} if context is None else context}, headers=headers)


def is_on(answer: httpx.Response) -> bool:
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["metadata"]["on"])


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> float:
    """Wait; return the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds
        time.sleep(0.01)
    return time.monotonic() - began
