"""What the catalogue refuses."""

from foundation.errors import DomainError, InvalidInput


class ProductExists(DomainError):
    """A product with this id or ISBN exists already: change it with PATCH, or take another id."""

    code = "product_exists"
    status = 409


class MerchantExists(DomainError):
    """A merchant with this name exists already."""

    code = "merchant_exists"
    status = 409


class KeyNotLive(DomainError):
    """This key is revoked or has expired: issue a new one instead."""

    code = "key_not_live"
    status = 409


class KeyReplaced(DomainError):
    """This key has a successor already: rotate that one. Where its secret was lost, revoke the successor first."""

    code = "key_replaced"
    status = 409


class InvalidIsbn(InvalidInput):
    """This is not an ISBN: give ten or thirteen digits with a correct check digit, hyphens are fine."""


class UnreadableFile(DomainError):
    """The file cannot be imported."""

    code = "file_unreadable"
    status = 400
