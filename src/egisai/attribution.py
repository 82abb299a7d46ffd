"""Who a span belongs to, with this process's settings: explicit id, explicit name, framework, prompt, app."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry.context import Context

from . import semconv
from .context import NO_FACTS, Facts, is_own
from .fingerprint import Fingerprint
from .identity import Identity, Source, agent_id, is_uuid
from .prompts import Prompts, Template

if TYPE_CHECKING:
    from .fingerprint.sketch import Sketch

_MAX_KNOWN: Final = 16_384  # identities remembered; past that the memo starts anew, ids do not change
_MAX_RULINGS: Final = 16_384  # of the platform that are remembered, the newest, about 400 bytes each

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
    prompts: int = 1
    """From how many prompts the sketch was learnt."""


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
        self._told: set[tuple[str | None, str]] = set()
        self._canonical: dict[str, Identity] = {}
        self._prompts = Prompts()
        self._met_once: set[str] = set()

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
        known, rulings = self._known, self._canonical
        own = Identity(agent_id(self.organisation, _PROMPT, prompt.digest), prompt.name, _PROMPT, prompt.digest)
        place = self._prompts.place(own.id, prompt, rulings)
        if place.leader is None:
            return self.app()
        if place.is_news:
            self._tell_prompt(own.id, prompt, place.leader)
        if place.joined:
            self._known = {}
        for joined, first in place.joined:
            self._tell_prompt(joined, first, place.leader)
        if place.learnt is not None:
            self._tell_prompt(place.leader, place.learnt.first, place.leader, place.learnt.prompts)
        identity = own._replace(id=place.leader, name=place.name, fingerprint=place.digest)
        ruling = rulings.get(own.id) or rulings.get(place.leader)
        if ruling is not None:
            identity = _ruled(identity, ruling)
        if prompt.digest in self._met_once:
            return self._remember(known, (None, prompt.digest), identity)
        # Not yet: that it comes again says more of a prompt than anything in it, and `place` is to hear of it.
        if len(self._met_once) >= _MAX_KNOWN:
            self._met_once.clear()
        self._met_once.add(prompt.digest)
        return identity

    def _tell_prompt(self, own_id: str, prompt: Fingerprint, leader: str, prompts: int = 1) -> None:
        identity = Identity(own_id, prompt.name, _PROMPT, prompt.digest)
        under = leader if leader != own_id else None
        self._tell(Sighting(identity, prompt.digest, prompt.digest, prompt.sketch, under, prompts))

    def app(self) -> Identity:
        """The agent that the process is, where nothing finer is known."""
        return self.named(self._app_name, "app")

    # --- what the platform says ------------------------------------------------------------------------------------

    def learn(self, canonical: Mapping[str, tuple[str, str]], afresh: bool = False) -> None:
        """From now on, ids on the left are the agents `(id, name)` on the right: an operator merged, split or renamed.

        An id that is itself is no other agent, whatever this process thinks that its prompt is like. With `afresh`,
        what was learnt before does not hold any more.
        """
        rulings = {} if afresh else self._canonical.copy()
        for old, (new, name) in canonical.items():
            rulings.pop(old, None)
            rulings[old] = Identity(new, name or None, "id")
        for old in list(rulings)[: max(0, len(rulings) - _MAX_RULINGS)]:
            del rulings[old]
        if rulings != self._canonical:
            self._canonical = rulings
            self._known = {}

    @property
    def rulings(self) -> Mapping[str, tuple[str, str]]:
        """What was learnt so far, the oldest first."""
        return {old: (identity.id, identity.name or "") for old, identity in self._canonical.items()}

    # --- from one process to the next --------------------------------------------------------------------------------

    @property
    def revision(self) -> tuple[object, int]:
        """Equal to what it was before while there is nothing new to remember."""
        return self._canonical, self._prompts.revision

    def templates(self) -> list[Template]:
        """The prompts' agents, those first that are most worth remembering."""
        return self._prompts.remembered()

    def remember(self, templates: Iterable[tuple[Fingerprint, int, bool, str]]) -> None:
        """Begin with what an earlier process knew: prompt, from how many it learnt, whether it came again, sketch."""
        self._prompts = Prompts(
            Template(agent_id(self.organisation, _PROMPT, first.digest), first, prompts, again, encoded)
            for first, prompts, again, encoded in templates
        )

    def after_fork(self) -> None:
        """In a forked child: knows what the parent knew, and tells the platform itself."""
        self._known = {}
        self._told = set()
        self._prompts = self._prompts.anew()

    # -----------------------------------------------------------------------------------------------------------------

    def _tell(self, sighting: Sighting) -> None:
        if self.on_sighting is not None:
            self.on_sighting(sighting)

    def _met(self, key: tuple[str | None, str], sighting: Sighting) -> Identity:
        known, ruling = self._known, self._canonical.get(sighting.identity.id)
        if key not in self._told:
            if len(self._told) >= _MAX_KNOWN:
                self._told = set()
            self._told.add(key)
            self._tell(sighting)
        identity = sighting.identity
        return self._remember(known, key, identity if ruling is None else _ruled(identity, ruling))

    def _remember(
        self, known: dict[tuple[str | None, str], Identity], key: tuple[str | None, str], identity: Identity
    ) -> Identity:
        """Keep it in what was `_known` before rulings were read: where newer ones came since, it goes with that."""
        if len(known) >= _MAX_KNOWN:
            known = self._known = {}
        known[key] = identity
        return identity


def _ruled(identity: Identity, ruling: Identity) -> Identity:
    """The agent that somebody is by a ruling; never with the name of another."""
    own = identity.name if ruling.id == identity.id else None
    return identity._replace(id=ruling.id, name=ruling.name or own)


# --- the one of this process -----------------------------------------------------------------------------------------

_current = Attribution()


def current() -> Attribution:
    """The process's attribution; that of `init()` once it was called."""
    return _current


def use(attribution: Attribution) -> None:
    """Make `attribution` the process's."""
    global _current
    _current = attribution


def _after_fork_in_child() -> None:
    _current.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


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
