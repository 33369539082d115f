"""Secrets and personal data in contributed text, by their public formats.

What a leaf says is trained on and published, so a key or a telephone number in it cannot be taken back. The
prefixes and lengths are those that the issuers document; card numbers are checked by Luhn's sum, IBANs by
ISO 7064 (remainder 1 of 97). Published test numbers, reserved names (RFC 2606, 6761) and the numbers that
are kept for fiction (555-0100 to 555-0199) are no findings. A message never repeats what it found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Leak:
    """`rule` is `secret` or `personal-data`; the place counts from 1."""

    rule: str
    line: int
    column: int
    what: str


# (group name, what it is, pattern). Every repetition is bounded: the text is hostile.
_SECRETS = (
    ("key", "a private key", r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----"),
    ("github", "a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    ("gitlab", "a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,100}"),
    ("aws", "an AWS access key", r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    ("google", "a Google API key", r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("slack", "a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    ("hook", "a Slack webhook", r"\bhooks\.slack\.com/services/T[A-Z0-9]{6,20}/B[A-Z0-9]{6,20}/\w{16,40}"),
    ("hub", "a Hugging Face token", r"\bhf_[A-Za-z0-9]{30,100}\b"),
    ("sk", "an API key of a model provider", r"\bsk-(?:[a-z]{2,8}[0-9]{0,2}-)?[A-Za-z0-9_-]{32,250}"),
    ("stripe", "a Stripe key", r"\b[rs]k_live_[A-Za-z0-9]{16,250}"),
    ("npm", "an npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("pypi", "a PyPI token", r"\bpypi-AgE[A-Za-z0-9_-]{40,500}"),
    ("mail", "a SendGrid key", r"\bSG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{40,46}"),
    (
        "jwt",
        "a signed web token",
        r"\beyJ[A-Za-z0-9_-]{8,500}\.eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{16,700}",
    ),
    (
        "url",
        "an address with a password",
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>]{1,80}:[^\s/@\"'<>]{3,80}@",
    ),
)
_SECRET = re.compile("|".join(f"(?P<{name}>{pattern})" for name, _, pattern in _SECRETS))
_WHAT = {name: what for name, what, _ in _SECRETS}
# Cheap signs, so that a text without any of them is not searched line by line.
_SIGNS = (
    "-----BEGIN", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-",
    "AKIA", "ASIA", "AIza", "xox",
    "slack.com", "hf_", "sk-", "k_live_", "npm_", "pypi-", "SG.", "eyJ", "://",
)  # fmt: skip
_MANY_DIGITS = re.compile(r"\d(?:[ ().-]{0,2}\d){7}|[A-Z]{2}\d\d ?[A-Z0-9]{4}")

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@((?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,5}[A-Za-z]{2,24})\b"
)
_RESERVED = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local)$"
    r"|^users\.noreply\.github\.com$",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"(?<![\w.,+-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
_ISSUED = re.compile(r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}")
_TEST_CARDS = {
    "4111111111111111",
    "4242424242424242",
    "4012888888881881",
    "4000056655665556",
    "5555555555554444",
    "5105105105105100",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
}
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_TEST_IBANS = {"GB82WEST12345698765432", "DE89370400440532013000", "GB29NWBK60161331926819"}
_PHONE = re.compile(
    r"(?<![\w+/.,=-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,5}){1,4}"
    r"|\(\d{3}\) ?\d{3}-\d{4}|[2-9]\d{2}[-.][2-9]\d{2}[-.]\d{4})(?![\w-]|[.,]\d)"
)


def leaks(lines: list[str], personal: bool = True) -> Iterator[Leak]:
    """Every leak, by line. `personal` off looks for secrets only (an attribution names people on purpose)."""
    text = "\n".join(lines)
    signs = [sign for sign in _SIGNS if sign in text]
    at, digits = personal and "@" in text, personal and bool(_MANY_DIGITS.search(text))
    if not (signs or at or digits):
        return
    for number, line in enumerate(lines, start=1):
        if any(sign in line for sign in signs):
            yield from _secrets(number, line)
        if (at and "@" in line) or (digits and _MANY_DIGITS.search(line)):
            yield from _personal(number, line)


def _secrets(number: int, line: str) -> Iterator[Leak]:
    for match in _SECRET.finditer(line):
        name, text = match.lastgroup or "", match.group()
        varied = name == "key" or len(set(text)) >= 12
        if name == "url":
            host = re.match(r"[^\s/:?#\"'<>]{0,253}", line[match.end() :])
            password = text.rsplit(":", 1)[1].strip("@").casefold()
            varied = password not in {"password", "pass", "secret", "token", "xxx", "..."}
            varied = varied and not (host and _RESERVED.search(host.group()))
        if varied and "EXAMPLE" not in text.upper():
            yield Leak("secret", number, match.start() + 1, _WHAT[name])


def _personal(number: int, line: str) -> Iterator[Leak]:
    for match in _EMAIL.finditer(line) if "@" in line else ():
        before = line[max(0, match.start() - 120) : match.start()]
        shared = match.group().startswith("git@")  # how Git hosts are addressed over ssh: nobody's
        if not shared and not _RESERVED.search(match.group(1)) and not re.search(r"://[^\s/]*:$", before):
            yield Leak("personal-data", number, match.start() + 1, "an e-mail address")
    for match in _DIGITS.finditer(line):
        digits = re.sub(r"\D", "", match.group())
        if _ISSUED.fullmatch(digits) and luhn(digits) and digits not in _TEST_CARDS:
            yield Leak("personal-data", number, match.start() + 1, "the number of a payment card")
    for match in _IBAN.finditer(line):
        account = match.group().replace(" ", "")
        if 15 <= len(account) <= 34 and iban(account) and account not in _TEST_IBANS:
            yield Leak("personal-data", number, match.start() + 1, "an IBAN")
    for match in _PHONE.finditer(line):
        digits = re.sub(r"\D", "", match.group())
        if 8 <= len(digits) <= 15 and not re.search(r"55501\d\d$", digits):
            yield Leak("personal-data", number, match.start() + 1, "a telephone number")


def luhn(digits: str) -> bool:
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if at % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(account: str) -> bool:
    moved = account[4:] + account[:4]
    return int("".join(str(int(sign, 36)) for sign in moved)) % 97 == 1
