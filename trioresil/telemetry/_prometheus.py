"""PrometheusInstrument: counters and histograms from events, and gauges that are read when Prometheus asks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import trio

from .._checks import number, whole
from .._events import Event
from ._extras import needed
from ._facts import COUNTED, facts_of
from ._figures import PULLED
from ._measures import Measure
from ._seen import Names, Pulled, Seen

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class PrometheusInstrument:
    """Shows Prometheus what policies and services do: counters, gauges and histograms.

    What happens is counted as it happens. What *is*, the queue of a bulkhead, the state of a circuit, the tokens of a bucket, is
    read from `.statistics()` of everything that was seen, at the moment Prometheus asks; so what is idle and healthy is there
    too, and costs nothing in between. Needs the extra `prometheus`.

    Synopsis::

        prometheus = trioresil.telemetry.PrometheusInstrument()
        with trioresil.instrument(prometheus):
            ...
        text = prometheus_client.generate_latest()

    Labels: `policy` is the name; policies of one name are added up (of a remaining time it is the longest), so name those that
    you want to tell apart. No label holds a URL's path, a query or a message. Counters never go back, also when a policy is gone.

    Sharing: one object for any number of runs and threads, one for a registry. Holds policies weakly; what one that is let go has
    counted since the last scrape is lost. Best scraped from a task of the run; from another thread, snapshots that are disturbed
    are taken again.

    Args:
      registry (prometheus_client.CollectorRegistry): where to register. Default: prometheus_client.REGISTRY.
      buckets (increasing numbers, seconds): upper bounds of the histograms. Default: 5 ms to 60 s.
      max_names (int, >= 1): how many values a label may have; further ones are added up under "other". Default: 1000.

    Raises:
      ImportError: prometheus-client isn't installed.
      ValueError: the registry has a PrometheusInstrument already.
    """

    def __init__(self, registry: Any = None, *, buckets: Sequence[float] = BUCKETS, max_names: int = 1000) -> None:
        self._client: Any = needed("prometheus_client", "prometheus", "PrometheusInstrument")
        self._core: Any = needed("prometheus_client.core", "prometheus", "PrometheusInstrument")
        self._names = Names(whole("max_names", max_names))
        self._seen = Seen(self._names)
        bounds = _check_buckets(buckets)
        self._counted = {measure: self._make(measure, bounds) for measure in COUNTED}
        self._series: dict[tuple[Measure, str, tuple[str, ...]], Callable[[float], None]] = {}
        self._registry: Any = self._client.REGISTRY if registry is None else registry
        if not callable(getattr(self._registry, "register", None)):
            raise TypeError(f"registry must be a prometheus_client.CollectorRegistry, not {registry!r}")
        try:
            self._registry.register(self)
        except ValueError as exc:
            raise ValueError("registry has a PrometheusInstrument already: use that one, or close() it") from exc

    def _make(self, measure: Measure, bounds: tuple[float, ...]) -> Any:
        labels = ("policy", *measure.labels)
        if measure.kind == "histogram":
            return self._client.Histogram(measure.prometheus, measure.text, labels, registry=None, buckets=bounds)
        return self._client.Counter(measure.prometheus, measure.text, labels, registry=None)

    def watch(self, *policies: Any) -> None:
        """Show these from now on, even if nobody has used them yet.

        Args:
          *policies (policies or services): objects with a `name` and `statistics()`.
        """
        for policy in policies:
            if not callable(getattr(policy, "statistics", None)):
                raise TypeError(f"a policy or service has a statistics() method; {policy!r} has none")
        for policy in policies:
            self._seen.add(policy)

    def record(self, event: Event, /) -> None:
        """Count an event."""
        policy = event.policy
        self._seen.add(policy)
        for measure, labels, value in facts_of(event):
            key = (measure, policy.name, labels)
            add = self._series.get(key)
            if add is None:
                add = self._add_series(key)
            add(value)

    def _add_series(self, key: tuple[Measure, str, tuple[str, ...]]) -> Callable[[float], None]:
        measure, name, values = key
        shown = (self._names.of(label, value) for label, value in zip(measure.labels, values, strict=True))
        child = self._counted[measure].labels(self._names.of("policy", str(name)), *shown)
        add: Callable[[float], None] = child.observe if measure.kind == "histogram" else child.inc
        if len(self._series) < 20_000:
            self._series[key] = add
        return add

    def describe(self) -> Iterable[Any]:
        """Return all families without values; the registry asks, to notice a second one of the same name."""
        for counted in self._counted.values():
            yield from counted.describe()
        for measure in PULLED:
            yield self._family(measure)

    def collect(self) -> Iterable[Any]:
        """Return all families with their values; the registry asks when it is scraped."""
        return self._families(self._seen.pull(frozenset(PULLED)))

    async def _gather(self) -> Iterable[Any]:
        """Return the same, with checkpoints between the policies; to go through it needs no run, and may be left to a thread."""
        pulled: Pulled = {}
        for _ in self._seen.pulling(frozenset(PULLED), pulled):
            await trio.lowlevel.checkpoint()
        return self._families(pulled)

    def _families(self, pulled: Pulled) -> Iterator[Any]:
        for counted in self._counted.values():
            yield from counted.collect()
        for measure in PULLED:
            family = self._family(measure)
            for labels, value in pulled.get(measure, {}).items():
                family.add_metric(labels, value)
            yield family

    def _family(self, measure: Measure) -> Any:
        kind = self._core.CounterMetricFamily if measure.kind == "counter" else self._core.GaugeMetricFamily
        return kind(measure.prometheus, measure.text, labels=("policy", *measure.labels))

    def close(self) -> None:
        """Take this off its registry. What it hears from then on nobody sees."""
        self._registry.unregister(self)

    def __repr__(self) -> str:
        return f"<trioresil.telemetry.PrometheusInstrument {len(self._seen)} policies>"


def _check_buckets(buckets: Sequence[float]) -> tuple[float, ...]:
    bounds = tuple(number("buckets", each, above=0) for each in buckets)
    if not bounds or any(a >= b for a, b in itertools.pairwise(bounds)):
        raise ValueError(f"buckets must be increasing numbers of seconds > 0, at least one, not {buckets!r}")
    return bounds
