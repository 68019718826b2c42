"""One request to `/v1`: who asks, under which key, then the resource's handler, all in one transaction."""

import base64
import binascii
import json
import sys
import time
import traceback
from dataclasses import dataclass

from payments.sandbox import (
    balance,
    charges,
    disputes,
    event_log,
    faults,
    forms,
    idempotency,
    intents,
    payment_methods,
    payouts,
    refunds,
    views,
)
from payments.sandbox.account import API_VERSION, Account, Cause, new_id
from payments.sandbox.calls import Call, Route
from payments.sandbox.errors import ApiError, RateLimited, ServerError, Unauthorized, UnknownUrl
from payments.sandbox.forms import Params
from payments.sandbox.idempotency import Keys, Saved
from payments.sandbox.server import Answer, Request
from payments.sandbox.store import Json

ROUTES: dict[tuple[str, str], Route] = {
    **intents.ROUTES,
    **charges.ROUTES,
    **refunds.ROUTES,
    **balance.ROUTES,
    **payment_methods.ROUTES,
    **event_log.ROUTES,
    **disputes.ROUTES,
    **payouts.ROUTES,
}


@dataclass(frozen=True)
class _Incoming:
    """A request that was let in."""

    method: str
    path: str
    object_id: str
    route: Route
    params: Json
    publishable: bool
    request_id: str
    key: str | None


class Api:
    def __init__(self, account: Account) -> None:
        self.account = account
        self.keys = Keys(account)

    def __call__(self, request: Request) -> Answer:
        request_id = new_id("req", 14)
        headers = {"Request-Id": request_id, "Stripe-Version": request.headers.get("stripe-version", API_VERSION)}
        try:
            incoming = self._let_in(request, request_id)
            if incoming.key is not None:
                headers["Idempotency-Key"] = incoming.key
            instead = self._fault_on_the_way(incoming)
            if instead is not None:
                return instead
            with self.keys.using(incoming.key):
                saved, instead = self._perform(incoming)
        except ApiError as error:
            return Answer(error.status, _encoded(error.body), headers)
        if instead is not None:
            return instead
        if incoming.key is not None:
            headers["Original-Request"] = saved.request_id
        if saved.request_id != request_id:
            headers["Idempotent-Replayed"] = "true"
        return Answer(saved.status, saved.body, headers)

    def _let_in(self, request: Request, request_id: str) -> _Incoming:
        """Raises UnknownUrl, Unauthorized, InvalidParameter."""
        params = forms.decode(request.query, request.body.decode("utf-8", "replace"))
        publishable = self._authenticate(request, params)
        route, object_id = _route(request.method, request.path)
        if publishable and not route.publishable:
            raise Unauthorized(
                "This API call cannot be made with a publishable API key. Please use a secret API key. You can find a list"
                " of your API keys at https://dashboard.stripe.com/account/apikeys.",
                code="secret_key_required",
            )
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        return _Incoming(request.method, request.path, object_id, route, params, publishable, request_id, key)

    def _authenticate(self, request: Request, params: Json) -> bool:
        """True for the publishable key, False for the secret one. Stripe.js puts its key among the parameters."""
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                credential = base64.b64decode(credential).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                credential = ""
        key = params.pop("key", None) if not credential else credential.strip()
        if key == self.account.config.secret_key:
            return False
        if key == self.account.config.publishable_key:
            return True
        if not key:
            raise Unauthorized(
                "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer"
                " auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
            )
        hidden = f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "*" * len(key)
        raise Unauthorized(f"Invalid API Key provided: {hidden}")

    def _fault_on_the_way(self, incoming: _Incoming) -> Answer | None:
        """Raises RateLimited when told to."""
        where = (incoming.method, incoming.path, faults.ON_THE_WAY)
        if not faults.due(self.account, *where):
            return None
        with self.account.transaction():
            kind = faults.take(self.account, *where)
        if kind == "rate_limit":
            raise RateLimited
        if kind is None:
            return None
        return Answer(0, b"", instead="reset" if kind == "reset" else "hang")

    def _perform(self, incoming: _Incoming) -> tuple[Saved, Answer | None]:
        """The answer, replayed or fresh; effects, record and answer commit together. Raises what is not kept."""
        account, key = self.account, incoming.key
        if incoming.method == "GET" and not account.faults:
            with account.lock:
                return self._execute(incoming), None
        fault = None
        with account.transaction(Cause(incoming.request_id, key)):
            fingerprint = idempotency.fingerprint(incoming.params)
            if key is not None:
                saved = self.keys.find(key, incoming.path, fingerprint)
                if saved is not None:
                    return saved, None
            fault = faults.take(account, incoming.method, incoming.path, faults.EXECUTING)
            saved = _broken(incoming) if fault == "error_500" else self._execute(incoming)
            if fault == "error_500_after":
                saved = _broken(incoming)
            if key is not None:
                self.keys.save(key, incoming.path, fingerprint, saved)
        if fault == "slow":
            time.sleep(faults.SLOW_S)  # the key stays in use
        if fault == "cut_short":
            return saved, Answer(saved.status, saved.body[: len(saved.body) * 7 // 8])
        return saved, Answer(0, b"", instead="hang") if fault == "timeout_after" else None

    def _execute(self, incoming: _Incoming) -> Saved:
        """Run the handler; a refusal leaves nothing behind, a decline its failed charge. Raises what is not kept."""
        try:
            with self.account.undo_on_error():
                try:
                    status, body = 200, self._call(incoming)
                except ApiError as error:
                    if not error.keeps_effects:
                        raise
                    status, body = error.status, error.body
        except ApiError as error:
            if not error.saved:
                raise
            status, body = error.status, error.body
        except Exception:  # noqa: BLE001  (a defect of the sandbox is a 500 to its caller, as Stripe's own would be)
            traceback.print_exc(file=sys.stderr)
            return _broken(incoming)
        return Saved(status, _encoded(body), incoming.request_id)

    def _call(self, incoming: _Incoming) -> Json:
        params = Params(dict(incoming.params))
        params.refuse_unknown({*incoming.route.params, "expand"})
        paths = params.strings("expand")
        params.values.pop("expand", None)
        call = Call(self.account, params, incoming.path, incoming.object_id, incoming.publishable)
        return views.expand(self.account, incoming.route.handle(call), paths)


def _broken(incoming: _Incoming) -> Saved:
    return Saved(500, _encoded(ServerError().body), incoming.request_id)


def _route(method: str, path: str) -> tuple[Route, str]:
    """`/v1/refunds/re_1` → the route of `/v1/refunds/{id}`, and `re_1`. Raises UnknownUrl (404)."""
    route = ROUTES.get((method, path))
    if route is not None:
        return route, ""
    parts = path.split("/")
    if len(parts) > 3:
        object_id, parts[3] = parts[3], "{id}"
        route = ROUTES.get((method, "/".join(parts)))
        if route is not None and object_id:
            return route, object_id
    raise UnknownUrl(method, path)


def _encoded(body: Json) -> bytes:
    return json.dumps(body).encode()
