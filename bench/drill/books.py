"""Whether what the clients were told is what is there."""

from collections import Counter

from bench.drill.traffic import Book
from local.stack import Stack

# Each finds what must not be.
NEVER = {
    "a submitted order without its milestones, or a draft with some": """
        select o.id from public.custom_agent_orders o
        where (o.status = 'DRAFT') = exists (select from public.order_milestones m where m.order_id = o.id)
    """,
    "a submission that was not logged or not told exactly once": """
        select o.id from public.custom_agent_orders o where o.status <> 'DRAFT' and o.title like 'Drill-%'
          and ((select count(*) from public.build_logs l where l.order_id = o.id) <> 1
            or (select count(*) from public.activity_feeds f where f.entity_id = o.id::text) <> 1)
    """,
    "a showcase whose likes are not those who like it": """
        select s.id from public.project_showcases s
        where s.likes <> (select count(*) from public.showcase_likes l where l.showcase_id = s.id)
    """,
    "an organisation without an owner": """
        select o.id from public.organizations o where not exists (
          select from public.organization_members m where m.organization_id = o.id and m.role = 'OWNER')
    """,
}


def balance(stack: Stack, book: Book) -> dict[str, list[str]]:
    """What was lost and what is wrong, in words."""
    lost: list[str] = []
    wrong = list(book.wrong)
    with stack.cluster.connect() as connection:
        connection.execute("select private.roll_up_tallies()")
        for what, asked, named in (
            ("feed entry", book.entries, "title from public.activity_feeds where entity_type = 'drill'"),
            ("lead", book.leads, "id::text from public.leads where name like 'Drill %'"),
            (
                "order",
                book.orders,
                "title from public.custom_agent_orders where title like 'Drill-%' and status <> 'DRAFT'",
            ),
        ):
            present = Counter(name for (name,) in connection.execute(f"select {named}"))
            lost += [
                f"{what} {name}: acknowledged, not there"
                for name, known in asked.items()
                if known and name not in present
            ]
            wrong += [f"{what} {name}: {count} times" for name, count in present.items() if count > 1]
            wrong += [f"{what} {name}: nobody asked for it" for name in present.keys() - asked.keys()]
        for what, found in NEVER.items():
            wrong += [f"{what}: {row[0]}" for row in connection.execute(found)]
    return {"lost": lost, "wrong": wrong}
