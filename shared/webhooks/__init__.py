"""Webhooks out: sign deliveries, connect to public addresses only, retry."""
