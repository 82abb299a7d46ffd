"""Who a span belongs to, with this process's settings: explicit id, explicit name, framework, prompt, app."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry.context import Context

from . import semconv
from .context import NO_FACTS, Facts, is_own
from .fingerprint import Fingerprint
from .identity import Identity, Source, agent_id, is_uuid
from .prompts import Prompts

if TYPE_CHECKING:
    from .fingerprint.sketch import Sketch

_MAX_KNOWN: Final = 16_384  # identities remembered; past that the memo starts anew, ids do not change

_PROMPT: Final = "fingerprint"
_HERITABLE: Final = frozenset({"framework", "fingerprint"})
_NO_ATTRIBUTES: Final[Mapping[str, Any]] = {}
_FACT_NAMES: Final = (semconv.USER_ID, semconv.USER_ROLES, semconv.SESSION_ID, semconv.WORKFLOW_ID)


class Sighting(NamedTuple):
    """The first time this process met an identity: what the platform is told of it."""

    identity: Identity
    key: str
    fingerprint: str | None
    sketch: Sketch | None = None
    under: str | None = None
    """Id of the agent under which this process counts a prompt that is like another."""


class Attribution:
    """Resolves identities. Local and pure but for `on_sighting`, which must neither block nor raise."""

    def __init__(
        self,
        *,
        organisation: str = "default",
        app: str = "default",
        on_sighting: Callable[[Sighting], None] | None = None,
    ) -> None:
        self.organisation = organisation
        self.on_sighting = on_sighting
        self._app_name = app
        self._known: dict[tuple[str | None, str], Identity] = {}
        self._canonical: dict[str, Identity] = {}
        self._prompts = Prompts()

    # --- the tiers, best first -----------------------------------------------------------------------------------

    def explicit(self, facts: Facts) -> Identity | None:
        """The agent that the context names, if it names one."""
        if facts.agent_id is not None and is_uuid(facts.agent_id):
            known = self._known.get((facts.agent, facts.agent_id))
            if known is None:
                identity = Identity(facts.agent_id, facts.agent, "id")
                known = self._met((facts.agent, facts.agent_id), Sighting(identity, facts.agent_id, None))
            return known
        if facts.agent is not None:
            return self.named(facts.agent, "name")
        return None

    def named(self, name: str, source: Source) -> Identity:
        """The agent of that name."""
        known = self._known.get((name, source))
        if known is None:
            identity = Identity(agent_id(self.organisation, "name", name), name.strip(), source)
            known = self._met((name, source), Sighting(identity, name, None))
        return known

    def prompted(self, prompt: Fingerprint) -> Identity:
        """The agent with that system prompt."""
        known = self._known.get((None, prompt.digest))
        return known if known is not None else self._placed(prompt)

    def _placed(self, prompt: Fingerprint) -> Identity:
        own = Identity(agent_id(self.organisation, _PROMPT, prompt.digest), prompt.name, _PROMPT, prompt.digest)
        ruling = self._canonical.get(own.id)
        place = self._prompts.place(own.id, prompt, apart=ruling is not None)
        if place.leader is None:
            return self.app()
        if ruling is None and place.is_news:
            under = place.leader if place.leader != own.id else None
            self._tell(Sighting(own, prompt.digest, prompt.digest, prompt.sketch, under))
        if place.joined:
            self._known = {}
            for joined, first in place.joined:
                self._tell(
                    Sighting(
                        Identity(joined, first.name, _PROMPT, first.digest),
                        first.digest,
                        first.digest,
                        first.sketch,
                        place.leader,
                    )
                )
        identity = own._replace(id=place.leader, name=place.name, fingerprint=place.digest)
        ruling = ruling or self._canonical.get(place.leader)
        if ruling is not None:
            identity = identity._replace(id=ruling.id, name=ruling.name)
        return self._remember((None, prompt.digest), identity)

    def app(self) -> Identity:
        """The agent that the process is, where nothing finer is known."""
        return self.named(self._app_name, "app")

    # --- what the platform says ------------------------------------------------------------------------------------

    def learn(self, canonical: Mapping[str, tuple[str, str]]) -> None:
        """From now on, ids on the left are the agents `(id, name)` on the right: an operator merged or renamed them."""
        for old, (new, name) in canonical.items():
            self._canonical[old] = Identity(new, name, "id")
        self._known = {}

    def _tell(self, sighting: Sighting) -> None:
        if self.on_sighting is not None:
            self.on_sighting(sighting)

    def _met(self, key: tuple[str | None, str], sighting: Sighting) -> Identity:
        identity = sighting.identity
        ruling = self._canonical.get(identity.id)
        if ruling is None:
            self._tell(sighting)
        else:
            identity = ruling._replace(source=identity.source)
        return self._remember(key, identity)

    def _remember(self, key: tuple[str | None, str], identity: Identity) -> Identity:
        if len(self._known) >= _MAX_KNOWN:
            self._known = {}
        self._known[key] = identity
        return identity


# --- the one of this process -----------------------------------------------------------------------------------------

_current = Attribution()


def current() -> Attribution:
    """The process's attribution; that of `init()` once it was called."""
    return _current


def use(attribution: Attribution) -> None:
    """Make `attribution` the process's."""
    global _current
    _current = attribution


# --- from identity to span -----------------------------------------------------------------------------------------


def attributes_of(parent: Mapping[str, Any], ctx: Context, facts: Facts, identity: Identity | None) -> dict[str, Any]:
    """Identity and facts as attributes of a span that starts in `ctx`; what is absent has none.

    Where the context says nothing at all, as in an event handler that only knows its parent span, user, session and
    workflow of `parent`, that span's attributes, hold.
    """
    attributes: dict[str, Any] = {}
    if identity is not None:
        attributes[semconv.AGENT_ID] = identity.id
        attributes[semconv.AGENT_SOURCE] = identity.source
        if identity.name is not None:
            attributes[semconv.AGENT_NAME] = identity.name
        if identity.fingerprint is not None:
            attributes[semconv.PROMPT_FINGERPRINT] = identity.fingerprint
    if facts is NO_FACTS:
        if not is_own(ctx):
            attributes.update({name: parent[name] for name in _FACT_NAMES if name in parent})
        return attributes
    if facts.user_id is not None:
        attributes[semconv.USER_ID] = facts.user_id
    if facts.user_role is not None:
        attributes[semconv.USER_ROLES] = (facts.user_role,)
    if facts.session_id is not None:
        attributes[semconv.SESSION_ID] = facts.session_id
    if facts.workflow_id is not None:
        attributes[semconv.WORKFLOW_ID] = facts.workflow_id
    return attributes


def attributes_of_span(span: object) -> Mapping[str, Any]:
    """The attributes of a span that keeps them (an SDK span here); empty for any other."""
    if span is None:
        return _NO_ATTRIBUTES
    return cast("Mapping[str, Any] | None", getattr(span, "attributes", None)) or _NO_ATTRIBUTES


def nearest(parent: Mapping[str, Any], ctx: Context, facts: Facts) -> Identity | None:
    """The agent of the parent span, given its attributes, where that is the nearest one: one step up, so O(1).

    An explicit agent travels in the context. Where the context was shaped by us and names none, an explicit agent on
    the parent has been cleared since; one that a framework or a prompt gave still holds.
    """
    source = parent.get(semconv.AGENT_SOURCE)
    if source in _HERITABLE or (source is not None and facts is NO_FACTS and not is_own(ctx)):
        return Identity(parent[semconv.AGENT_ID], parent.get(semconv.AGENT_NAME), source)
    return None
