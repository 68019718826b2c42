"""A stand-in for Stripe: a process of its own that speaks Stripe's HTTP API. The product never imports it.

It knows no Django and no module of the product; it needs the standard library only. See README.md.
"""
