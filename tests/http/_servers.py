"""Real servers on loopback for the tests of HTTP: certificates, Hypercorn, nginx, a black hole."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio
import trustme

from tests._programs import program


class Authority:
    """A certificate authority with one server's certificate, for localhost and 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.certificate = self.ca.issue_cert("localhost", "127.0.0.1", "other.example")
        self.ca_file = str(directory / "ca.pem")
        self.key_file = str(directory / "key.pem")
        self.chain_file = str(directory / "chain.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.certificate.private_key_pem.write_to_path(self.key_file)
        for number, blob in enumerate(self.certificate.cert_chain_pems):
            blob.write_to_path(self.chain_file, append=number > 0)
        self.client_context = self.new_client_context()

    def new_client_context(self) -> ssl.SSLContext:
        """A context that trusts this authority and no other."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def server_context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.certificate.configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


async def start_hypercorn(app: Any, nursery: trio.Nursery, *, authority: Authority | None = None) -> str:
    """Serves an ASGI application, HTTP/1.1 and HTTP/2, until the nursery is cancelled. Returns its URL."""
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0.1
    config.errorlog = None
    if authority is not None:
        config.certfile, config.keyfile = authority.chain_file, authority.key_file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        binds = await nursery.start(functools.partial(hypercorn.trio.serve, app, config))
    scheme, _, address = binds[0].partition("://")
    return f"{scheme}://localhost:{address.rpartition(':')[2]}" if authority is not None else f"{scheme}://{address}"


_NGINX = """
daemon off;
worker_processes 1;
error_log {directory}/error.log;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests {keepalive_requests};
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl http2;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{ return 200 "hello"; }}
        location /files/ {{ alias {directory}/files/; }}
    }}
}}
"""


class Nginx:
    """nginx as a child process; its URLs, and what it reads from."""

    def __init__(self, directory: Path, authority: Authority, *, keepalive_requests: int = 100_000) -> None:
        self.directory = directory
        self.files = directory / "files"
        """What is put here is served under /files/, with Range and ETag."""
        self.files.mkdir(exist_ok=True)
        self.port, self.tls_port = free_port(), free_port()
        self.config = directory / "nginx.conf"
        text = _NGINX.format(
            directory=directory,
            port=self.port,
            tls_port=self.tls_port,
            chain=authority.chain_file,
            key=authority.key_file,
            keepalive_requests=keepalive_requests,
        )
        self.config.write_text(text)
        self._program = program("nginx", package="nginx-light")
        self._process: trio.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"

    async def reload(self) -> None:
        """A rolling restart, as an operator does it: old workers finish what they have, new ones accept."""
        assert self._process is not None
        before = await self._worker()
        self._process.send_signal(1)
        while True:  # nginx tells nobody when it has done it
            await trio.sleep(0.01)
            if await self._worker() != before:
                return

    async def _worker(self) -> str:
        assert self._process is not None
        path = trio.Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return (await path.read_text()).split()[-1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Nginx]:
        command = [self._program, "-c", str(self.config), "-p", str(self.directory), "-e", str(self.directory / "err")]
        async with trio.open_nursery() as nursery:
            self._process = await nursery.start(
                functools.partial(
                    trio.run_process, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
                )
            )
            with trio.fail_after(10):
                await self._answering()
            yield self
            nursery.cancel_scope.cancel(reason="the test is over")

    async def _answering(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await (await trio.open_tcp_stream("127.0.0.1", self.port)).aclose()
                return
            await trio.sleep(0.01)


def free_port() -> int:
    """A port that was free a moment ago, for a program that cannot tell which one it took."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class BlackHole:
    """An address where a connection is never made: a listening socket whose queue is full, so SYNs are dropped."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._fillers: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> BlackHole:
        # The kernel lets in a little more than the backlog: fill until a connection is not made at once.
        for _ in range(10):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in [self._listener, *self._fillers]:
            sock.close()
