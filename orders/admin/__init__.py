"""Sales on the finance desk. Importing a module registers its pages."""

from orders.admin import merchant_calls, orders

__all__ = ["merchant_calls", "orders"]
