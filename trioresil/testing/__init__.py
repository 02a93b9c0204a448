"""Tools for testing code that is built on Trio: the cancellation sweep."""

from ._sweep import Moment as Moment
from ._sweep import Sweep as Sweep
from ._sweep import SweepFailure as SweepFailure
from ._sweep import SweepReport as SweepReport
from ._sweep import cancellation_sweep as cancellation_sweep
