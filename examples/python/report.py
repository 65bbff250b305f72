"""Prints the week of an organization: `strive run examples/python/report.py`.

Signs in with EMAIL and PASSWORD; without them as a demo account. Needs nothing but supabase-py.
"""

import os
from datetime import UTC, datetime, timedelta

from supabase import Client, create_client


def connect() -> Client:
    strive = create_client(os.environ["API_URL"], os.environ["PUBLISHABLE_KEY"])
    strive.auth.sign_in_with_password(
        {
            "email": os.environ.get("EMAIL", "owner@acme.test"),
            "password": os.environ.get("PASSWORD", "strive-demo-1"),
        }
    )
    return strive


def section(title: str, rows: list[list[str]]) -> None:
    print(f"\n{title}")
    if not rows:
        print("  none")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def report(strive: Client) -> None:
    week = (datetime.now(UTC) - timedelta(days=7)).isoformat()
    organization = next(each for each in strive.rpc("my_organizations").execute().data if each["is_current"])
    print(f"{organization['name']}, {datetime.now(UTC):%d %B %Y}")

    # An rpc for what the database counts, a table for a list. Both show only rows of this organization.
    stages = strive.rpc("pipeline_report").execute().data
    section("Pipeline", [[row["stage"], str(row["deals"]), f"${row['value']:,.0f}"] for row in stages])

    leads = strive.table("leads").select("source", count="exact").gte("created_at", week).execute()
    sources = sorted({row["source"] for row in leads.data})
    counts = [[source, str(sum(row["source"] == source for row in leads.data))] for source in sources]
    section(f"{leads.count} new leads", counts)

    moves = strive.table("activity_feeds").select("title, created_at").gte("created_at", week)
    newest = moves.order("created_at", desc=True).limit(5).execute().data
    section("Newest in the feed", [[entry["created_at"][:16].replace("T", " "), entry["title"]] for entry in newest])


if __name__ == "__main__":
    report(connect())
