"""Webhook signatures: HMAC-SHA256 over the raw bytes, before anything is parsed.

Source: GitHub, "Validating webhook deliveries" (its published test vector is in our tests). SHA-1 signatures
are ignored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

HEADER = "X-Hub-Signature-256"


def sign(secret: bytes, body: bytes) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def verify(secrets: Sequence[bytes], body: bytes, header: str | None) -> bool:
    """Whether one of the live `secrets` signed `body`. Every secret is compared, each in constant time."""
    if not header or not header.isascii():
        return False
    matches = [hmac.compare_digest(sign(secret, body), header) for secret in secrets]
    return any(matches)
