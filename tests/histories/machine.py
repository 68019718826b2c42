"""A random history of a shop: what customers, clerks, the provider, the bank and the machines may do, in any order.

Hypothesis draws each operation and its arguments, knowing nothing of the shop: `pick` counts back from the newest order or
payment that the operation fits. So the same draw means the same history, and a history that breaks a law shrinks.
"""

import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from durability.types import Lane
from foundation.database import database_now
from foundation.errors import DomainError
from payments import services as payments
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure
from reconciliation import services as reconciliation
from tests.campaigns.boundaries.world import run_task
from tests.histories.laws import ALWAYS, AT_REST, Broken, numbered, uphold
from tests.histories.world import BOOKS, Answer, Request, Workshop

CARTS = {
    "a novel": [("novel", 1)],
    "two novels": [("novel", 2)],
    "a novel, and another": [("novel", 1), ("novel", 1)],
    "a novel and an atlas": [("novel", 1), ("atlas", 1)],
    "two atlases": [("atlas", 2)],
    "mangas": [("manga", 3)],
    "poems": [("poems", 2)],
    "dollars and yen": [("novel", 1), ("manga", 1)],
    "nobody's book": [("novel", 1), ("nobody's", 1)],
}
CARDS = {
    "good": "pm_card_visa",
    "declined": "pm_card_chargeDeclined",
    "3-D Secure": "pm_card_authenticationRequired",
    "slow": "pm_card_processing",
    "refunds late": "pm_card_pendingRefund",
    "returns refunds": "pm_card_refundFail",
    "nobody's": "pm_card_nobodys",
}
CALLS = [
    "POST /v1/payment_intents",
    "POST /v1/payment_intents/*/cancel",
    "POST /v1/refunds",
    "GET /v1/payment_intents",
    "GET /v1/refunds",
]
FAULTS = ["error_500", "error_500_after", "rate_limit", "reset", "timeout_before", "timeout_after", "cut_short"]
REDELIVERED = ["in order", "newest first", "shuffled", "the newest alone", "the oldest alone"]

_carts = st.sampled_from(sorted(CARTS, key=list(CARTS).index))
_cards = st.sampled_from(["good", "good", "good", *list(CARDS)[1:]])
_customers = st.integers(1, 4)
_picks = st.integers(0, 9)
_lanes = st.sampled_from(list(Lane))
_shares = st.sampled_from(["all that is allowed", "1", "a third", "half", "everything", "too much"])
_deaths = st.integers(1, 14)  # at which boundary

# Whom an operation fits. Where it fits nobody, it is tried with whoever there is, and is refused.
_ANY = "true"
_PENDING = "status = 'pending'"
_PAID = "status = 'paid'"
_SHIPPED = "status = 'shipped'"
_CONFIRMABLE = "status IN ('pending', 'requires_action')"
_AT_THE_BANK = "status = 'requires_action'"
_SUCCEEDED = "status = 'succeeded'"
NOBODY = "nobody there"


@dataclass
class Diary:
    """What was done, and what came of it. `chapter`: the lines since the last rest."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    chapter: list[str] = field(default_factory=list)
    broken_chapter: list[str] = field(default_factory=list)  # the first that broke a law, as it was
    broken_by: str = ""
    operations: int = 0
    looks: int = 0  # at the laws that always hold
    rests: int = 0

    def write(self, operation: str, outcome: str, line: str) -> None:
        self.operations += 1
        self.outcomes[operation, outcome] += 1
        self.chapter.append(f"{self.operations:4} {operation}{line and ' ' + line}: {outcome}")
        note(self.chapter[-1])


class Teller(RuleBasedStateMachine):
    """Tells one history, or one chapter of a long one: `goes_on` keeps the shop as the chapter before left it.

    Without any rule of its own.
    """

    world: ClassVar[Workshop]
    diary: ClassVar[Diary] = Diary()
    goes_on: ClassVar[bool] = False
    broken: ClassVar[bool] = False  # a law was: from here on every history begins in a fresh shop

    def __init__(self) -> None:
        super().__init__()
        if not self.goes_on or self.broken or not self.diary.operations:
            self.world.fresh()
        self.diary.chapter = []
        self.looked_after = 0  # so many operations

    # --- What every operation does ------------------------------------------------------------------------

    def did(self, operation: str, outcome: object, line: str = "") -> None:
        self.diary.write(operation, str(outcome), line)

    def choose(self, table: str, fits: str, pick: int) -> Any:
        """The row's id that `pick` counts back to, from the newest one that fits; where none does, from the newest of all."""
        for condition in (fits, "true"):
            rows = self.world.rows(f"SELECT id FROM {table} WHERE {condition} ORDER BY id DESC LIMIT 10")
            if rows:
                return rows[pick % len(rows)][0]
        return None

    def order(self, fits: str, pick: int) -> str:
        found = self.choose("orders_order", fits, pick)
        return numbered("ord", found) if found else ""

    def payment(self, fits: str, pick: int) -> str:
        found = self.choose("payments_payment", fits, pick)
        return numbered("pay", found) if found else ""

    def refund_number(self, fits: str, pick: int) -> str:
        found = self.choose("payments_refund", fits, pick)
        return numbered("ref", found) if found else ""

    def name(self, number: str) -> str:
        return self.world.memory.name(number)

    def ask(self, operation: str, line: str, path: str, body: Any = None, **how: Any) -> Answer:
        answer = self.world.ask(Request(path, body or {}, self.world.new_key(), **how))
        self.did(operation, answer.code, line)
        return answer

    # --- Laws -----------------------------------------------------------------------------------------

    @invariant()
    def laws_that_always_hold(self) -> None:
        if len(self.diary.chapter) > self.looked_after:
            self.looked_after = len(self.diary.chapter)
            with self.world.at_one_moment():
                uphold(ALWAYS, self.world.books())
            self.diary.looks += 1

    def teardown(self) -> None:
        """At the end of a history everything comes to rest, and all laws are looked at; not if one was broken before."""
        error = sys.exc_info()[1]
        if error is not None:
            if isinstance(error, Exception):  # else Hypothesis has only ended this history
                self._break(error)
            return
        if not self.diary.chapter:
            return
        try:
            self.world.rest()
            uphold([*ALWAYS, *AT_REST], self.world.books())
            self.diary.rests += 1
        except Exception as broken:
            self._break(broken)
            raise

    def _break(self, error: Exception) -> None:
        if not self.broken:
            type(self).broken = True
            self.diary.broken_by = "".join(traceback.format_exception(error))
            if self.goes_on:
                print(f"BROKEN, and now shrunk, which takes minutes:\n{self.diary.broken_by}", flush=True)
            self.diary.broken_chapter = [f"chapter {self.diary.rests + 1}", *self.diary.chapter]

    # --- Helpers --------------------------------------------------------------------------------------

    def _check_out(self, operation: str, line: str, body: Any, **how: Any) -> Answer:
        answer = self.world.ask(Request("/checkout", body, self.world.new_key(), **how))
        made = answer.document.get("order")
        self.did(operation, answer.code, f"{line} → {self.name(made['number'])}" if made else line)
        return answer

    def _killed(self, operation: str, line: str, path: str, body: Any, at: int, **how: Any) -> None:
        died = self.world.dies_of(Request(path, body, self.world.new_key(), **how), at=at)
        outcome = "killed" if died else "answered, unheard"
        self.did(f"{operation}, web process killed", outcome, f"{line}, at boundary {at}")

    def _bring(self, how: str, copies: int, seed: int) -> int:
        """Returns how many webhooks came."""
        self.world.collect()
        held = self.world.memory.posted
        brought = {"the newest alone": held[-1:], "the oldest alone": held[:1]}.get(how, held[:])
        self.world.memory.posted = [event for event in held if event not in brought]
        brought *= copies
        if how == "newest first":
            brought.reverse()
        if how == "shuffled":
            random.Random(seed).shuffle(brought)
        answers = {self.world.deliver(event) for event in brought}
        assert answers <= {200}, answers
        return len(brought)

    def _to_refund(self, pick: int, share: str) -> tuple[str, int | None] | None:
        number = self.payment(_SUCCEEDED, pick)
        if not number:
            return None
        total = self.world.total(number)
        amounts = {"all that is allowed": None, "1": 1, "a third": total // 3, "half": total // 2}
        return number, amounts.get(share, total + (share == "too much"))


class History(Teller):
    """Everything that may happen."""

    # --- Customers ----------------------------------------------------------------------------------------

    @rule()
    def a_breath(self) -> None:
        """Nothing. Of such alone is the first history that Hypothesis tries."""

    @rule()
    def a_sale(self) -> None:
        """The plain case, from checkout to paid: what most other operations need before them."""
        self._check_out("a sale", "of a novel", _checkout("a novel", 1, CARDS["good"]))
        self.world.work_now()

    @rule(cart=_carts, customer=_customers, card=_cards)
    def a_sale_in_the_browser(self, cart: str, customer: int, card: str) -> None:
        """The same by way of the browser and its webhooks."""
        answer = self._check_out("a sale in the browser", f"of {cart}, {card} card", _checkout(cart, customer))
        payment = answer.document.get("payment", {})
        if payment.get("client_secret"):
            self.world.confirm(self.world.open_tab(payment), CARDS[card])
            self._bring("in order", 1, 0)
            self.world.work_now()

    @rule(cart=_carts, customer=_customers, card=_cards)
    def check_out(self, cart: str, customer: int, card: str) -> None:
        """We confirm, with the card that the customer left with us."""
        self._check_out("checkout", f"of {cart}, {card} card", _checkout(cart, customer, CARDS[card]))

    @rule(cart=_carts, customer=_customers)
    def check_out_for_the_browser(self, cart: str, customer: int) -> None:
        self._check_out("checkout", f"of {cart}, for the browser", _checkout(cart, customer))

    @rule(cart=_carts, customer=_customers, card=st.sampled_from(["", *CARDS]))
    def check_out_later(self, cart: str, customer: int, card: str) -> None:
        """A worker opens the payment."""
        body = _checkout(cart, customer, CARDS[card] if card else "")
        self._check_out("checkout, opened later", f"of {cart}, {card or 'no'} card", body, respond_async=True)

    @rule(cart=_carts, customer=_customers, card=_cards, share=st.sampled_from([1, 2, 3]))
    def check_out_with_credit(self, cart: str, customer: int, card: str, share: int) -> None:
        """The whole, half or a third of it from the customer's store credit, the rest by card."""
        total = sum(BOOKS[product][0] * quantity for product, quantity in CARTS[cart] if product in BOOKS)
        wish = _wish(CARDS[card]) if share > 1 else {"method": "store_credit"}
        body = _checkout(cart, customer) | {"payment": wish | {"store_credit": total // share}}
        how = f"and a {card} card" if share > 1 else "alone"
        self._check_out("checkout with store credit", f"of {cart}, {total // share} of credit {how}", body)

    @rule(cart=_carts, customer=_customers, card=_cards, at=_deaths)
    def check_out_unheard(self, cart: str, customer: int, card: str, at: int) -> None:
        """The web process dies while it answers."""
        self._killed("checkout", f"of {cart}, {card} card", "/checkout", _checkout(cart, customer, CARDS[card]), at)

    @rule(pick=_picks, card=_cards)
    def confirm_in_the_browser(self, pick: int, card: str) -> None:
        """The customer asks for the payment's page and confirms."""
        number = self.payment(_CONFIRMABLE, pick)
        if not number:
            return self.did("browser confirms", NOBODY)
        payment = self.world.get(f"/payments/{number}")
        line = f"{self.name(number)} by {card} card"
        if not payment.document.get("client_secret"):
            return self.did("browser confirms", payment.code if payment.code != "ok" else "not confirmable", line)
        self.did("browser confirms", self.world.confirm(self.world.open_tab(payment.document), CARDS[card]), line)
        return None

    @rule(pick=_picks, card=_cards)
    def confirm_in_an_old_tab(self, pick: int, card: str) -> None:
        """A tab that was left open, whatever became of its payment: of an earlier attempt, or twice in two tabs."""
        tabs = self.world.memory.tabs
        if not tabs:
            return self.did("old tab confirms", NOBODY)
        tab = tabs[-1 - pick % len(tabs)]
        return self.did(
            "old tab confirms", self.world.confirm(tab, CARDS[card]), f"{self.name(tab.payment)} by {card} card"
        )

    @rule(pick=_picks, passed=st.booleans())
    def authenticate(self, pick: int, passed: bool) -> None:
        """3-D Secure, in the bank's window."""
        number = self.payment(_AT_THE_BANK, pick)
        if not number:
            return self.did("3-D Secure", NOBODY)
        intent = self.world.get(f"/payments/{number}").document.get("provider_reference")
        outcome = self.world.authenticate(intent, passed=passed) if intent else "not opened"
        return self.did("3-D Secure", outcome, f"of {self.name(number)} is {'passed' if passed else 'failed'}")

    @rule(pick=_picks, card=st.sampled_from(["", *CARDS]))
    def pay_again(self, pick: int, card: str) -> None:
        """Another attempt, whatever the earlier one is at."""
        number = self.order(_PENDING, pick)
        if not number:
            return self.did("second attempt", NOBODY)
        line = f"for {self.name(number)}, {card or 'no'} card"
        self.ask("second attempt", line, f"/orders/{number}/payments", _wish(CARDS[card] if card else ""))
        return None

    @rule(pick=_picks, at=_deaths)
    def pay_again_unheard(self, pick: int, at: int) -> None:
        number = self.order(_PENDING, pick)
        if not number:
            return self.did("second attempt, web process killed", NOBODY)
        self._killed(
            "second attempt", f"for {self.name(number)}", f"/orders/{number}/payments", _wish(CARDS["good"]), at
        )
        return None

    @rule(pick=_picks)
    def ask_again(self, pick: int) -> None:
        """A client repeats a request that it had a final answer to: it gets the same answer, and nothing happens."""
        asked = self.world.memory.asked
        if not asked:
            return self.did("request repeated", NOBODY)
        request, before = asked[-1 - pick % len(asked)]
        answer = self.world.send(request)
        self.did("request repeated", answer.code, request.path.rpartition("/")[2])
        if not answer.is_open:
            broken = list(a_repeated_request_is_answered_as_before(before, answer))
            if broken:
                raise Broken(a_repeated_request_is_answered_as_before, broken)
        return None

    @rule(pick=_picks)
    def reuse_a_key(self, pick: int) -> None:
        """A client's mistake: a key of before for another request."""
        asked = self.world.memory.asked
        if not asked:
            return self.did("key reused", NOBODY)
        request, _ = asked[-1 - pick % len(asked)]
        answer = self.world.send(Request("/checkout", _checkout("two novels", 9), request.key))
        self.did("key reused", answer.code)
        assert answer.code == "idempotency_key_reused", answer
        return None

    @rule()
    def clients_ask_again(self) -> None:
        """Whoever has had no answer sends the same request again."""
        waiting = self.world.memory.unanswered[:]
        answers = [self.world.ask(request).code for request in waiting]
        self.did("unanswered clients ask again", NOBODY if not waiting else "ok", ", ".join(answers))

    # --- Clerks -------------------------------------------------------------------------------------------

    @rule(pick=_picks, scope=st.sampled_from(["storefront", "operations"]))
    def cancel(self, pick: int, scope: str) -> None:
        """The storefront cancels what is not paid, operations anything."""
        number = self.order(_PENDING if scope == "storefront" else _ANY, pick)
        if not number:
            return self.did("cancel", NOBODY)
        self.ask("cancel", f"{self.name(number)} by {scope}", f"/orders/{number}/cancel", scope=scope)
        return None

    @rule(pick=_picks, at=_deaths)
    def cancel_unheard(self, pick: int, at: int) -> None:
        number = self.order(_ANY, pick)
        if not number:
            return self.did("cancel, web process killed", NOBODY)
        self._killed("cancel", self.name(number), f"/orders/{number}/cancel", {}, at, scope="operations")
        return None

    @rule(pick=_picks)
    def ship(self, pick: int) -> None:
        number = self.order(_PAID, pick)
        if not number:
            return self.did("ship", NOBODY)
        self.ask("ship", self.name(number), f"/orders/{number}/ship", {"carrier": "Post"}, scope="operations")
        return None

    @rule(pick=_picks)
    def complete(self, pick: int) -> None:
        number = self.order(_SHIPPED, pick)
        if not number:
            return self.did("complete", NOBODY)
        self.ask("complete", self.name(number), f"/orders/{number}/complete", scope="operations")
        return None

    @rule(pick=_picks, share=_shares)
    def refund(self, pick: int, share: str) -> None:
        """By the API, within the merchant's policy."""
        found = self._to_refund(pick, share)
        if not found:
            return self.did("refund by API", NOBODY)
        number, amount = found
        body = {"reason": "a torn page"} | ({} if amount is None else {"amount": amount})
        line = f"{share} of {self.name(number)}"
        self.ask("refund by API", line, f"/payments/{number}/refunds", body, scope="operations")
        return None

    @rule(pick=_picks, share=_shares, as_credit=st.booleans())
    def refund_by_staff(self, pick: int, share: str, as_credit: bool = False) -> None:
        found = self._to_refund(pick, share)
        if not found:
            return self.did("refund by staff", NOBODY)
        number, amount = found
        outcome = self.world.refund_by_staff(number, amount, as_credit=as_credit)
        return self.did(
            "refund by staff", outcome, f"{share} of {self.name(number)}{' as credit' if as_credit else ''}"
        )

    @rule(
        customer=_customers, currency=st.sampled_from(["usd", "usd", "jpy"]), amount=st.sampled_from([800, 2500, 9000])
    )
    def grant_credit(self, customer: int, currency: str, amount: int) -> None:
        given = self.world.grant(f"customer-{customer}", currency, amount)
        self.did("store credit granted", "ok" if given else "waits for a second person", f"{amount} {currency}")

    @rule(pick=_picks, by=st.sampled_from(["bela", "clara"]), yes=st.booleans())
    def decide_on_a_grant(self, pick: int, by: str, yes: bool) -> None:
        grant = self.choose("payments_creditgrant", "status = 'awaiting_approval'", pick)
        if grant is None:
            return self.did("store credit decided", NOBODY)
        outcome = outcome_of(lambda: self.world.decide_on_grant(grant, by=by, yes=yes))
        return self.did("store credit decided", outcome, f"{'yes' if yes else 'no'}, by {by}")

    @rule(pick=_picks, at=_deaths)
    def refund_unheard(self, pick: int, at: int) -> None:
        found = self._to_refund(pick, "a third")
        if not found:
            return self.did("refund by API, web process killed", NOBODY)
        number, amount = found
        body = {"reason": "a torn page", "amount": amount}
        line = f"a third of {self.name(number)}"
        self._killed("refund by API", line, f"/payments/{number}/refunds", body, at, scope="operations")
        return None

    @rule(pick=_picks, by=st.sampled_from(["bela", "clara", "api"]), yes=st.booleans())
    def decide_on_a_refund(self, pick: int, by: str, yes: bool) -> None:
        """Above the limit a second person is needed; clara and the API ask for refunds."""
        number = self.refund_number("status = 'awaiting_approval'", pick)
        if not number:
            return self.did("refund approved", NOBODY)
        outcome = outcome_of(lambda: self.world.decide(number, by=by, yes=yes))
        return self.did("refund approved" if yes else "refund rejected", outcome, f"{self.name(number)} by {by}")

    @rule(pick=_picks, outside=st.booleans())
    def refund_again(self, pick: int, outside: bool) -> None:
        """One that failed, by the provider or by our own bank."""
        number = self.refund_number("status = 'failed'", pick)
        if not number:
            return self.did("refund again", NOBODY)
        outcome = outcome_of(lambda: self.world.refund_again(number, outside=outside))
        return self.did("refund again", outcome, f"{self.name(number)}{', by our bank' if outside else ''}")

    @rule(book=st.sampled_from(list(BOOKS)), quantity=st.integers(1, 5))
    def restock(self, book: str, quantity: int) -> None:
        line = f"{quantity} × {book}"
        self.ask("restock", line, f"/stock/{book}/restock", {"quantity": quantity}, scope="operations")

    @rule(book=st.sampled_from(list(BOOKS)), quantity=st.integers(1, 3))
    def deduct(self, book: str, quantity: int) -> None:
        """Sold over the counter."""
        body = {"quantity": quantity, "reference": f"counter {book}"}
        self.ask("deduct", f"{quantity} × {book}", f"/stock/{book}/deduct", body, scope="operations")

    @rule(book=st.sampled_from(list(BOOKS)), quantity=st.integers(1, 3))
    def release(self, book: str, quantity: int) -> None:
        """Brought back to the counter."""
        body = {"quantity": quantity, "reference": f"counter {book}"}
        self.ask("release", f"{quantity} × {book}", f"/stock/{book}/release", body, scope="operations")

    @rule(pick=_picks)
    def expire_one(self, pick: int) -> None:
        number = self.order(_PENDING, pick)
        if not number:
            return self.did("expiry of an order", NOBODY)
        self.world.expire(number)
        return self.did("expiry of an order", "ok", self.name(number))

    @rule()
    def expire_all(self) -> None:
        """A quarter of an hour passes, and nobody pays."""
        self.world.expire()
        self.did("expiry of all", "ok")

    # --- Banks, and the provider's dashboard -------------------------------------------------------------

    @rule(pick=_picks, share=_shares)
    def refund_in_the_dashboard(self, pick: int, share: str) -> None:
        """Behind our back."""
        found = self._to_refund(pick, share)
        intent = found and self.world.get(f"/payments/{found[0]}").document.get("provider_reference")
        if not found or not intent:
            return self.did("refund in the dashboard", NOBODY)
        body = {} if found[1] is None else {"amount": found[1]}
        outcome = self.world.bank("refunds", payment_intent=intent, **body)
        return self.did("refund in the dashboard", outcome, f"{share} of {self.name(found[0])}")

    @rule(pick=_picks, status=st.sampled_from(["failed", "failed", "succeeded", "canceled", "requires_action"]))
    def the_bank_decides_on_a_refund(self, pick: int, status: str) -> None:
        """Also weeks after it succeeded."""
        number = self.refund_number("status IN ('succeeded', 'pending', 'requires_action')", pick)
        at_provider = number and self.world.refund_reference(number)
        if not at_provider:
            return self.did("bank decides on a refund", NOBODY)
        outcome = self.world.bank("refunds/outcome", refund=at_provider, status=status)
        return self.did("bank decides on a refund", outcome, f"{self.name(number)} to be {status}")

    @rule(pick=_picks, share=st.sampled_from(["everything", "half"]), inquiry=st.booleans())
    def dispute(self, pick: int, share: str, inquiry: bool) -> None:
        found = self._to_refund(pick, share)
        intent = found and self.world.get(f"/payments/{found[0]}").document.get("provider_reference")
        if not found or not intent:
            return self.did("dispute", NOBODY)
        outcome = self.world.bank("disputes", payment_intent=intent, amount=found[1], inquiry=inquiry)
        return self.did("dispute", outcome, f"over {share} of {self.name(found[0])}")

    @rule(
        pick=_picks,
        status=st.sampled_from(["won", "lost", "under_review", "needs_response", "warning_closed", "prevented"]),
    )
    def the_bank_decides_on_a_dispute(self, pick: int, status: str) -> None:
        """Also after it was closed: an appeal."""
        disputes = self.world.provider_objects("disputes")[:10]
        if not disputes:
            return self.did("bank decides on a dispute", NOBODY)
        outcome = self.world.bank("disputes/outcome", dispute=disputes[pick % len(disputes)]["id"], status=status)
        return self.did("bank decides on a dispute", outcome, f"to be {status}")

    @rule(currency=st.sampled_from(["usd", "jpy", "kwd"]), at_once=st.booleans())
    def pay_out(self, currency: str, at_once: bool) -> None:
        """What the provider holds goes to our bank."""
        self.did("payout", self.world.bank("payouts", currency=currency, include_pending=at_once), currency)

    @rule(pick=_picks, status=st.sampled_from(["paid", "failed", "canceled"]))
    def our_bank_decides_on_a_payout(self, pick: int, status: str) -> None:
        payouts = self.world.provider_objects("payouts")[:10]
        if not payouts:
            return self.did("our bank decides on a payout", NOBODY)
        outcome = self.world.bank("payouts/outcome", payout=payouts[pick % len(payouts)]["id"], status=status)
        return self.did("our bank decides on a payout", outcome, f"to be {status}")

    # --- The provider and its webhooks -------------------------------------------------------------------

    @rule(how=st.sampled_from(REDELIVERED), copies=st.integers(1, 3), seed=st.integers(0, 3))
    def webhooks_come(self, how: str, copies: int, seed: int) -> None:
        """What was held comes, whole or in part, once or several times, in any order."""
        brought = self._bring(how, copies, seed)
        self.did("webhooks delivered", f"{how}, ×{copies}" if brought else NOBODY, f"{brought}")

    @rule()
    def webhooks_are_lost(self) -> None:
        """They will never come: the provider's list of events has them still."""
        self.world.collect()
        lost, self.world.memory.posted = self.world.memory.posted, []
        self.world.memory.lost += lost
        self.did("webhooks lost", "ok" if lost else NOBODY, f"{len(lost)}")

    @rule()
    def forged_webhook(self) -> None:
        self.world.collect()
        for event in self.world.memory.posted[:1]:
            assert self.world.deliver(event, secret="whsec_a thief's") == 400
        self.did("webhook forged", "signature_invalid" if self.world.memory.posted else NOBODY)

    @rule()
    def replay_events(self) -> None:
        """What no webhook brought is listed."""
        lost = bool(self.world.memory.lost)
        outcome = outcome_of(self.world.catch_up) if lost else NOBODY
        self.did("events listed", outcome)

    @rule(call=st.sampled_from(CALLS), kind=st.sampled_from(FAULTS), times=st.integers(1, 2))
    def provider_fails(self, call: str, kind: str, times: int) -> None:
        """The next such calls fail, before or after their effect."""
        self.world.sandbox.control("POST", "faults", {"match": call, "kind": kind, "times": times})
        self.did("provider fault", kind, f"{call} ×{times}")

    @rule()
    def provider_recovers(self) -> None:
        self.world.sandbox.control("DELETE", "faults")
        self.did("provider recovers", "ok")

    # --- Workers and machines ---------------------------------------------------------------------------

    @rule(lane=_lanes, bite=st.integers(1, 4))
    def work_a_bit(self, lane: Lane, bite: int) -> None:
        done = self.world.work_a_bit(lane, bite)
        self.did("workers, a bit", "ok" if done else NOBODY, f"{lane}: {done}")

    @rule()
    def work(self) -> None:
        """Everything that is due now."""
        done = self.world.work_now()
        self.did("workers, all that is due", "ok" if done else NOBODY, f"{done}")

    @rule(lane=_lanes, at=_deaths)
    def worker_dies(self, lane: Lane, at: int) -> None:
        """SIGKILL in the middle of its work: what it held stays leased."""
        died = self.world.dies(lambda: self.world.work_a_bit(lane, 3), at=at)
        self.did("worker killed", "killed" if died else "was done before", f"{lane}, at boundary {at}")

    @rule()
    def time_passes(self) -> None:
        """Pauses between attempts are over, and the leases of the dead."""
        self.world.wait_no_longer()
        self.did("leases and pauses end", "ok")

    @rule()
    def recheck(self) -> None:
        self.world.recheck()
        self.did("re-check", "ok")

    @rule()
    def mirror(self) -> None:
        run_task("durability.mirror")
        self.did("stream written", "ok")

    @rule()
    def cut_the_books(self) -> None:
        cuts = payments.cut_books()
        self.did("books cut", "ok" if cuts else NOBODY, f"{cuts}")

    @rule()
    def valkey_forgets(self) -> None:
        self.world.flush()
        self.did("FLUSHALL", "ok")

    @rule()
    def reconcile(self) -> None:
        """In the middle of everything; what it opens for want of news closes by itself."""
        outcome = outcome_of(lambda: reconciliation.reconcile_day(day=database_now().date(), by="the history"))
        self.did("reconciliation", outcome)


def a_repeated_request_is_answered_as_before(before: Answer, again: Answer) -> Iterator[str]:
    """A request that is sent again under its key gets the first answer again, but for the secret of the moment."""
    if _shown_as_processing(before.document):  # an unknown outcome is not final: meanwhile it is known
        if _number(before.document) != _number(again.document):
            yield f"of {_number(before.document)} became {_number(again.document)}"
    elif (before.status, _kept(before.document)) != (again.status, _kept(again.document)) or not again.replayed:
        yield f"{before} became {again}"


def _kept(document: Any) -> Any:
    """An answer as it is stored: without the secret."""
    if isinstance(document, dict):
        return {name: _kept(value) for name, value in document.items() if name not in ("client_secret", "request_id")}
    return [_kept(value) for value in document] if isinstance(document, list) else document


def _shown_as_processing(document: Any) -> bool:
    payment = document.get("payment", document)
    return isinstance(payment, dict) and payment.get("status") == "processing"


def _number(document: Any) -> Any:
    return document.get("order", document)["number"] if isinstance(document.get("order"), dict) else document["number"]


def outcome_of(work: Callable[[], object]) -> str:
    """`ok`, or the code of a refusal."""
    try:
        work()
    except DomainError as refusal:
        return refusal.code
    except (ProviderUnsure, ProviderBusy, ProviderRefused) as error:
        return type(error).__name__
    return "ok"


def _checkout(cart: str, customer: int, card: str = "") -> dict[str, Any]:
    items = [{"product": product, "quantity": quantity} for product, quantity in CARTS[cart]]
    buyer = {"id": f"customer-{customer}", "email": "reader@example.com"}
    return {"customer": buyer, "items": items} | ({"payment": _wish(card)} if card else {})


def _wish(card: str) -> dict[str, Any]:
    return {"method": "card"} | ({"payment_method": card, "confirm": True} if card else {})
