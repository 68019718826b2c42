"""The way to the payment provider: what each one must do, and the one that the setting PAYMENT_PROVIDER names.

A provider is a module with the functions of `Provider`: it translates our calls into its provider's, and its objects
and errors into the words of `payments.types`. `payments/providers/stripe.py` is one; docs/providers.md says how to add
another. A new verb is three things: its promise in `Provider`, its line below, and its code in each module.

What all verbs promise:

- One try a call, with PROVIDER_CONNECT_TIMEOUT_S and PROVIDER_READ_TIMEOUT_S: only one layer may retry, ours.
- ProviderRefused: it will never happen. ProviderBusy: it was not even begun, the same call may be repeated.
  ProviderUnsure: nobody can say whether it happened; `final` if the provider will answer so each time. Nothing else is
  raised: above all, a timeout is never a refusal.
- Statuses, event types and the prefixes of ids are Stripe's words, which are the best known ones: a payment is `pi_…`, a
  charge `ch_…`, a refund `re_…`, a booking `txn_…`, a dispute `dp_…`, a payout `po_…`. A module whose provider numbers
  them otherwise puts these prefixes before the ids that it hands out, and takes them off those that it is given.
- Amounts are integers in minor units as `foundation.money` counts them, currencies lower-case ISO 4217, moments aware.
- Belongs outside of transactions, except `parse_webhook` and `livemode`, which call nobody.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from django.conf import settings

from payments.types import (
    BalanceTransaction,
    Intent,
    ProviderBalance,
    ProviderDispute,
    ProviderEvent,
    ProviderPayout,
    ProviderRefund,
)


class Provider(Protocol):
    """What a payment provider does for us. A module fulfils it."""

    NAME: str  # the end of its webhook's address: /api/v1/webhooks/NAME

    # --- Payments -----------------------------------------------------------------------------------

    def create_intent(
        self,
        *,
        number: str,
        amount_minor: int,
        currency: str,
        metadata: dict[str, str],
        payment_method: str,
        confirm: bool,
    ) -> Intent:
        """Open a payment, once per `number`: a repeat answers with what the first made, whatever became of it.

        `confirm` takes the money at once with `payment_method` (a token of the provider's, never a card); without it
        the customer's browser confirms with the `client_secret`. A declined confirmation is an Intent with a `failure`
        that may be confirmed again, no error. `metadata` comes back with each reading of the intent and its bookings.
        """

    def retrieve_intent(self, reference: str) -> Intent:
        """Read a payment, with its newest charge and the charge's booking. ProviderRefused if there is none."""

    def cancel_intent(self, reference: str) -> Intent:
        """Cancel a payment: nobody can pay it afterwards. ProviderRefused where it is past that, or cancelled before:
        read it again to see what it became."""

    def find_intent(self, number: str, *, since: datetime, until: datetime | None = None) -> Intent | None:
        """The payment that was made under our number, or None. Reads its own writes: no lagging search index.

        It was sent between the two moments of our database's clock; without `until` nobody knows when last.
        """

    def retrieve_charge_intent(self, charge: str) -> str:
        """The payment that a charge belongs to; empty if to none."""

    # --- Refunds ------------------------------------------------------------------------------------

    def create_refund(
        self, *, number: str, payment_intent: str, amount_minor: int, metadata: dict[str, str]
    ) -> ProviderRefund:
        """Give back a part of a payment, once per `number`. Never more than was captured: ProviderRefused."""

    def retrieve_refund(self, reference: str) -> ProviderRefund:
        """Read a refund; a `succeeded` one may have become `failed` weeks later. ProviderRefused if there is none."""

    def find_refund(self, number: str, *, payment_intent: str) -> ProviderRefund | None:
        """The refund of this payment that was made under our number, or None. Reads its own writes."""

    # --- Disputes and payouts -----------------------------------------------------------------------

    def retrieve_dispute(self, reference: str) -> ProviderDispute:
        """Read a dispute with its bookings. ProviderRefused if there is none."""

    def retrieve_payout(self, reference: str) -> ProviderPayout:
        """Read a payout; a `paid` one may have become `failed` days later. ProviderRefused if there is none."""

    def list_payout_transactions(self, payout: str) -> Iterator[BalanceTransaction]:
        """The bookings that a `listable` payout collects, its own among them (Σ net of all is 0), in bounded memory."""

    # --- The provider's books and news --------------------------------------------------------------

    def list_balance_transactions(
        self, *, since: datetime | None = None, until: datetime | None = None, source: str = "", after: str = ""
    ) -> Iterator[BalanceTransaction]:
        """Bookings made in [since, until), or those of one charge, refund, dispute or payout, or all of them, newest first,
        in bounded memory. `after` goes on behind a booking (`txn_…`) that an earlier listing had reached."""

    def retrieve_balance(self) -> list[ProviderBalance]:
        """What the provider holds for us, by currency: the sum of all bookings' nets."""

    def list_events(self, *, since: datetime, until: datetime | None = None) -> Iterator[ProviderEvent]:
        """News of [since, until), newest first, as far back as the provider keeps them; without an end, up to now."""

    def parse_webhook(self, payload: bytes, headers: Mapping[str, str]) -> ProviderEvent:
        """The news in a webhook that is proved to be the provider's, and fresh. Raises SignatureInvalid."""

    # --- The provider itself ------------------------------------------------------------------------

    def ping(self, *, timeout_s: float) -> None:
        """Prove that the provider answers within a time, and knows us."""

    def livemode(self) -> bool:
        """Whether our key moves real money."""


_chosen = cast(Provider, import_module(settings.PAYMENT_PROVIDER))

NAME = _chosen.NAME
create_intent = _chosen.create_intent
retrieve_intent = _chosen.retrieve_intent
cancel_intent = _chosen.cancel_intent
find_intent = _chosen.find_intent
retrieve_charge_intent = _chosen.retrieve_charge_intent
create_refund = _chosen.create_refund
retrieve_refund = _chosen.retrieve_refund
find_refund = _chosen.find_refund
retrieve_dispute = _chosen.retrieve_dispute
retrieve_payout = _chosen.retrieve_payout
list_payout_transactions = _chosen.list_payout_transactions
list_balance_transactions = _chosen.list_balance_transactions
retrieve_balance = _chosen.retrieve_balance
list_events = _chosen.list_events
parse_webhook = _chosen.parse_webhook
ping = _chosen.ping
livemode = _chosen.livemode

if TYPE_CHECKING:  # mypy holds the module that we ship to the signatures above
    from payments.providers import stripe

    _stripe: Provider = stripe
