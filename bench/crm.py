"""How long search, pipeline report and feed take in a tenant of 50,000 leads among 200,000: `python -m bench.crm`.

Each statement is run in turns as a member, through the policies, and by `postgres`, whom none binds: the same SQL with
the organization named by hand. A file of 50,000 leads is imported over HTTP, beside COPY into the same table.
"""

import json

from bench import machine, population
from bench.importing import importing
from bench.population import TENANT
from bench.side_by_side import Work, compare, statement

SEARCHES = {
    "a name": "{first} {last}",
    "the beginning of a name": "{last:.5}",
    "two beginnings": "{first:.4} {last:.4}",
    "a letter left out": "{last:.3}{last_rest}",
    "letters changed places": "jmaes smiht",
    "a phone number": "{phone}",
    "its digits alone": "{digits}",
    "its local part": "{local}",
    "an email": "{email}",
    "a domain": "gmail.com",
    "a common first name": "james",
    "a common one misspelt": "jonson",
    "common first and last name": "james smith",
    "nothing": "zzxqj",
}
PIPELINE = """
    select s.stage, coalesce(d.deals, 0), coalesce(d.value, 0), coalesce(round(d.weighted, 2), 0)
    from unnest(enum_range(null::public."DealStage")) s (stage)
    left join (
      select stage, count(*) as deals, sum(value) as value, sum(value * probability) / 100 as weighted
      from public.deals where organization_id = %(org)s group by stage
    ) d using (stage) order by s.stage
"""
NEWEST = "select * from public.activity_feeds {} order by created_at desc limit 50"
REPORTS = {
    "pipeline report": ("select * from public.pipeline_report()", PIPELINE),
    "feed, newest 50": (NEWEST.format(""), NEWEST.format("where organization_id = %(org)s")),
    "leads, newest 50": (
        "select * from public.leads order by created_at desc limit 50",
        "select * from public.leads where organization_id = %(org)s order by created_at desc limit 50",
    ),
}


def main() -> None:
    lead = population.lead_of_the_tenant()
    with population.database() as own:
        population.fill(own, "leads", "deals", feed=population.FEEDS[0])
        searches = {name: compare(own, name, *both(form, lead)) for name, form in SEARCHES.items()}
        reports = {
            name: compare(own, name, statement(ours), statement(by_hand, org=TENANT))
            for name, (ours, by_hand) in REPORTS.items()
        }
        imported = importing(own)
    slowest = max(searches, key=lambda name: searches[name]["ms"]["median"])
    found = {
        "slowest_search": {"kind": slowest, **searches[slowest]["ms"], "ratio": searches[slowest]["ratio"]},
        "searches": searches,
        "reports": reports,
        "import": imported,
    }
    size = {"leads": population.LEADS, "leads_of_the_tenant": population.TENANTS_LEADS}
    print(json.dumps({"machine": machine(), **size, "figures": found}, indent=2))


def both(form: str, lead: dict[str, str]) -> tuple[Work, Work]:
    """The same function as member and as `postgres`: the difference is the policies."""
    digits = "".join(filter(str.isdigit, lead["phone"]))
    query = form.format(**lead, last_rest=lead["last"][4:], digits=digits, local=lead["phone"][6:])
    work = statement("select * from public.search_crm(%(query)s)", query=query)
    return work, work


if __name__ == "__main__":
    main()
