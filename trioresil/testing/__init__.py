"""Tools for tests: the cancellation sweep, an instrument that keeps events, retries that don't sleep."""

from .. import _checks
from ._quick import quick as quick
from ._recorder import Recorder as Recorder
from ._sweep import Moment as Moment
from ._sweep import Sweep as Sweep
from ._sweep import SweepFailure as SweepFailure
from ._sweep import SweepReport as SweepReport
from ._sweep import cancellation_sweep as cancellation_sweep

_checks.fix_module_names(__name__, globals())
