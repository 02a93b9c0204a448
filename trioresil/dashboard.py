"""A live page about a program's policies and services; needs the extra `cli`."""

from . import _checks

try:
    import hypercorn as _hypercorn  # noqa: F401
    import starlette as _starlette  # noqa: F401
except ImportError as _error:
    _missing = "trioresil.dashboard needs Starlette and Hypercorn: pip install 'trioresil[cli]'"
    raise ImportError(_missing, name=_error.name) from _error

from ._web._dashboard import Dashboard as Dashboard
from ._web._dashboard import open_dashboard as open_dashboard
from ._web._dashboard import serve_dashboard as serve_dashboard

_checks.fix_module_names(__name__, globals())
