"""RequestOptions: what one request says about its own resilience, and what holds for it in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

import attrs

from .._checks import flag, number, seconds
from .._policies.retry import Retry

EXTENSION: Final = "trioresil"


class RequestOptions(TypedDict, total=False):
    """What a request may say of itself: `client.get(url, extensions={"trioresil": RequestOptions(total_timeout=5)})`.

    Whatever isn't given stays as the transport has it. Redirects, and the rounds of an authentication, inherit it. A key or a
    value of another kind is a TypeError or ValueError before anything is sent.
    """

    total_timeout: float
    """Bounds all attempts and the waits between them, in seconds, > 0. math.inf: no bound."""
    attempt_timeout: float
    """Bounds each attempt, in seconds, > 0. math.inf: no bound."""
    body_timeout: float
    """Bounds the reading of the body from the moment the head is there, in seconds, > 0. math.inf: no bound."""
    idempotent: bool
    """True: may be sent twice, whatever its method. False: must not, even if it is a GET."""
    retry: Retry | bool
    """Another Retry for this request; False: one attempt; True: as the transport has it."""
    breaker: bool
    """False: pass the circuit by: neither rejected nor counted. True: as the transport has it."""
    tokens: float
    """How many tokens of the origin's bucket it takes, >= 0. Does nothing where there is no bucket."""


@attrs.frozen(kw_only=True)
class Settings:
    """What holds for one request."""

    total_timeout: float
    attempt_timeout: float
    body_timeout: float
    retry: Retry | None
    breaker: bool = True
    idempotent: bool | None = None
    tokens: float | None = None


def attempt_seconds(given: object, total: float) -> float:
    """Return the time for an attempt: as given, or what lets three of them into the total."""
    return min(10.0, total / 3) if given is None else seconds("attempt_timeout", given, zero=False)


def settings_of(given: object, defaults: Settings) -> Settings:
    """Return what holds for a request with these options.

    Raises:
      TypeError, ValueError: a key that doesn't exist, or a value that it can't have.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f'extensions["{EXTENSION}"] must be RequestOptions, not {given!r}')
    return attrs.evolve(defaults, **{key: _checked(key, value, defaults) for key, value in given.items()})


def _checked(key: object, value: Any, defaults: Settings) -> Any:
    name = f"RequestOptions({key}=...)"
    match key:
        case "total_timeout" | "attempt_timeout" | "body_timeout":
            return seconds(name, value, zero=False)
        case "idempotent" | "breaker":
            return flag(name, value)
        case "retry":
            if isinstance(value, bool):
                return defaults.retry if value else None
            if not isinstance(value, Retry):
                raise TypeError(f"{name} must be True, False or a Retry, not {value!r}")
            return value
        case "tokens":
            return number(name, value, least=0, finite=True)
    known = ", ".join(RequestOptions.__annotations__)
    raise TypeError(f"RequestOptions has no {key!r}: it has {known}")
