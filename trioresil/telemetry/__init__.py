"""Instruments for logging, structlog, Prometheus and OpenTelemetry; each needs its extra only when it is made."""

from .. import _checks
from ._logging import LoggingInstrument as LoggingInstrument
from ._logging import StructlogInstrument as StructlogInstrument
from ._opentelemetry import OpenTelemetryInstrument as OpenTelemetryInstrument
from ._prometheus import PrometheusInstrument as PrometheusInstrument

_checks.fix_module_names(__name__, globals())
