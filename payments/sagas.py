"""How a refund goes: held in our books, asked for at Stripe, posted; and how a late intent is closed. Top to bottom."""

from durability.registry import register
from durability.types import Call, Saga, Step
from payments import steps

def close_intent(context: Context) -> Outcome:
    return services.close_intent(context.key)


def record_closing(context: Context, outcome: Outcome) -> None:
    services.record_cancelling(context.key, outcome, by="saga payments.close_intent")


# The run's key is the refund's number.
REFUND = register(
    Saga(
        "payments.refund",
        version=1,
        steps=(
            Step("reserve the amount", do=None, undo=steps.release_refundable),  # done where the refund is requested
            Call(
                "refund at Stripe", do=steps.refund_at_provider, record=steps.record_refund, undo=None
            ),  # cannot be taken back
            Step("post the refund", do=steps.post_refund, undo=steps.flag_for_operator),
        ),
    )
)

# The run's key is the payment's number. For an attempt that was cancelled or failed here, and that the provider opened
# all the same: a process slept between "sent" and the sending for longer than we look a lost attempt up.
CLOSE_INTENT = register(
    Saga(
        "payments.close_intent",
        version=1,
        steps=(Call("cancel the intent at the provider", do=close_intent, record=record_closing, undo=None),),
    )
)
