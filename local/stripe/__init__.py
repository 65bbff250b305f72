"""A small Stripe of our own: what `strive start` runs where no STRIPE_SECRET_KEY is given, and what tests talk to.

store.py keeps, account.py changes and tells, payments.py and billing.py know the rules, shapes.py the versions of the
API, api.py the addresses, webhooks.py delivers, server.py listens, pages.py is what a person clicks on.
"""

LATEST = "2026-10-28.endive"  # what stripe 16.1 speaks
