"""A shop on the running stack, seen from outside: the API with its keys, the browser at the provider, the database."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import requests

from config.devstack import system
from tests import contract
from tests.stack_process import ROOT, RunningStack

VISA = "4242424242424242"


class Shop:
    """The demo merchant. What a test sells has an id of its own, so that tests share nothing."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self.info = stack.info
        self.sandbox = self.info["stripe_api_base"]

    # --- The API --------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, scope: str = "operations"
    ) -> requests.Response:
        answer = requests.request(
            method,
            f"{self.info['url']}/api/v1{path}",
            json=body if body is not None else ({} if method == "POST" else None),
            headers={
                "Authorization": f"Bearer {self.info[f'{scope}_key']}",
                **({"Idempotency-Key": key or str(uuid4())} if method == "POST" else {}),
            },
            timeout=30,
        )
        document = answer.json() if "json" in answer.headers.get("Content-Type", "") else None
        contract.check(method, f"/api/v1{path.partition('?')[0]}", answer.status_code, answer.headers, document)
        return answer

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sell(self, copies: int, *, price: int = 1500) -> str:
        """Publish a book and put copies on the shelf; its id."""
        product = f"book-{uuid4()}"
        document = {
            "id": product,
            "title": "三体",
            "author": "刘慈欣",
            "price": price,
            "currency": "usd",
            "published": True,
        }
        answer = self.call("POST", "/products", document)
        assert answer.status_code == 201, answer.text
        answer = self.call("POST", f"/stock/{product}/restock", {"quantity": copies})
        assert (answer.status_code, answer.json()["available"]) == (200, copies), answer.text
        return product

    def check_out(self, product: str, quantity: int = 1, *, key: str | None = None, email: str = "") -> Any:
        body = {
            "customer": {"id": f"cust-{uuid4()}", "email": email or "reader@example.com"},
            "items": [{"product": product, "quantity": quantity}],
        }
        return self.call("POST", "/checkout", body, key=key, scope="storefront")

    def order(self, number: str) -> Any:
        return self.get(f"/orders/{number}")

    def shelf(self, product: str) -> tuple[int, int]:
        """(on hand, reserved)"""
        level = self.get(f"/stock/{product}")
        return level["on_hand"], level["reserved"]

    def wait_for(self, number: str, **members: str) -> Any:
        """Until an order's members are these; the order."""
        found: dict[str, Any] = {}

        def has_them() -> bool:
            found.update(self.order(number))
            return all(found[name] == value for name, value in members.items())

        assert system.wait_until(has_them, timeout_s=30), found
        return found

    # --- The provider -----------------------------------------------------------------------------------

    def confirm(self, payment: Any, number: str = VISA) -> str:
        """What Stripe.js does in the customer's browser; the intent's status."""
        answer = requests.post(
            f"{self.sandbox}/v1/payment_intents/{payment['provider_reference']}/confirm",
            data={
                "client_secret": payment["client_secret"],
                "payment_method_data[type]": "card",
                "payment_method_data[card][number]": number,
            },
            auth=("pk_test_sandbox", ""),
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

    def intent(self, reference: str) -> Any:
        answer = requests.get(
            f"{self.sandbox}/v1/payment_intents/{reference}", auth=("sk_test_sandbox", ""), timeout=30
        )
        return answer.json()

    def control(self, call: str, **body: Any) -> Any:
        answer = requests.post(f"{self.sandbox}/_sandbox/{call}", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    # --- Underneath -------------------------------------------------------------------------------------

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.info["database_url"], autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def journal(self, order: str) -> dict[str, int]:
        """Kind of entry → Σ of its debits, minor units. Every entry balances."""
        rows = self.rows(
            "SELECT entry.kind, sum(amount_minor) FILTER (WHERE amount_minor > 0), sum(amount_minor)"
            " FROM payments_journalentry entry JOIN payments_posting posting ON posting.entry_id = entry.id"
            " WHERE entry.reference = %s GROUP BY entry.id, entry.kind",
            order,
        )
        assert all(balance == 0 for _, _, balance in rows)
        assert len({kind for kind, _, _ in rows}) == len(rows), "an entry was posted twice"
        return {kind: int(debits) for kind, debits, _ in rows}

    def mails(self, subject: str) -> int:
        """How often the workers, whose mail goes to their console, sent a mail with this subject."""
        logs = (self.stack.var / "log").glob("worker-*.log")
        return sum(log.read_text(errors="replace").count(f"Subject: {subject}\n") for log in logs)

    def webhooks_waiting(self) -> int:
        return int(requests.get(f"{self.sandbox}/_sandbox/webhooks", timeout=30).json()["waiting"])

    def is_at_rest(self) -> bool:
        """No webhook waits, no delivery is open, no saga runs."""
        open_ = (
            "SELECT (SELECT count(*) FROM durability_delivery WHERE state IN ('pending', 'running'))"
            " + (SELECT count(*) FROM durability_sagarun WHERE state IN ('running', 'compensating'))"
        )
        return not self.webhooks_waiting() and self.rows(open_) == [(0,)]

    def what_waits(self) -> str:
        """Why the stack is not at rest, for a test that waited in vain."""
        deliveries = self.rows(
            "SELECT handler, state, count(*), max(attempts), max(last_error), min(available_at)::text, now()::text"
            " FROM durability_delivery WHERE state IN ('pending', 'running', 'parked') GROUP BY handler, state"
        )
        sagas = self.rows("SELECT recipe, state, count(*) FROM durability_sagarun GROUP BY recipe, state")
        return f"deliveries: {deliveries}\nsagas: {sagas}\nwebhooks to come: {self.webhooks_waiting()}"

    def manage(self, *arguments: str) -> tuple[int, Any]:
        """`manage.py …` as an operator types it beside the running stack: exit code, and JSON if it printed any."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.stack.environment | {"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


def eventually(condition: Callable[[], bool], *, timeout_s: float = 30) -> bool:
    return system.wait_until(condition, timeout_s=timeout_s)
