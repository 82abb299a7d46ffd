"""What a call cost, from the price list that `genai-prices` bundles; nothing is fetched."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot

PROVIDERS: Final = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
}
"""`gen_ai.provider.name` of the conventions where the price list has another word for it."""

_PROBE: Final = 1000  # tokens: small enough to stay in the first tier of tiered prices
_rates: dict[int, tuple[Any, _Rates | None]] = {}
"""By the id of a price (which is kept alive beside it): dollars per token, or None where the price is not linear."""


class _Rates(NamedTuple):
    input: float
    cached_input: float
    cache_write: float
    output: float


def load() -> None:
    """Reads the price list, which takes a quarter of a second: better at start than at the first call."""
    get_snapshot()


def cost_usd(
    provider: str,
    models: tuple[str, ...],
    when: datetime,
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    cached_input_tokens: int | None = None,
    cache_write_tokens: int | None = None,
) -> float | None:
    """US dollars for one call, or None when nobody lists a price for it or its usage is unknown.

    `models` are tried in order (the response's model says more than the request's). As in the conventions, input
    tokens include the cached ones, which the list prices apart; counts that contradict this have no price.
    """
    if input_tokens is None and output_tokens is None:
        return None
    total, cached, written = input_tokens or 0, cached_input_tokens or 0, cache_write_tokens or 0
    fresh = total - cached - written
    if fresh < 0:
        return None
    for model in models:
        found = _listed(provider, model) if model else None
        if found is None:
            continue
        price = found.get_prices(when)
        rates = _linear(price)
        if rates is None:
            return _exact(price, total, cached, written, output_tokens or 0)
        cost = fresh * rates.input + cached * rates.cached_input + written * rates.cache_write
        return round(cost + (output_tokens or 0) * rates.output, 12)
    return None


@lru_cache(4096)
def _listed(provider: str, model: str) -> Any | None:
    """The list's model; one from a provider it does not know (a proxy, a gateway) is judged by its name."""
    for provider_id in dict.fromkeys((PROVIDERS.get(provider, provider), None)):
        with suppress(LookupError):
            return get_snapshot().find_provider_model(model, None, provider_id, None)[1]
    return None


def _linear(price: Any) -> _Rates | None:
    """Dollars per token of each kind, when the price is no more than that (asking the library takes 50 µs a call)."""
    known = _rates.get(id(price))
    if known is None:
        n = _PROBE
        rates = _Rates(
            _exact(price, n, 0, 0, 0) / n,
            _exact(price, n, n, 0, 0) / n,
            _exact(price, n, 0, n, 0) / n,
            _exact(price, 0, 0, 0, n) / n,
        )
        expected = 1e9 * rates.input + 5e8 * (rates.cached_input + rates.cache_write) + 1e9 * rates.output
        actual = _exact(price, 2 * 10**9, 5 * 10**8, 5 * 10**8, 10**9)
        linear = abs(actual - expected) <= 1e-9 * expected
        known = _rates[id(price)] = (price, rates if linear else None)
    return known[1]


def _exact(price: Any, total: int, cached: int, written: int, output: int) -> float:
    usage = Usage(
        input_tokens=total, cache_read_tokens=cached or None, cache_write_tokens=written or None, output_tokens=output
    )
    return float(price.calc_price(usage)["total_price"])
