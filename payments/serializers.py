"""What the API reads about refunds."""

from foundation.api import MinorUnits, StrictSerializer, Text


class RefundRequest(StrictSerializer):
    amount = MinorUnits(required=False)
    reason = Text(max_length=500)
