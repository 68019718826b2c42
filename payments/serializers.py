"""What the API reads about refunds."""

from rest_framework import serializers

from foundation.api import MinorUnits, StrictSerializer


class RefundRequest(StrictSerializer):
    amount = MinorUnits(required=False)
    reason = serializers.CharField(max_length=500)
