"""Keyed: one policy for each key, made when it is first asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar
from weakref import WeakSet, WeakValueDictionary

import attrs

from .. import _instruments
from .._checks import function, text, whole
from .._errors import WrongPolicyError
from .._links import Link
from ..abc import Policy

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Policy)


@attrs.frozen(kw_only=True)
class KeyedStatistics:
    """Snapshot of a Keyed."""

    name: str
    """Its name."""
    keys: int
    """How many policies it holds."""
    made: int
    """How many it has made, in all."""


class _Entry(Generic[V]):
    """A policy that is held, and the chains that have a link made of it."""

    __slots__ = ("chains", "policy")

    def __init__(self, policy: V) -> None:
        self.policy = policy
        self.chains: WeakSet[_Chain] = WeakSet()

    def let_go(self) -> None:
        for chain in self.chains:
            del chain.links[self]


class _Chain:
    """One chain that a Keyed is part of: a link for each policy that is held and was used in it.

    The chain owns its links, for they lead to the function, which may lead back to the chain.
    """

    __slots__ = ("__weakref__", "inner", "links")

    def __init__(self, inner: Link) -> None:
        self.inner = inner
        self.links: dict[_Entry[Any], Link] = {}

    def through(self, entry: _Entry[Any]) -> Link:
        link = self.links.get(entry)
        if link is None:
            link = self.links[entry] = entry.policy.link(self.inner)
            entry.chains.add(self)
        return link


class Keyed(Policy, Generic[K, V]):
    """Keeps one policy for each key: a breaker for each host, a bucket for each customer.

    The `max_keys` policies last used are held; one that is older is let go when nobody uses it. So a policy in use is never
    split in two, and a flood of keys costs bounded memory. A policy that was let go starts afresh.

    Synopsis::

        breakers = trioresil.Keyed(lambda host: trioresil.CircuitBreaker(name=host))
        await breakers["a.example"].call(client.get, url)

        per_host = trioresil.Keyed(make_breaker, key=lambda url: httpx.URL(url).host)
        await per_host.call(fetch, url)           # with a key function it is a policy itself

    Args:
      factory ((key) -> Policy): makes the policy of a new key.
      key ((*args) -> hashable): finds a call's key in its arguments; needed to use this as a policy. Default: none.
      max_keys (int, >= 1): how many of the last used policies are held. Default: 1024.
      name (str): its name in statistics. Default: "keyed".

    Cancellation: as that of the policy for the key.

    Raises:
      TypeError: the factory returned something else than a policy, or a call is made and there is no key function.
    """

    def __init__(
        self,
        factory: Callable[[K], V],
        *,
        key: Callable[..., K] | None = None,
        max_keys: int = 1024,
        name: str = "keyed",
    ) -> None:
        given: object = factory
        if given is None or isinstance(given, Policy):  # a policy can be called too: it decorates
            raise TypeError(f"factory must be a function (key) -> Policy, not {factory!r}")
        self.name: str = text("name", name)
        self._factory: Callable[[K], V] = function("factory", factory, signature="(key) -> Policy")
        self._key: Callable[..., K] | None = function("key", key, signature="(*args) -> hashable")
        self._max_keys = whole("max_keys", max_keys)
        self._held: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._known: WeakValueDictionary[K, V] = WeakValueDictionary()
        self._made = 0

    def __getitem__(self, key: K) -> V:
        """Return the policy of a key, a new one if there is none."""
        return self._entry(key).policy

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys of all policies that are held or in use."""
        return iter(list(self._known))

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def _entry(self, key: K) -> _Entry[V]:
        entry = self._held.get(key)
        if entry is not None:
            self._held.move_to_end(key)
            return entry
        policy = self._known.get(key)
        if policy is None:
            policy = self._factory(key)
            if not isinstance(policy, Policy):
                raise WrongPolicyError(
                    f"{self.name}: factory must return a policy, but it returned {policy!r} for {key!r}"
                )
            self._made += 1
            self._known[key] = policy
        entry = self._held[key] = _Entry(policy)
        if len(self._held) > self._max_keys:
            self._held.popitem(last=False)[1].let_go()
        return entry

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        find_key = self._key
        if find_key is None:
            raise TypeError(
                f"{self.name}: to guard calls, a Keyed needs key=(*args) -> hashable; or pick a policy: keyed[key].call(...)"
            )
        chain = _Chain(inner)

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            entry = self._entry(find_key(*args, **kwargs))
            return await chain.through(entry)(args, kwargs)

        return link

    def statistics(self) -> KeyedStatistics:
        """Return a snapshot; those of the policies are asked of them: `keyed[key].statistics()`."""
        return KeyedStatistics(name=self.name, keys=len(self._known), made=self._made)

    def __repr__(self) -> str:
        return f"<trioresil.Keyed {self.name!r} {len(self._known)} keys>"
