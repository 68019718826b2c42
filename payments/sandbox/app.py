"""Which of the sandbox's three faces a path belongs to: Stripe's API, the control interface, the health check."""

from payments.sandbox.account import Account
from payments.sandbox.api import Api
from payments.sandbox.control import Control
from payments.sandbox.server import Answer, Request


class App:
    def __init__(self, account: Account) -> None:
        self._api = Api(account)
        self._control = Control(account)

    def __call__(self, request: Request) -> Answer:
        if request.path == "/livez":
            return Answer(200, b'{"status": "ok"}')
        if request.path.startswith("/_sandbox/"):
            return self._control(request)
        return self._api(request)
