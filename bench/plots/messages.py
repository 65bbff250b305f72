"""The plots and their titles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.goals import number
from bench.plots.svg import Drawing, Group, Row
from bench.rounds import Spread

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Plot:
    name: str
    bench: str
    alt: str
    draw: Callable[[Figures], Drawing]

    def made_from(self, outcome: Mapping[str, Any]) -> Drawing | None:
        """None if its figures were not measured."""
        try:
            return self.draw(outcome["figures"])
        except KeyError:
            return None


def _row_level_security(figures: Figures) -> Drawing:
    rows = [
        Row(f"{int(rows):,} rows", found["secured_us"], found["by_hand_us"], f"({number(found['ratio']['median'])}×)")
        for rows, found in sorted(figures["feed_newest_50_by_rows"].items(), key=lambda each: int(each[0]))
    ]
    return Drawing(
        "What row-level security costs as the table grows",
        "processor time for the newest 50 of a tenant's feed, of 2,000 tenants",
        [Group(rows)], "µs", ("through the policies", "without, the condition by hand"),
    )  # fmt: skip


def _statements(figures: Figures) -> Drawing:
    found = {name: each["ratio"] for name, each in figures["statements"].items()}
    writes = [name for name in found if name.endswith(" one")]
    bare = [name for name in found if "20" in name or "rows alone" in name]
    lists = [name for name in found if name not in {*writes, *bare}]

    def rows(names: list[str]) -> list[Row]:
        return [Row(_short(name), found[name]) for name in names]

    return Drawing(
        "What row-level security costs, statement by statement",
        "processor time as a ratio to the same statement without policies, its condition by hand (1×)",
        [
            Group(rows(lists), "Lists, as the API queries", (1.3, "goal 1.3")),
            Group(rows(writes), "Writes", (1.5, "goal 1.5")),
            Group(rows(bare), "Short or bare lists, where the policy weighs most"),
        ],
        "×",
    )


def _short(name: str) -> str:
    for words, word in SHORT.items():
        name = name.replace(words, word)
    return name


SHORT = {
    "custom_agent_orders": "orders",
    "order_milestones": "milestones",
    "activity_feeds": "feed",
    ", the client filters too": ", client filters too",
    "newest 20 where is_pinned": "newest 20 pinned",
    "newest 20 where status = 'QUALIFIED'": "newest 20 qualified",
    "newest 20 where status = 'IN_PROGRESS'": "newest 20 in progress",
    "newest 20 with their milestones": "newest 20 with milestones",
}


def _record_activity(figures: Figures) -> Drawing:
    found = figures["throughput"]
    bare = found["bare"]["per_second"]
    rows = [
        Row("record-activity", found["record_activity"]["per_second"]),
        Row("bare endpoint, same INSERT", reference=bare),
        Row("the same as the table's owner", reference=found["bare_as_owner"]["per_second"]),
    ]
    return Drawing(
        "record-activity beside a bare endpoint", "requests a second, one worker, 16 connections",
        [Group(rows, goal=(0.85 * bare["median"], "goal 0.85 of bare"))], "/s",
    )  # fmt: skip


PEERS = {
    "rpc": "the rpc at the data API",
    "deno": "Edge Function on Deno, supabase-js",
    "with_sqlalchemy": "FastAPI, SQLAlchemy, asyncpg",
    "with_supabase": "FastAPI, supabase-py",
}


def _peers(figures: Figures) -> Drawing:
    found = figures["peer"]
    rows = [
        Row("record-activity", found["record_activity"]["per_second"]),
        *(Row(name, reference=found[peer]["per_second"]) for peer, name in PEERS.items() if peer in found),
    ]
    subtitle = "requests a second, one worker, 12 connections, the same local stack"
    return Drawing("record-activity beside its peers", subtitle, [Group(rows)], "/s")


def _cold_start(figures: Figures) -> Drawing:
    ratio = dict(figures["cold"]["ratio"])
    ratio.pop("bare_hello")
    first = [
        Row("record-activity, records", ratio.pop("record_activity_signed_in")),
        Row("all in one process, records", ratio.pop("strive_signed_in")),
        Row("all in one process", ratio.pop("strive")),
    ]
    rows = [
        Row(name.replace("_", "-"), found) for name, found in sorted(ratio.items(), key=lambda each: -each[1]["median"])
    ]
    return Drawing(
        "Cold start of the slowest functions",
        "from the start of the process to its first answer, as a ratio to bare functions-framework's hello (1×)",
        [
            Group(rows, "First answer", (1.3, "goal 1.3")),
            Group(first, "Beyond a single function's first answer"),
        ],
        "×",
    )


def _flags(figures: Figures) -> Drawing:
    engines = figures["evaluation"]["with_conditions"]["engines"]
    every = {name: found["all_per_cpu_second"] for name, found in engines.items()}
    ordered = sorted(every, key=lambda name: -every[name]["median"])
    rows = [Row("Strive", every[name]) if name == "strive" else Row(name, reference=every[name]) for name in ordered]
    return Drawing(
        "Feature flags beside the engines of others", "all 100 flags with conditions, times a second of processor time",
        [Group(rows)], "/s",
    )  # fmt: skip


def _flags_over_http(figures: Figures) -> Drawing:
    found = figures["serving"]
    one = {"one flag": "one", "one, by functions.invoke": "one_plain"}
    every = {"all 100": "all", "no answer remembered": "all_anew", "304 Not Modified": "unchanged"}
    return Drawing(
        "Feature flags over HTTP",
        "requests a second, as a ratio to what the same server does for /healthz (1×)",
        [
            Group([Row(label, found[name]["of_hello"]) for label, name in one.items()], "One", (0.6, "goal 0.6")),
            Group([Row(label, found[name]["of_hello"]) for label, name in every.items()], "All", (0.4, "goal 0.4")),
        ],
        "×",
    )


def _webhook(figures: Figures) -> Drawing:
    found = figures["speed"]["8_at_once"]

    def rows(*ways: tuple[str, str]) -> list[Row]:
        return [
            Row(label, rate(found[name])) if label == "Strive" else Row(label, reference=rate(found[name]))
            for name, label in ways
            if name in found
        ]

    def rate(way: Figures) -> Spread:
        spread: Spread = way["per_second"]
        return spread

    peer, least = "stripe-sync-engine", "one INSERT, nothing applied"
    of = int(figures["speed"]["subscriptions"] * found["http"]["per_second"]["rounds"])
    wrong = [
        f"{found[name]['wrong']} of {whose}"
        for name, whose in (("http", "ours"), ("peer_http", "the peer's"))
        if name in found
    ]
    return Drawing(
        "Stripe's events a second",
        f"8 at once, applied and on the disk; wrong final states of {of:,} over HTTP: {', '.join(wrong)}",
        [
            Group(rows(("http", "Strive"), ("peer_http", peer), ("bare_http", least)), "Over HTTP"),
            Group(rows(("in_process", "Strive"), ("peer", peer), ("bare", least)), "In one process"),
        ],
        "/s",
    )  # fmt: skip


def _stack(figures: Figures) -> Drawing:
    rows = [
        Row("first start", figures["first_start_s"], figures["first_start_postgres_alone_s"]),
        Row("warm start", figures["warm_start_s"], figures["warm_start_postgres_alone_s"]),
    ]
    return Drawing(
        "How fast the local stack starts", "seconds until everything answers; goals: first 5 s, warm 1.5 s",
        [Group(rows)], "s", ("the whole stack", "Postgres alone"),
    )  # fmt: skip


def _searches(title: str, subtitle: str, by_hand: str) -> Callable[[Figures], Drawing]:
    def draw(figures: Figures) -> Drawing:
        rows = [Row(name, found["ms"], found["reference_ms"]) for name, found in figures["searches"].items()]
        return Drawing(title, subtitle, [Group(rows, goal=(10, "goal 10 ms"))], "ms", ("as a member", by_hand))

    return draw


def _dashboard(figures: Figures) -> Drawing:
    def rows(found: Figures, prefix: str = "") -> list[Row]:
        return [Row(prefix + name, each["ms"], each["reference_ms"]) for name, each in found.items()]

    return Drawing(
        "The first screen in one call", "milliseconds until its data is there, among 200,000 leads",
        [Group(rows(figures["first_screen"], "first screen, ")), Group(rows(figures["metrics"]), "Metrics")],
        "ms", ("dashboard_snapshot, evaluate_metric", "the same reads by hand"),
    )  # fmt: skip


_search = _searches(
    "Search in a tenant of 50,000 leads",
    "milliseconds for each kind of search, among 200,000 leads",
    "without policies",
)
_templates = _searches(
    "Search among 100,000 templates",
    "milliseconds, public ones and those of one of 2,000 organizations",
    "SQL by hand, no policies",
)

PLOTS = [
    Plot("row-level-security", "rls", "what row-level security costs as the table grows", _row_level_security),
    Plot("statements", "rls", "what row-level security costs, by statement", _statements),
    Plot("record-activity", "functions", "record-activity beside a bare endpoint", _record_activity),
    Plot("peers", "functions", "record-activity beside its peers", _peers),
    Plot("cold-start", "functions", "cold start of the slowest functions", _cold_start),
    Plot("webhook", "webhook", "Stripe's events beside stripe-sync-engine", _webhook),
    Plot("flags", "flags", "flags beside the engines of others", _flags),
    Plot("flags-over-http", "flags", "flags over HTTP", _flags_over_http),
    Plot("stack", "stack", "how fast the local stack starts", _stack),
    Plot("search", "crm", "search in 50,000 leads", _search),
    Plot("dashboard", "dashboard", "the first screen in one call", _dashboard),
    Plot("templates", "templates", "search among 100,000 templates", _templates),
]
