"""A local double of Stripe: `strive start` runs it where STRIPE_SECRET_KEY is not set, and tests talk to it.

A request enters at server.py; gateway.py checks the key, the version and Idempotency-Key; api.py finds the route, and
parameters.py checks what it takes. One module per noun holds the rules: prices, customers, subscriptions (changes,
cycles), invoices (lines, collection), schedules, checkout, portal, clocks and others. account.py stores objects and
announces events, store.py keeps them in SQLite, webhooks.py delivers them, versions.py makes older shapes of them, and
pages/ is for a person.
"""

LATEST = "2026-10-28.endive"  # the version of stripe 16.1
