"""A ready redactor: credentials and personal data in their common forms. Needs `pip install "egisai[redaction]"`.

Credentials are found by detect-secrets' detectors, phone numbers by phonenumbers, card numbers and IBANs by their check
digits (python-stdnum): docs/decisions/0008-redaction.md says why these. Names of people and addresses are not found:
that takes a language model, which belongs behind a redactor of your own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

_DETECTORS: Final = (
    "artifactory.ArtifactoryDetector",
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "mailchimp.MailchimpDetector",
    "npm.NpmDetector",
    "openai.OpenAIDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)
"""Those that know a credential by its form. detect-secrets' keyword and entropy detectors find too much in prose, and
its detectors of web tokens and of Slack find too little or take too long: theirs are below."""

_KEYS: Final = re.compile(
    r"\b(?:sk|gsk|pk|rk|xai|egis_live)[-_][A-Za-z0-9_-]{20,}"
    r"|\bAIza[A-Za-z0-9_-]{35}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*)?"
    r"|\bxox[a-z]-[A-Za-z0-9-]{10,}"
    r"|hooks\.slack\.com/services/[A-Za-z0-9/_-]+"
)
"""Of LLM providers and of us, of Google, JSON web tokens, Slack."""
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_PASSWORD: Final = re.compile(r"(://[^\s/:@]{1,256}:)[^\s/@]{1,256}@")  # in a URL
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_CARD: Final = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}\b")
_MAYBE_PHONE: Final = re.compile(r"\+?\d[\d ()./-]{6,}\d")


def common(*, region: str | None = None) -> Callable[[str, str], str]:
    """A redactor for `init(redact=...)`, which writes `<EMAIL>`, `<PHONE>`, `<CARD>`, `<IBAN>` or `<SECRET>` instead.

    Args:
        region: Of phone numbers without a country code, such as "US" or "DE". None: only those with one are found.

    Raises:
        ImportError: The extra is not installed.
    """
    try:
        import phonenumbers
        from stdnum import iban, luhn

        patterns = [pattern for name in _DETECTORS for pattern in _patterns(name)]
    except ImportError as exc:
        raise ImportError('redaction.common() needs more libraries: pip install "egisai[redaction]"') from exc
    phones: Any = phonenumbers
    is_card: Callable[[str], bool] = luhn.is_valid
    is_iban: Callable[[str], bool] = iban.is_valid

    def card(match: re.Match[str]) -> str:
        return "<CARD>" if is_card(re.sub("[ -]", "", match[0])) else match[0]

    def bank(match: re.Match[str]) -> str:
        return "<IBAN>" if is_iban(match[0]) else match[0]

    def redact(text: str, name: str) -> str:  # noqa: ARG001 - a redactor's interface
        if len(text) < 6:  # shorter than anything that is looked for
            return text
        text = _KEYS.sub("<SECRET>", _PRIVATE_KEY.sub("<SECRET>", text))
        for pattern in patterns:
            text = pattern.sub("<SECRET>", text)
        text = _PASSWORD.sub(r"\1<SECRET>@", text)
        if "@" in text:
            text = _EMAIL.sub("<EMAIL>", text)
        text = _CARD.sub(card, _IBAN.sub(bank, text))
        if _MAYBE_PHONE.search(text):
            for found in reversed(list(phones.PhoneNumberMatcher(text, region))):
                text = f"{text[: found.start]}<PHONE>{text[found.end :]}"
        return text

    return redact


def _patterns(name: str) -> list[re.Pattern[str]]:
    module, _, kind = name.partition(".")
    return list(getattr(import_module(f"detect_secrets.plugins.{module}"), kind).denylist)
