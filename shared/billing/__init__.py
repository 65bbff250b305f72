"""Billing: events and objects of Stripe, purchases, plan changes, refunds, reconciliation."""
