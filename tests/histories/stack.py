"""The same shop on a running stack: its web server answers, and its workers, beat and webhooks do their own work at the same
time. What the history does itself (staff, the workers that it calls, the processes that it kills) it does beside them.

A seed draws the same operations; who is faster is up to the moment. The laws hold whoever is.
"""

import json
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import requests

from catalog import services as catalog
from tests.histories.world import Answer, Memory, NeverAtRest, Request, Workshop
from tests.stack_process import RunningStack

_QUIET_LOOKS = 3  # in a row, because a process may have something in hand that no table shows
_RESTS_WITHIN_S = 120
_ANSWERS_WITHIN_S = 30  # a checkout waits 13 s at most for the provider
SLACK_S = 10  # scans and leases of the stack's own workers


class FarSandbox:
    """The stack's own sandbox, which somebody else started."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, method: str, call: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_sandbox/{call}", method=method, data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@dataclass
class StackWorkshop(Workshop):
    stack: RunningStack | None = None
    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        assert self.stack
        return str(self.stack.info["url"])

    def fresh(self) -> None:
        """A new shop; what others sold stays in the books, and the laws hold for all of them."""
        self.memory = Memory()
        self.open_shop()
        self._keys = {
            scope: catalog.issue_api_key(merchant_id=self.shop.merchant_id, name=scope, scopes=[scope])
            for scope in ("storefront", "operations")
        }

    def send(self, request: Request) -> Answer:
        headers = {"Authorization": f"Bearer {self._keys[request.scope]}", "Idempotency-Key": request.key}
        if request.respond_async:
            headers["Prefer"] = "respond-async"
        try:
            answer = self._browser.post(
                f"{self.url}/api/v1{request.path}", json=request.body, headers=headers, timeout=_ANSWERS_WITHIN_S
            )
        except requests.RequestException:
            return Answer(503, {"code": "no answer"})
        return Answer(answer.status_code, answer.json(), answer.headers.get("Idempotent-Replayed") == "true")

    def rest(self) -> None:
        """As in a shop by itself; and then the stack's own processes have nothing left to do either."""
        deadline = time.monotonic() + _RESTS_WITHIN_S
        quiet = 0
        while quiet < _QUIET_LOOKS:
            if time.monotonic() > deadline:
                raise NeverAtRest(f"not within {_RESTS_WITHIN_S} s")
            super().rest()
            waiting = self.sandbox.control("GET", "webhooks")["waiting"]
            time.sleep(0.2)
            quiet = quiet + 1 if not (waiting or self.unfinished() or self.collect()) else 0
