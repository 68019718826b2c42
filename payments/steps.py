"""The steps of `payments.sagas`: each unpacks its context and makes one call."""

from durability.types import Context, Outcome
from payments import services

BY = "saga payments.refund"


def release_refundable(context: Context) -> None:
    services.release_refundable(context.key, by=BY)


def refund_at_provider(context: Context) -> Outcome:
    return services.refund_at_provider(context.key)


def record_refund(context: Context, outcome: Outcome) -> None:
    services.record_refund(context.key, outcome)


def post_refund(context: Context) -> None:
    services.post_refund(context.key, by=BY)


def flag_for_operator(context: Context) -> None:
    services.flag_refund(context.key, by=BY)


def close_intent(context: Context) -> Outcome:
    return services.close_intent(context.key)


def record_closing(context: Context, outcome: Outcome) -> None:
    services.record_cancelling(context.key, outcome, by="saga payments.close_intent")
