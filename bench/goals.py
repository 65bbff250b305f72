"""What is wanted of each bench: the figures that count, what they are set against, and their bounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.rounds import Spread

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    what: str
    reference: str
    # Its path among the figures of its bench.
    path: str
    unit: str = "×"
    at_most: float | None = None
    at_least: float | None = None

    def figure(self, outcome: Results) -> Spread | None:
        """The figure, or None if it was not measured."""
        found: Any = outcome.get("figures")
        for name in self.path.split("."):
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        if isinstance(found, Mapping):
            return {name: float(found[name]) for name in ("median", "low", "high", "rounds")}
        return {"median": float(found), "low": float(found), "high": float(found), "rounds": 1}

    def is_met(self, figure: Spread) -> bool | None:
        """Whether the median meets the goal; None without a goal."""
        if self.at_most is not None:
            return figure["median"] <= self.at_most
        return None if self.at_least is None else figure["median"] >= self.at_least

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"≤ {number(self.at_most)}{unit(self.unit)}"
        return "" if self.at_least is None else f"≥ {number(self.at_least)}{unit(self.unit)}"


def number(value: float) -> str:
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def unit(name: str) -> str:
    return f" {name}" if name and name != "×" else name


def described(goal: Goal, figure: Spread) -> str:
    """The median, and in parentheses the lowest and highest of the rounds."""
    middle = f"{number(figure['median'])}{unit(goal.unit)}"
    if figure["rounds"] == 1:
        return middle
    return f"{middle} ({number(figure['low'])}–{number(figure['high'])})"


BARE = "a bare functions-framework endpoint that does the same INSERT"
HELLO_ALONE = "a bare functions-framework hello"
HELLO = "the same server's /healthz"
USUAL = "FastAPI with supabase-py"
DENO = "a Deno Edge Function with supabase-js"
PEER = "@supabase/stripe-sync-engine"
BY_HAND = "the same statement without policies, its condition written by hand"

GOALS: dict[str, list[Goal]] = {
    "rls": [
        Goal("newest 50 of a tenant, the most expensive table", BY_HAND, "worst_read", at_most=1.3),
        Goal("single-row writes, the most expensive", BY_HAND, "worst_write", at_most=1.5),
        Goal(
            "newest 50 of the feed, growth from 100 k to 1 M rows",
            "a list of a table that does not grow",
            "growth",
            at_most=1.2,
        ),
    ],
    "functions": [
        Goal("record-activity, requests a second", BARE, "throughput.rate_ratio", at_least=0.85),
        Goal("record-activity, p99", BARE, "throughput.p99_ratio", at_most=2.0),
        Goal("record-activity, processor time a request", BARE, "throughput.cpu_ratio", at_most=1.25),
        Goal("record-activity, p50 of one connection", BARE, "throughput.one_connection.p50_ratio", at_most=1.25),
        Goal(
            "record-activity, requests a second",
            "the INSERT as the table's owner, without policies",
            "throughput.rate_ratio_to_owner",
        ),
        Goal(
            "record-activity with its Postgres, processor time", "without metering", "metering.cpu_ratio", at_most=1.05
        ),
        Goal("cold start, the slowest function", HELLO_ALONE, "cold.slowest", at_most=1.3),
        Goal("first recorded activity after a start", HELLO_ALONE, "cold.ratio.record_activity_signed_in", at_most=1.3),
        Goal("memory of a worker, at most", "budget", "memory.highest_mb", "MB", at_most=80),
        Goal("memory of a worker at its start", HELLO_ALONE, "memory.at_start_ratio"),
        Goal("memory over 50,000 requests, last quarter", "the second quarter", "memory.growth", at_most=1.02),
        Goal("record-activity, requests a second", USUAL, "peer.rate_ratios.with_supabase", at_least=3),
        Goal(
            "record-activity, requests a second",
            "FastAPI with SQLAlchemy and asyncpg",
            "peer.rate_ratios.with_sqlalchemy",
        ),
        Goal("record-activity, requests a second", DENO, "peer.rate_ratios.deno", at_least=1.5),
        Goal("record-activity, requests a second", "the rpc at the data API", "peer.rate_ratios.rpc"),
    ],
    "webhook": [
        Goal("events a second over HTTP, 8 at once", PEER, "speed.http_rate_ratio_at_8", at_least=1.2),
        Goal("events a second over HTTP, 32 at once", PEER, "speed.http_rate_ratio_at_32", at_least=2),
        Goal("events a second in one process, 8 at once", PEER, "speed.in_process_rate_ratio_at_8"),
        Goal("events a second in one process, 32 at once", PEER, "speed.in_process_rate_ratio_at_32"),
        Goal(
            "one INSERT of the payload over HTTP, nothing applied, 8 at once", PEER, "speed.bare_http_rate_ratio_at_8"
        ),
        Goal("the same, 32 at once", PEER, "speed.bare_http_rate_ratio_at_32"),
        Goal("the same in one process, 8 at once", PEER, "speed.bare_in_process_rate_ratio_at_8"),
        Goal("the same in one process, 32 at once", PEER, "speed.bare_in_process_rate_ratio_at_32"),
        Goal("wrong final states of 1,000 subscriptions, shuffled", "none", "order.wrong", "", at_most=0),
    ],
    "flags": [
        Goal(
            "one flag with conditions, per processor second",
            "the fastest of the peers",
            "evaluation.with_conditions.one_ratio",
            at_least=8,
        ),
        Goal(
            "all 100 flags, per processor second",
            "the fastest of the peers",
            "evaluation.with_conditions.all_ratio",
            at_least=8,
        ),
        Goal("one flag over HTTP, requests a second", HELLO, "serving.one.of_hello", at_least=0.6),
        Goal("one flag over HTTP for a user", HELLO, "serving.one_user.of_hello", at_least=0.6),
        Goal("all 100 over HTTP", HELLO, "serving.all.of_hello", at_least=0.4),
        Goal("all 100, without remembered responses", HELLO, "serving.all_anew.of_hello"),
        Goal("304 Not Modified", "all 100 over HTTP", "serving.unchanged_of_all", at_least=1),
        # Each of the six users is identified again once a second, and the version of the flags is read.
        Goal("transactions a second at full speed", "none", "serving.transactions_per_second", "", at_most=7),
        Goal("memory of 10,000 flags", "budget", "loading.memory_mb", "MB", at_most=60),
        Goal("memory of 10,000 flags", "their JSON", "loading.memory_ratio"),
        Goal("10,000 flags loaded again", "budget", "loading.rebuild_seconds", "s", at_most=0.5),
        Goal("10,000 flags loaded again", "parsing their JSON", "loading.ratio"),
        Goal("longest wait of a request while they load", "budget", "loading.longest_pause_ms", "ms", at_most=50),
    ],
    "stack": [
        Goal("first start", "budget", "first_start_s", "s", at_most=3.5),
        Goal("first start", "Postgres alone, made and started", "first_start_ratio"),
        Goal("warm start", "budget", "warm_start_s", "s", at_most=1.5),
        Goal("warm start", "Postgres alone, started", "warm_start_ratio"),
        Goal("memory at rest", "budget", "idle_memory_mb", "MB", at_most=350),
        Goal("memory at rest", "its Postgres", "idle_memory_ratio"),
    ],
    "crm": [
        Goal("search in 50,000 leads, the slowest of 14 kinds", "budget", "slowest_search", "ms", at_most=10),
        Goal("search in 50,000 leads, that kind", "the same search without policies", "slowest_search.ratio"),
        Goal("pipeline report", BY_HAND, "reports.pipeline report.ratio"),
        Goal("feed, newest 50", BY_HAND, "reports.feed, newest 50.ratio"),
        Goal("50,000 leads imported over HTTP", "budget", "import.over_http_s", "s", at_most=15),
        Goal("50,000 leads imported over HTTP", "COPY of the same lines into the same table", "import.ratio"),
    ],
    "dashboard": [
        Goal("first screen in one call, kept values", "17 reads by hand", "first_screen.kept.waiting_ratio"),
        Goal(
            "first screen in one call, everything counted anew",
            "17 reads by hand",
            "first_screen.counted.waiting_ratio",
        ),
    ],
    "realtime": [
        Goal(
            "500 changes a second to 50 subscribers, messages lost, doubled, out of order or of another tenant",
            "none",
            "realtime.wrong",
            "",
            at_most=0,
        ),
        Goal("from commit to the client, p50", "budget", "realtime.commit_to_client_ms.p50", "ms"),
        Goal("from commit to the client, p99", "budget", "realtime.commit_to_client_ms.p99", "ms"),
        Goal(
            "LISTEN/NOTIFY with the same writes and listeners, p50",
            "budget",
            "listen_notify.commit_to_client_ms.p50",
            "ms",
        ),
        Goal(
            "LISTEN/NOTIFY with the same writes and listeners, p99",
            "budget",
            "listen_notify.commit_to_client_ms.p99",
            "ms",
        ),
        Goal(
            "processor time of the servers for a message, without the write",
            "none",
            "realtime.cpu_us_per_message",
            "µs",
        ),
        Goal("a request that inserts a lead, with its broadcast", "without", "insert_ratio", at_most=1.25),
        Goal("a request that updates a lead, with its broadcast", "without", "update_ratio", at_most=1.25),
        Goal("a request that inserts a lead, with its history", "without", "history.insert_ratio", at_most=1.2),
        Goal("a request that updates a lead, with its history", "without", "history.update_ratio", at_most=1.2),
        Goal("the bare INSERT of a lead, with its broadcast", "without", "bare_insert_ratio"),
        Goal("the bare UPDATE of a lead, with its broadcast", "without", "bare_update_ratio"),
        Goal("the bare INSERT of a lead, with its history", "without", "history.bare_insert_ratio"),
        Goal("the bare UPDATE of a lead, with its history", "without", "history.bare_update_ratio"),
    ],
    "templates": [
        Goal("search in 100,000 templates, the slowest of 8 kinds", "budget", "slowest_search", "ms", at_most=10),
        Goal("search in 100,000 templates, that kind", "SQL by hand without policies", "slowest_search.ratio"),
    ],
}
