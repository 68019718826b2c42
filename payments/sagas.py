"""How a refund goes: held in our books, asked for at Stripe, posted; and how a late intent is closed. Top to bottom."""

from durability.registry import register
from durability.types import Call, Saga, Step
from payments import steps

# The run's key is the refund's number. Above the merchant's limit it begins when a second person has approved.
REFUND = register(
    Saga(
        "payments.refund",
        version=1,
        steps=(
            # Done where the refund is requested. What the provider has told us of is not released: its news settle it.
            Step("reserve the amount", do=None, undo=steps.release_refundable),
            # Cannot be taken back: from here on our books follow.
            Call("refund at Stripe", do=steps.refund_at_provider, record=steps.record_refund, undo=None),
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
        steps=(
            Call("cancel the intent at the provider", do=steps.close_intent, record=steps.record_closing, undo=None),
        ),
    )
)
