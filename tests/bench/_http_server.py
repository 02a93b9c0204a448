"""nginx with one worker and a small answer from memory, over HTTP and HTTPS, that never closes a connection."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http} backlog=4096;
        {tls}
        location / {{ return 200 '{{"items": [{items}]}}'; }}
    }}
}}
"""
TLS = "listen 127.0.0.1:{https} ssl backlog=4096; ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;"


@dataclass(frozen=True)
class Server:
    """Where it answers."""

    urls: dict[str, str]
    """By scheme; without "https" where trustme isn't installed."""
    ca: str | None
    process: int


def installed() -> str | None:
    """Return the path of nginx."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def serving() -> Iterator[Server]:
    """Run nginx in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="trioresil-bench-") as name:
        folder = Path(name)
        urls = {
            scheme: f"{scheme}://127.0.0.1:{port}/items"
            for scheme, port in zip(("http", "https"), _ports(), strict=True)
        }
        ports = {scheme: int(url.split(":")[2].partition("/")[0]) for scheme, url in urls.items()}
        ca = _certificate(folder)
        if ca is None:
            del urls["https"]
        tls = TLS.format(https=ports["https"], folder=folder) if ca else ""
        items = ", ".join(str(number) for number in range(40))
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(folder=folder, http=ports["http"], tls=tls, items=items)
        )
        nginx = subprocess.Popen([installed() or "nginx", "-p", name, "-c", f"{name}/nginx.conf"])
        try:
            _wait_for(ports["http"])
            yield Server(urls, ca, nginx.pid)
        finally:
            nginx.terminate()
            nginx.wait()


def _ports() -> tuple[int, int]:
    """Find two ports that are free now."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def _certificate(folder: Path) -> str | None:
    try:
        import trustme
    except ImportError:
        return None
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return str(folder / "ca.pem")


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return
