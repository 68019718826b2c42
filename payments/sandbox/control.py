"""The control interface, `/_sandbox/…`: JSON, no key. It makes the sandbox misbehave, differ, hurry, and tell its totals."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from payments.sandbox import delivery_modes, disputes, faults, intents, money, payouts, plant, refunds, views
from payments.sandbox.account import Account
from payments.sandbox.calls import load
from payments.sandbox.errors import ApiError
from payments.sandbox.server import Answer, Request
from payments.sandbox.store import Json

MAX_TIMES = 1_000_000
MAX_COPIES = 100
MAX_PLANTED = 10_000
LONGEST_ADVANCE_S = 10 * 365 * 86400


class ControlError(Exception):
    """The call is wrong; `allowed` names what would be right."""

    def __init__(self, message: str, *, status: int = 400, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, **details}}


@dataclass(frozen=True)
class Body:
    """The JSON object of a control call, read field by field. Raises ControlError."""

    values: Json

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.values.get(name)
        if value not in allowed:
            raise ControlError(f"{name} must be one of {', '.join(allowed)}", param=name, allowed=list(allowed))
        return str(value)

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int:
        value = self.values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ControlError(
                f"{name} must be an integer from {least} to {most}", param=name, allowed={"least": least, "most": most}
            )
        return value

    def optional(self, name: str, example: str) -> str | None:
        return None if self.values.get(name) is None else self.string(name, example)

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ControlError(f"{name} must be true or false", param=name, allowed=[True, False])
        return value

    def amount(self) -> int | None:
        return None if self.values.get("amount") is None else self.integer("amount", 1, money.MAXIMUM_ZERO_DECIMAL)

    def metadata(self) -> dict[str, str]:
        value = self.values.get("metadata", {})
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ControlError("metadata must be an object of strings", param="metadata", allowed={"order": "ord_1"})
        return value

    def string(self, name: str, example: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            raise ControlError(f"{name} must be a string such as {example!r}", param=name, allowed=example)
        return value


class Control:
    def __init__(self, account: Account) -> None:
        self.account = account
        self._calls: dict[tuple[str, str], Callable[[Body], Json]] = {
            ("GET", "faults"): self._faults,
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._clear_faults,
            ("GET", "webhooks"): self._webhooks,
            ("POST", "webhooks"): self._set_webhooks,
            ("POST", "plant"): self._plant,
            ("GET", "clock"): self._clock,
            ("POST", "clock"): self._advance,
            ("GET", "settle_after"): self._settle_after,
            ("POST", "settle_after"): self._set_settle_after,
            ("GET", "success_rate"): self._success_rate,
            ("POST", "success_rate"): self._set_success_rate,
            ("POST", "authenticate"): self._authenticate,
            ("POST", "disputes"): self._open_dispute,
            ("POST", "disputes/outcome"): self._decide_dispute,
            ("POST", "refunds"): self._refund_elsewhere,
            ("POST", "refunds/outcome"): self._decide_refund,
            ("POST", "payouts"): self._pay_out,
            ("POST", "payouts/outcome"): self._decide_payout,
            ("GET", "payout_schedule"): self._payout_schedule,
            ("POST", "payout_schedule"): self._set_payout_schedule,
            ("GET", "books"): self._books,
            ("POST", "reset"): self._reset,
        }

    def __call__(self, request: Request) -> Answer:
        try:
            call = self._calls.get((request.method, request.path.removeprefix("/_sandbox/")))
            if call is None:
                allowed = [f"{method} /_sandbox/{name}" for method, name in self._calls]
                raise ControlError("no such control call", status=404, allowed=allowed)
            body = _parse(request.body)
            with self.account.transaction():
                answer = call(body)
        except ControlError as error:
            return _answer(error.status, error.body)
        except plant.TooFewError as error:
            return _answer(409, {"error": {"message": str(error), "candidates": error.candidates}})
        except ApiError as error:
            return _answer(error.status, error.body)
        self.account.ring()
        return _answer(200, answer)

    # --- calls, each inside a transaction -----------------------------------------------------------

    def _faults(self, _body: Body) -> Json:
        return {"faults": self.account.faults}

    def _add_fault(self, body: Body) -> Json:
        faults.add(
            self.account,
            match=body.string("match", "POST /v1/payment_intents"),
            kind=body.choice("kind", faults.KINDS),
            times=body.integer("times", 1, MAX_TIMES, default=1),
        )
        return self._faults(body)

    def _clear_faults(self, body: Body) -> Json:
        faults.clear(self.account)
        return self._faults(body)

    def _webhooks(self, _body: Body) -> Json:
        waiting = self.account.store.execute("SELECT count(*) FROM deliveries").fetchone()[0]
        return {"mode": self.account.webhook_mode, "copies": self.account.webhook_copies, "waiting": waiting}

    def _set_webhooks(self, body: Body) -> Json:
        mode = body.choice("mode", delivery_modes.MODES)
        delivery_modes.change(self.account, mode, body.integer("copies", 1, MAX_COPIES, default=2))
        return self._webhooks(body)

    def _plant(self, body: Body) -> Json:
        kind = body.choice("kind", tuple(plant.KINDS))
        return plant.plant(self.account, kind, body.integer("count", 1, MAX_PLANTED, default=1))

    def _clock(self, _body: Body) -> Json:
        return {"now": self.account.now(), "advanced_s": self.account.clock_offset_s}

    def _advance(self, body: Body) -> Json:
        # Backwards too: a test or a demonstration trades on a day that is already over.
        step = body.integer("advance_s", -LONGEST_ADVANCE_S, LONGEST_ADVANCE_S)
        payouts.run_schedule(self.account)  # what was due before the step
        self.account.set("clock_offset_s", self.account.clock_offset_s + step)
        payouts.run_schedule(self.account)
        return self._clock(body)

    def _settle_after(self, _body: Body) -> Json:
        return {"milliseconds": round(self.account.settle_after_s * 1000)}

    def _set_settle_after(self, body: Body) -> Json:
        self.account.set("settle_after_s", body.integer("milliseconds", 0, 86_400_000) / 1000)
        return self._settle_after(body)

    def _success_rate(self, _body: Body) -> Json:
        account = self.account
        return {"percent": account.success_percent, "seed": account.success_seed, "draws": account.success_draws}

    def _set_success_rate(self, body: Body) -> Json:
        self.account.set("success_percent", body.integer("percent", 0, 100))
        self.account.set("success_seed", body.integer("seed", 0, 2**63, default=0))
        self.account.set("success_draws", 0)
        return self._success_rate(body)

    def _authenticate(self, body: Body) -> Json:
        intent_id = body.string("payment_intent", "pi_…")
        passed = body.choice("outcome", ("succeed", "fail")) == "succeed"
        intent = intents.authenticate(self.account, intent_id, passed=passed)
        return {"payment_intent": intent["id"], "status": intent["status"]}

    # --- what happens at the customer's bank, in Stripe's dashboard and at our bank -------------------

    def _charge(self, body: Body) -> Json:
        """The charge that `charge` or `payment_intent` names; an intent's latest."""
        charge_id = body.optional("charge", "ch_…")
        if charge_id is None:
            intent = load(self.account, "payment_intent", body.string("payment_intent", "pi_…"))
            charge_id = intent["latest_charge"] or ""
        return load(self.account, "charge", charge_id)

    def _open_dispute(self, body: Body) -> Json:
        charge = self._charge(body)
        dispute = disputes.open_dispute(
            self.account,
            charge,
            reason=body.choice("reason", disputes.REASONS) if "reason" in body.values else "fraudulent",
            amount=body.amount(),
            inquiry=body.flag("inquiry"),
            due_in_s=body.integer("due_in_s", -LONGEST_ADVANCE_S, LONGEST_ADVANCE_S, disputes.EVIDENCE_DAYS * 86400),
        )
        return views.present(self.account, dispute)

    def _decide_dispute(self, body: Body) -> Json:
        dispute = load(self.account, "dispute", body.string("dispute", "dp_…"))
        status = body.choice("status", disputes.OUTCOMES)
        return views.present(self.account, disputes.decide(self.account, dispute, status))

    def _refund_elsewhere(self, body: Body) -> Json:
        """What staff do in Stripe's dashboard: events and webhooks tell of it, our metadata is not there."""
        charge = self._charge(body)
        amount = refunds.check_amount(self.account, charge, body.amount())
        refund = refunds.give_back(
            self.account, charge, amount=amount, reason="requested_by_customer", metadata=body.metadata()
        )
        return views.present(self.account, refund)

    def _decide_refund(self, body: Body) -> Json:
        refund = load(self.account, "refund", body.string("refund", "re_…"))
        status = body.choice("status", ("succeeded", "failed", "canceled", "requires_action", "pending"))
        reason = body.choice("reason", refunds.FAILURES) if "reason" in body.values else refunds.FAILURES[0]
        return views.present(self.account, refunds.decide(self.account, refund, status, reason))

    def _pay_out(self, body: Body) -> Json:
        now = self.account.now()
        until = now + LONGEST_ADVANCE_S if body.flag("include_pending") else now
        debit = body.flag("debit_negative_balances")
        made = payouts.pay_out(self.account, currency=body.optional("currency", "usd"), until=until, debit=debit)
        return {"payouts": [views.present(self.account, payout) for payout in made]}

    def _decide_payout(self, body: Body) -> Json:
        payout = load(self.account, "payout", body.string("payout", "po_…"))
        status = body.choice("status", payouts.OUTCOMES)
        return views.present(self.account, payouts.decide(self.account, payout, status))

    def _payout_schedule(self, _body: Body) -> Json:
        return {"interval": self.account.payout_schedule}

    def _set_payout_schedule(self, body: Body) -> Json:
        payouts.run_schedule(self.account)  # what passed by before is not caught up with
        self.account.set("payout_schedule", body.choice("interval", payouts.SCHEDULES))
        return self._payout_schedule(body)

    def _books(self, _body: Body) -> Json:
        """Totals from the rows themselves, minor units by currency."""
        count = "SELECT count(*) FROM objects WHERE kind = 'charge' AND status = 'succeeded'"
        return {
            "charges": self.account.store.execute(count).fetchone()[0],
            "captured": self._totals("amount", "kind = 'charge' AND status = 'succeeded'"),
            "refunded": self._totals("amount", "kind = 'refund' AND status IN ('succeeded', 'pending')"),
            "fees": self._totals("fee", "kind = 'balance_transaction'"),
            "balance": self._totals("net", "kind = 'balance_transaction'"),
            "idempotent_replays": self.account.idempotent_replays,
        }

    def _reset(self, body: Body) -> Json:
        self.account.reset()
        return self._books(body)

    def _totals(self, column: str, where: str) -> dict[str, int]:
        query = f"SELECT currency, sum({column}) FROM objects WHERE {where} GROUP BY currency"  # noqa: S608  (all ours)
        return dict(self.account.store.execute(query).fetchall())


def _parse(body: bytes) -> Body:
    try:
        values = json.loads(body or b"{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ControlError("the body must be a JSON object", allowed="{}")
    return Body(values)


def _answer(status: int, body: Json) -> Answer:
    return Answer(status, json.dumps(body).encode())
