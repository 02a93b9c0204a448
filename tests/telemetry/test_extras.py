"""Without its package an instrument says which extra to install; importing the face needs none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests._exports import name_violations, public_names
from trioresil import telemetry
from trioresil.abc import Instrument

WANTED = [
    ("PrometheusInstrument", "prometheus_client", "prometheus"),
    ("StructlogInstrument", "structlog", "structlog"),
    ("OpenTelemetryInstrument", "opentelemetry", "opentelemetry"),
]


@pytest.mark.parametrize(("name", "package", "extra"), WANTED)
def test_a_missing_package_is_told_with_its_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)

    class Missing:
        def find_spec(self, module: str, path: Any = None, target: Any = None) -> None:
            if module.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ImportError) as info:
        getattr(telemetry, name)()
    assert str(info.value) == f"{name} needs {package}: install it with pip install 'trioresil[{extra}]'"


def test_importing_the_face_imports_no_backend() -> None:
    code = (
        "import sys, trioresil.telemetry; "
        f"print([each for each in {[package for _, package, _ in WANTED] + ['httpx']!r} if each in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_each_public_name_is_an_instrument_with_a_docstring() -> None:
    assert name_violations(public_names(vars(telemetry)), "trioresil.telemetry") == []
    for name in public_names(vars(telemetry)):
        assert issubclass(getattr(telemetry, name), Instrument)
