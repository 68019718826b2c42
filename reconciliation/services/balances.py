"""Asks the provider what it holds for us, and writes it down: the number that its own rows must add up to."""

from payments import selectors as payments
from reconciliation.models import ProviderBalanceReading


def read_balance() -> ProviderBalanceReading:
    """Read the provider's balances and keep them. Belongs outside of transactions. Raises ProviderUnavailable."""
    reading = payments.read_provider_balance()
    return ProviderBalanceReading.objects.create(
        balances={
            held.currency: {"available": held.available_minor, "pending": held.pending_minor}
            for held in reading.balances
        },
        through_at=reading.through_at,
        edge=reading.edge,
        unsure=reading.unsure,
    )
