"""Which facts leave the process, and which that arrive are believed: `egisai.*` members of the `baggage` header.

    inject   baggage = others + ours ---> others, as OpenTelemetry writes them
                                          + ours, signed, if the active span says the destination is trusted
    extract  others -------------------> baggage, as OpenTelemetry reads it
             ours, signature and expiry right -> the facts of the context; else ignored and counted

This module amends `W3CBaggagePropagator`, which every composite and every direct use goes through, whichever is set
up first: see docs/decisions/0007-trust.md.
"""

from __future__ import annotations

import base64
import functools
import hmac
import ipaddress
import re
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import quote

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, create_key, get_current, set_value
from opentelemetry.propagators.textmap import default_getter, default_setter
from opentelemetry.trace import SpanKind

from . import guard, semconv
from .attribution import attributes_of_span
from .context import NO_FACTS, Facts, facts_of, held_in, others_in, read, span_in, with_facts, with_others
from .semconv import BAGGAGE_PREFIX, FIELDS
from .settings import Settings

_REFUSED: Final = create_key("egisai-refused")  # members, so that a second reader of the header counts them no more
_HEADER: Final = "baggage"
_SIGNATURE: Final = BAGGAGE_PREFIX + "signature"
_SIGNED: Final = re.compile(r"1\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})")  # version, expiry in seconds, HMAC
_ORDER: Final = ("agent_id", *(name for name in FIELDS if name != "agent_id"))
"""Who comes first where a header is full: a name alone, without the id that was given with it, is another agent."""

# https://www.w3.org/TR/baggage/#limits, as OpenTelemetry applies them.
_MAX_HEADER_BYTES: Final = 8192
_MAX_MEMBERS: Final = 180

_REQUEST_LIFETIME_S: Final = 300  # longer than any sensible retry, and than clocks differ
_MESSAGE_LIFETIME_S: Final = 14 * 24 * 3600  # a message may wait in its queue: 14 days is what Amazon SQS keeps at most

# Where client spans say, in new and old conventions, what they talk to.
_URLS: Final = (semconv.URL_FULL, semconv.HTTP_URL)
_HOSTS: Final = (semconv.SERVER_ADDRESS, semconv.NET_PEER_NAME, semconv.HTTP_HOST)

_INTERNAL: Final = frozenset({"localhost", "local", "internal", "svc"})
"""Last labels that the public DNS never has (RFC 6761, RFC 6762, ICANN's .internal) or does not have (Kubernetes)."""
_PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)  # narrower than ipaddress's is_private, which counts every reserved range
_NAME: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label like this makes the name an address, to a browser
_AUTHORITY: Final = re.compile(r"(?:[!-?A-\[\]-~]*@)?(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::[0-9]*)?")
"""Of a URL: user, host, port. What does not look like this is read differently by different clients."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom this process sends facts to, and whose it believes."""

    hosts: frozenset[str] = frozenset()
    domains: tuple[str, ...] = ()
    """With the leading dot: each name that ends so."""
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """The first signs, each verifies. None: facts travel unsigned."""
    unsigned: bool = False
    """Believe what is not signed."""

    @classmethod
    def of(cls, settings: Settings) -> Trust:
        """What the settings say."""
        return cls(
            hosts=frozenset(host for host in settings.trusted_hosts if not host.startswith("*.")),
            domains=tuple(host[1:] for host in settings.trusted_hosts if host.startswith("*.")),
            secrets=tuple(secret.encode() for secret in settings.context_secret),
            unsigned=settings.trust_inbound,
        )

    def sends_to(self, host: str) -> bool:
        """Whether facts may go to this host: a name or an address, as URLs have it, without port."""
        host = host.lower().removeprefix("[").removesuffix("]")
        absolute = host.endswith(".")
        host = host.removesuffix(".")
        if host in self.hosts:
            return True
        try:
            return _is_private(host)
        except ValueError:
            pass  # a name
        *above, last = host.split(".")
        if not _NAME.fullmatch(host) or _NUMBER.fullmatch(last):
            return False
        if last in _INTERNAL or host.endswith((".home.arpa", *self.domains)):
            return True
        return not above and not absolute  # `https://ai./` is on the public internet, `https://ai/` on ours

    def lifetime_s(self, ctx: Context) -> int | None:
        """How long what leaves `ctx` may be believed, in seconds; None where it must not leave."""
        span = span_in(ctx)
        kind = getattr(span, "kind", None)
        if kind is SpanKind.PRODUCER:
            return _MESSAGE_LIFETIME_S
        if kind is not SpanKind.CLIENT:
            return None  # no span, one that is not recorded, or one that says nothing of a destination
        hosts = list(_destinations(attributes_of_span(span)))
        return _REQUEST_LIFETIME_S if hosts and all(self.sends_to(host) for host in hosts) else None

    def members(self, facts: Facts, lifetime_s: int, taken: str) -> list[str]:
        """The facts as members of a header that holds `taken` already; those with no room are counted."""
        expiry = str(int(time.time()) + lifetime_s)
        values = facts._asdict()
        encoded = {name: f"{BAGGAGE_PREFIX}{name}={_quoted(values[name])}" for name in _ORDER if values[name]}
        room = _MAX_HEADER_BYTES - (len(taken) + 1 if taken else 0)
        places = _MAX_MEMBERS - (taken.count(",") + 1 if taken else 0)
        if self.secrets:
            room -= len(f"{_SIGNATURE}=1.{expiry}.") + 43
            places -= 1
        kept: dict[str, str] = {}
        for name, member in encoded.items():
            room -= len(member) + 1
            if room < 0 or len(kept) >= places:
                guard.count("overflow:baggage", len(encoded) - len(kept))
                guard.log_once("the baggage header is full: %s and what follows is left out", name)
                break
            kept[name] = member
        if not kept:
            return []
        if not self.secrets:
            return list(kept.values())
        signature = _mac(self.secrets[0], expiry, Facts(**{name: values[name] for name in kept}))
        return [*kept.values(), f"{_SIGNATURE}=1.{expiry}.{signature}"]

    def believed(self, members: Mapping[str, object]) -> Facts:
        """The facts in members that arrived; `NO_FACTS`, counted, where they are not to be believed."""
        facts = read(members)
        doubt = None if self.unsigned else self._doubt(facts, members.get(_SIGNATURE))
        if doubt is None:
            return facts
        hint = ": set EGISAI_CONTEXT_SECRET, the same in each of your services" if not self.secrets else ""
        guard.count(f"refused:context:{doubt}")
        guard.log_once("egisai.* baggage that arrived is ignored, its signature is %s%s", doubt, hint)
        return NO_FACTS

    def _doubt(self, facts: Facts, signature: object) -> str | None:
        if not self.secrets:
            return "unverifiable"
        if signature is None:
            return "missing"
        match = _SIGNED.fullmatch(signature) if isinstance(signature, str) else None
        if match is None:
            return "malformed"
        expiry, given = match.groups()
        if not any(hmac.compare_digest(_mac(secret, expiry, facts), given) for secret in self.secrets):
            return "wrong"
        return "expired" if int(expiry) < time.time() else None


def _is_private(address: str) -> bool:
    """Raises ValueError where it is no address in its usual form."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return any((mapped or ip) in network for network in _PRIVATE)


def _destinations(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Every host that a client span names; "" for one that cannot be told, which no one trusts."""
    for name in _URLS:
        if name in attributes:
            yield _host_of(str(attributes[name]))
    for name in _HOSTS:
        if name in attributes:
            host = str(attributes[name])
            yield _host_of(f"//{host}") or host  # some put the port there too


def _host_of(url: str) -> str:
    authority = re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]
    match = _AUTHORITY.fullmatch(authority)
    return match[1] if match else ""


def _quoted(value: str) -> str:
    """Percent-encoded, space and plus too, so that those who read `+` as a space and those who do not agree."""
    return quote(value, safe="")


def _mac(secret: bytes, expiry: str, facts: Facts) -> str:
    fields = (f"{name}={_quoted(value)}" for name, value in facts._asdict().items() if value is not None)
    signed = "\n".join((f"egisai context 1 {expiry}", *fields))
    return base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()


# --- the trust of this process --------------------------------------------------------------------------------------

_trust: Trust | None = None


def use(trust: Trust | None) -> None:
    """Make `trust` the process's; None: what the environment says."""
    global _trust
    _trust = trust


def current() -> Trust:
    """The process's trust: that of `init()`, or where it was not called, the environment's."""
    global _trust
    if _trust is None:
        try:
            _trust = Trust.of(Settings.resolve())
        except ValueError as exc:
            guard.log_once("%s; facts go to private hosts only, and none that arrive are believed", exc)
            _trust = Trust()
    return _trust


# --- the propagator -------------------------------------------------------------------------------------------------


def _injecting(original: Any) -> Any:
    @functools.wraps(original)
    def inject(self: Any, carrier: Any, context: Context | None = None, setter: Any = default_setter) -> None:
        ctx = get_current() if context is None else context
        if held_in(ctx) is not None or not baggage.get_all(ctx):
            return original(self, carrier, ctx, setter)
        others = with_others(ctx, others_in(ctx))
        ours: list[str] = []
        header: dict[str, str] = {}
        try:
            facts, trust = facts_of(ctx), current()
            lifetime_s = trust.lifetime_s(ctx) if facts is not NO_FACTS else None
            if lifetime_s is not None:
                original(self, header, others, default_setter)
                ours = trust.members(facts, lifetime_s, header.get(_HEADER, ""))
            elif isinstance(carrier, MutableMapping):
                _forget(cast("MutableMapping[str, Any]", carrier))
        except Exception as exc:  # noqa: BLE001 - logged and counted
            guard.failed("sending facts to another service", exc)
        if not ours:
            return original(self, carrier, others, setter)
        return setter.set(carrier, _HEADER, ",".join([*header.values(), *ours]))

    return inject


def _forget(carrier: MutableMapping[str, Any]) -> None:
    """A redirect repeats the headers of the request before it, which may have gone to a host that is trusted."""
    if BAGGAGE_PREFIX in str(carrier.get(_HEADER, "")):
        del carrier[_HEADER]


def _extracting(original: Any) -> Any:
    @functools.wraps(original)
    def extract(self: Any, carrier: Any, context: Context | None = None, getter: Any = default_getter) -> Context:
        before = get_current() if context is None else context
        members = baggage.get_all(original(self, carrier, Context(), getter))
        if not members:
            return before
        ours = {key: value for key, value in members.items() if key.startswith(BAGGAGE_PREFIX)}
        ctx = before
        if len(ours) < len(members):
            others = {key: value for key, value in members.items() if key not in ours}
            ctx = with_others(ctx, {**baggage.get_all(ctx), **others})
        if not ours or before.get(_REFUSED) == ours:
            return ctx
        try:
            facts = current().believed(ours)
            return set_value(_REFUSED, ours, ctx) if facts is NO_FACTS else with_facts(ctx, facts)
        except Exception as exc:  # noqa: BLE001 - logged and counted
            guard.failed("reading facts of another service", exc)
            return ctx

    return extract


class EgisPropagator(W3CBaggagePropagator):
    """W3C baggage with the rules of this module, under the name `egisai` in `OTEL_PROPAGATORS`.

    Beside `baggage` in that list it changes nothing, since loading it amends that one too; instead of it, it is all
    that is needed.
    """


W3CBaggagePropagator.inject = _injecting(W3CBaggagePropagator.inject)
W3CBaggagePropagator.extract = _extracting(W3CBaggagePropagator.extract)
