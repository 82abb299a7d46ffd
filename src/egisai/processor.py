"""EgisSpanProcessor: every span says which agent made it, for whom, in which piece of work."""

from __future__ import annotations

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from . import foreign, semconv
from .attribution import attributes_of, attributes_of_span, current, nearest
from .context import facts_of, held_in, span_in
from .guard import failed
from .outgoing import put


class EgisSpanProcessor(SpanProcessor):
    """Stamps identity and facts on spans as they start, whoever makes them, so that every exporter sees them.

    Its place among a provider's processors does not matter. `init()` and `EgisInstrumentor().instrument()` add it
    themselves; added twice, the second finds its work done. Nothing in it raises.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            scope = span.instrumentation_scope
            if scope is None or scope.name != semconv.SCOPE:
                stamp(span, get_current() if parent_context is None else parent_context)
        except Exception as exc:  # noqa: BLE001 - logged and counted
            failed("attributing a span", exc)

    def on_end(self, span: ReadableSpan) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the interface's
        return True


def stamp(span: Span, ctx: Context) -> None:
    """Put on `span`, which starts in `ctx`, who made it and for whom, unless it says so already."""
    own = attributes_of_span(span)
    if semconv.AGENT_ID in own:
        return
    around = span_in(ctx)
    parent = attributes_of_span(around)
    held = held_in(ctx)
    is_call = (held is not None and held.adopt is not None and held.adopt(span)) or foreign.is_call(span, own)
    if held is not None and held.attributes is not None:
        attributes = dict(held.attributes)
        if held.request is not None and is_call:
            attributes |= {name: value for name, value in held.request.items() if name not in own}
    else:
        facts = facts_of(ctx)
        attribution = current()
        identity = attribution.explicit(facts)
        if identity is None:
            name = own.get(semconv.AGENT_NAME)
            if type(name) is str and name.strip():
                identity = attribution.named(name, "framework")
            else:
                identity = nearest(parent, ctx, facts) or attribution.app()
        attributes = attributes_of(parent, ctx, facts, identity)
    agent = attributes.get(semconv.AGENT_ID)
    if agent is not None and semconv.AGENT_NAME in own and semconv.AGENT_NAME not in attributes:
        attributes[semconv.AGENT_NAME] = agent  # never another agent's name beside this id
    is_nested = False
    if is_call:
        session = attributes.get(semconv.SESSION_ID)
        if session is not None and semconv.CONVERSATION_ID not in own:
            attributes[semconv.CONVERSATION_ID] = session
        is_nested = around is not None and foreign.covers(around, parent, own.get(semconv.OPERATION))
    if is_nested:
        attributes[semconv.CALL_NESTED] = True
    elif held is None:
        foreign.opened(span, is_call=is_call)
    put(span, attributes)
