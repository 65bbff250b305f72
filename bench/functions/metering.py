"""record-activity beside the same function that does not count its requests; one worker each, on one database."""

import sys
from pathlib import Path
from typing import Any

import psutil

from bench.functions import load
from bench.functions.throughput import Contender
from bench.functions.world import ours, signed_in
from bench.rounds import Spread, ratios, rounds
from tests.support.serving import environment, serving
from tests.support.world import Database

# Many short turns: what else the machine does then weighs alike on both.
TURN_SECONDS, ROUNDS = 0.25, 48
UNMETERED = """
import dataclasses, runpy
import functions.record_activity as module
module.record_activity = dataclasses.replace(module.record_activity, metered=False)
runpy.run_module("functions", run_name="__main__")
"""


def measure(home: Path, database: Database) -> dict[str, Any]:
    settings = environment(database.url("strive_functions"))
    with (
        ours(home, database) as (port, process),
        serving(home, settings, [sys.executable, "-c", UNMETERED]) as unmetered,
    ):
        contenders = {
            "metered": Contender(port, process, signed_in(), database),
            "unmetered": Contender(unmetered.port, psutil.Process(unmetered.process.pid), signed_in(), database),
        }
        for contender in contenders.values():
            load.run(contender.port, contender.request, connections=16, seconds=1.0)
        for number in rounds("metering", ROUNDS):
            # In turn, so that neither always follows the other.
            for name in sorted(contenders, reverse=number % 2 == 0):
                contenders[name].turn(TURN_SECONDS)
            with database.connect() as connection:
                connection.execute("select private.roll_up_usage()")
    metered, unmetered_turns = contenders["metered"].turns, contenders["unmetered"].turns

    def cpu(turns: dict[str, list[float]]) -> list[float]:
        columns = zip(turns["cpu_us_per_request"], turns["postgres_cpu_us_per_request"], strict=True)
        return [sum(column) for column in columns]

    found: dict[str, Spread] = {
        "rate_ratio": ratios(metered["per_second"], unmetered_turns["per_second"]),
        "p50_ratio": ratios(metered["p50_ms"], unmetered_turns["p50_ms"]),
        "cpu_ratio": ratios(cpu(metered), cpu(unmetered_turns)),
    }
    return found | {name: contender.figures() for name, contender in contenders.items()}
