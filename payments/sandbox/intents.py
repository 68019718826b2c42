"""Payment intents: create, confirm, authenticate, cancel, and the way from one state to the next."""

from contextlib import suppress

from payments.sandbox import cards, charges, money, payment_methods, views
from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import Call, Route, listing
from payments.sandbox.cards import AUTHENTICATION_REQUIRED, GENERIC, Decline
from payments.sandbox.errors import Declined, InvalidParameter, NotFound, Refused
from payments.sandbox.events import emit
from payments.sandbox.forms import Params, merge_metadata
from payments.sandbox.store import Json

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELLABLE = ("requires_payment_method", "requires_confirmation", "requires_action", "requires_capture")
CAPTURE_METHODS = ("automatic", "automatic_async")
CANCELLATION_REASONS = ("abandoned", "duplicate", "fraudulent", "requested_by_customer")
# What Stripe shows to the holder of the client_secret and a publishable key.
PUBLIC_FIELDS = (
    "id", "object", "amount", "amount_details", "automatic_payment_methods", "canceled_at", "cancellation_reason",
    "capture_method", "client_secret", "confirmation_method", "created", "currency", "description", "last_payment_error",
    "livemode", "next_action", "payment_method", "payment_method_configuration_details", "payment_method_types",
    "processing", "receipt_email", "setup_future_usage", "shipping", "source", "status",
)  # fmt: skip
AUTHENTICATION_FAILED = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try again."
)
RETURN_URL_NEEDED = (
    "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of these payment"
    " methods might redirect your customer off of your page, you must provide a `return_url`. If you don't want to accept"
    " redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` and"
    " `automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment Intents."
)


# --- building ---------------------------------------------------------------------------------------


def build(account: Account, *, amount: int, currency: str, metadata: dict[str, str], description: str | None) -> Json:
    intent_id = new_id("pi")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{intent_id}_{new_id('secret', 25)}",
        "confirmation_method": "automatic",
        "created": account.now(),
        "currency": currency,
        "customer": None,
        "customer_account": None,
        "description": description,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": metadata,
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }


def _automatic_methods(params: Params) -> Json | None:
    """Explicit types switch the automatic choice off; nothing said switches it on, as API versions since 2023 do."""
    if "payment_method_types" in params:
        if params.strings("payment_method_types") != ["card"]:
            raise InvalidParameter(
                "The sandbox takes cards only: payment_method_types must be card.", param="payment_method_types"
            )
        if "automatic_payment_methods" in params:
            raise InvalidParameter(
                "You may only specify one of these parameters: automatic_payment_methods, payment_method_types.",
                param="payment_method_types",
            )
        return None
    given = Params(params.mapping("automatic_payment_methods"))
    given.refuse_unknown({"enabled", "allow_redirects"})
    if given.values and not given.flag("enabled"):
        return None
    return {"allow_redirects": given.choice("allow_redirects", ("always", "never")) or "always", "enabled": True}


def _shipping(params: Params) -> Json | None:
    given = params.mapping("shipping")
    if not given:
        return None
    fields = {name: given.get(name) for name in ("address", "carrier", "name", "phone", "tracking_number")}
    return {**fields, "address": {**payment_methods.NO_ADDRESS, **(fields["address"] or {})}}


# --- calls ------------------------------------------------------------------------------------------


def _create(call: Call) -> Json:
    account, params = call.account, call.params
    amount = params.integer("amount")
    if amount is None:
        raise InvalidParameter("Missing required param: amount.", code="parameter_missing", param="amount")
    currency = params.required("currency").lower()
    money.check_amount(amount, currency)
    intent = build(
        account,
        amount=amount,
        currency=currency,
        metadata=merge_metadata({}, params.metadata()),
        description=params.string("description"),
    )
    intent["automatic_payment_methods"] = _automatic_methods(params)
    intent["capture_method"] = params.choice("capture_method", CAPTURE_METHODS) or "automatic_async"
    for name in ("customer", "receipt_email", "statement_descriptor", "statement_descriptor_suffix"):
        intent[name] = params.string(name)
    intent["setup_future_usage"] = params.choice("setup_future_usage", ("off_session", "on_session"))
    intent["shipping"] = _shipping(params)
    confirm = params.flag("confirm")
    if confirm:
        _check_return_url(intent, params)
    else:
        for name in ("return_url", "off_session", "error_on_requires_action"):
            if name in params:
                raise InvalidParameter(f"`{name}` can only be used with `confirm`.", param=name)
    method = payment_methods.from_params(account, params)
    if method is not None:
        intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
    account.store.insert(intent)
    emit(account, "payment_intent.created", intent)
    if confirm:
        _attempt(call, intent, method)
    return views.present(account, intent)


def _confirm(call: Call) -> Json:
    intent = _load(call)
    if intent["status"] not in CONFIRMABLE:
        raise _unexpected_state(call.account, intent, _cannot_confirm(intent))
    if not call.publishable:
        _check_return_url(intent, call.params)
    if "receipt_email" in call.params:
        intent["receipt_email"] = call.params.string("receipt_email")
    if "shipping" in call.params:
        intent["shipping"] = _shipping(call.params)
    _attempt(call, intent, payment_methods.from_params(call.account, call.params))
    return _shown(call, intent)


def _retrieve(call: Call) -> Json:
    return _shown(call, _load(call))


def _update(call: Call) -> Json:
    account, params, intent = call.account, call.params, call.load("payment_intent")
    if intent["status"] in {"succeeded", "canceled", "processing"} and params.values.keys() - {
        "metadata",
        "description",
    }:
        message = f"This PaymentIntent could not be updated because it has a status of {intent['status']}."
        raise _unexpected_state(account, intent, message)
    amount = params.integer("amount")
    if amount is not None:
        money.check_amount(amount, intent["currency"])
        intent["amount"] = amount
    for name in ("description", "receipt_email"):
        if name in params:
            intent[name] = params.string(name) or None
    intent["metadata"] = (
        merge_metadata(intent["metadata"], params.metadata()) if params.values.get("metadata") != "" else {}
    )
    account.store.update(intent)
    return views.present(account, intent)


def _cancel(call: Call) -> Json:
    account, intent = call.account, call.load("payment_intent")
    reason = call.params.choice("cancellation_reason", CANCELLATION_REASONS)
    if intent["status"] not in CANCELLABLE:
        allowed = ", ".join(CANCELLABLE)
        message = (
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent with"
            f" one of the following statuses may be canceled: {allowed}."
        )
        raise _unexpected_state(account, intent, message)
    intent |= {"status": "canceled", "canceled_at": account.now(), "cancellation_reason": reason, "next_action": None}
    account.store.update(intent)
    emit(account, "payment_intent.canceled", intent)
    return views.present(account, intent)


def _load(call: Call) -> Json:
    """The intent of the path; the publishable key also needs its client_secret."""
    if not call.publishable:
        intent = call.load("payment_intent")
        secret = call.params.string("client_secret")
        if secret is not None and secret != intent["client_secret"]:
            raise _wrong_secret()
        return intent
    secret = call.params.required("client_secret")
    intent = call.load("payment_intent")
    if secret != intent["client_secret"]:
        raise _wrong_secret()
    return intent


def _shown(call: Call, intent: Json) -> Json:
    shown = views.present(call.account, intent)
    return {name: shown[name] for name in PUBLIC_FIELDS} if call.publishable else shown


# --- from state to state ----------------------------------------------------------------------------


def _attempt(call: Call, intent: Json, method: Json | None) -> None:
    """Confirm with the given or the attached card; raises Declined (402), whose effects stay."""
    account, params = call.account, call.params
    if method is None and intent["payment_method"] is not None:
        method = account.store.get("payment_method", intent["payment_method"])
    if method is None:
        message = (
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the"
            " PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment"
            " method or ConfirmationToken."
        )
        raise _unexpected_state(account, intent, message)
    card = payment_methods.card_of(method)
    intent |= {"payment_method": method["id"], "next_action": None, "last_payment_error": None}
    if card.authentication:
        if params.flag("off_session") or params.flag("error_on_requires_action"):
            _decline(account, intent, method, AUTHENTICATION_REQUIRED)
        _require_action(account, intent, params.string("return_url"))
    elif card.processing:
        intent |= {"status": "processing", "processing": {"type": "card"}}
        account.store.update(intent)
        account.later("finish_processing", intent["id"], account.config.news_after_s)
        emit(account, "payment_intent.processing", intent)
    else:
        decline = card.decline
        if card.ordinary and not account.draw_success():
            decline = GENERIC
        if decline is not None:
            _decline(account, intent, method, decline)
        succeed(account, intent, method)


def succeed(account: Account, intent: Json, method: Json) -> Json:
    """Capture the whole amount; returns the charge. Legal from every state: differences are planted with it too."""
    delay = account.settle_after_s if intent["capture_method"] == "automatic_async" and not account.silent else 0.0
    charge = charges.succeed(account, intent, method, settle_after_s=delay)
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "latest_charge": charge["id"],
        "payment_method": method["id"],
        "next_action": None,
        "processing": None,
        "last_payment_error": None,
        "canceled_at": None,
        "cancellation_reason": None,
    }
    account.store.update(intent)
    emit(account, "payment_intent.succeeded", intent)
    return charge


def _decline(account: Account, intent: Json, method: Json, decline: Decline) -> None:
    """The attempt fails, the intent can be confirmed again; always raises Declined."""
    charge = charges.fail(account, intent, method, decline)
    error: Json = {
        "advice_code": "try_again_later",
        "charge": charge["id"],
        "code": decline.code,
        "decline_code": decline.decline_code,
        "doc_url": f"https://stripe.com/docs/error-codes/{decline.code.replace('_', '-')}",
        "message": decline.message,
        "payment_method": views.present(account, method),
        "type": "card_error",
    }
    _back_to_payment_method(account, intent, error, latest_charge=charge["id"])
    raise Declined(
        decline.message,
        code=decline.code,
        decline_code=decline.decline_code,
        charge=charge["id"],
        payment_intent=views.present(account, intent),
        payment_method=error["payment_method"],
    )


def _back_to_payment_method(account: Account, intent: Json, error: Json, *, latest_charge: str | None) -> None:
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "last_payment_error": error,
        "latest_charge": latest_charge,
    }
    account.store.update(intent)
    emit(account, "payment_intent.payment_failed", intent)


def _require_action(account: Account, intent: Json, return_url: str | None) -> None:
    if return_url is None:
        intent["next_action"] = {
            "type": "use_stripe_sdk",
            "use_stripe_sdk": {"type": "three_d_secure_redirect", "source": new_id("src"), "stripe_js": ""},
        }
    else:
        url = f"https://hooks.stripe.com/3d_secure_2/hosted?payment_intent={intent['id']}"
        intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": url}}
    intent["status"] = "requires_action"
    account.store.update(intent)
    emit(account, "payment_intent.requires_action", intent)


def authenticate(account: Account, intent_id: str, *, passed: bool) -> Json:
    """What the customer does in the bank's 3-D Secure window. Raises NotFound, Refused; a declining card declines now."""
    intent = account.store.get("payment_intent", intent_id)
    if intent is None:
        raise NotFound("payment_intent", intent_id, "payment_intent")
    if intent["status"] != "requires_action":
        raise Refused(f"This PaymentIntent has a status of {intent['status']}: there is nothing to authenticate.")
    method = account.store.get("payment_method", intent["payment_method"])
    if method is None:
        raise NotFound("payment_method", intent["payment_method"], "payment_method")
    if not passed:
        error: Json = {
            "code": "payment_intent_authentication_failure",
            "doc_url": "https://stripe.com/docs/error-codes/payment-intent-authentication-failure",
            "message": AUTHENTICATION_FAILED,
            "payment_method": views.present(account, method),
            "type": "invalid_request_error",
        }
        _back_to_payment_method(account, intent, error, latest_charge=intent["latest_charge"])
        return views.present(account, intent)
    decline = payment_methods.card_of(method).decline
    if decline is None:
        succeed(account, intent, method)
    else:
        with suppress(Declined):  # the bank's window closes; the merchant learns it from the intent
            _decline(account, intent, method, decline)
    return views.present(account, intent)


def finish_processing(account: Account, intent_id: str) -> None:
    """The job after `processing`: the bank's news arrive, and they are good."""
    intent = account.store.get("payment_intent", intent_id)
    if intent is None or intent["status"] != "processing":
        return
    method = account.store.get("payment_method", intent["payment_method"])
    succeed(account, intent, method or payment_methods.build(account, cards.by_name("processing")))


# --- refusals ---------------------------------------------------------------------------------------


def _check_return_url(intent: Json, params: Params) -> None:
    automatic = intent["automatic_payment_methods"]
    if automatic and automatic["allow_redirects"] == "always" and not params.string("return_url"):
        raise InvalidParameter(RETURN_URL_NEEDED)


def _cannot_confirm(intent: Json) -> str:
    if intent["status"] == "succeeded":
        return (
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed."
        )
    return (
        f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent with one"
        " of the following statuses may be confirmed: requires_confirmation, requires_action."
    )


def _unexpected_state(account: Account, intent: Json, message: str) -> Refused:
    return Refused(message, code="payment_intent_unexpected_state", payment_intent=views.present(account, intent))


def _wrong_secret() -> InvalidParameter:
    return InvalidParameter(
        "The client_secret provided does not match the client_secret associated with the PaymentIntent.",
        code="payment_intent_invalid_parameter",
        param="client_secret",
    )


_CREATE = {
    "amount", "currency", "metadata", "payment_method", "payment_method_data", "confirm", "description", "capture_method",
    "automatic_payment_methods", "payment_method_types", "customer", "receipt_email", "return_url", "off_session",
    "error_on_requires_action", "setup_future_usage", "shipping", "statement_descriptor", "statement_descriptor_suffix",
}  # fmt: skip
_CONFIRM = {
    "payment_method", "payment_method_data", "client_secret", "return_url", "off_session", "error_on_requires_action",
    "receipt_email", "shipping", "use_stripe_sdk",
}  # fmt: skip
ROUTES = {
    ("POST", "/v1/payment_intents"): Route(_create, _CREATE),
    ("GET", "/v1/payment_intents"): listing("payment_intent", "customer"),
    ("GET", "/v1/payment_intents/{id}"): Route(_retrieve, {"client_secret"}, publishable=True),
    ("POST", "/v1/payment_intents/{id}"): Route(_update, {"amount", "description", "metadata", "receipt_email"}),
    ("POST", "/v1/payment_intents/{id}/confirm"): Route(_confirm, _CONFIRM, publishable=True),
    ("POST", "/v1/payment_intents/{id}/cancel"): Route(_cancel, {"cancellation_reason"}),
}
