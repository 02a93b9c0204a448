"""The command line: `trioresil watch`, `fetch` and `demo`. Needs the extra `cli`."""

from .. import _checks
from ._main import main as main

_checks.fix_module_names(__name__, globals())
