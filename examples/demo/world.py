"""The environment of the demo: a folder of its own, an MLflow server, a gateway. Nothing of it outlives `close()`.

In: the programs to start. Out: their URLs, once they answer. Each is started in a process group of its own and stopped
by the number of that group, so that no other process is ever touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable

BIN = Path(sys.prefix) / "bin"
ROOT = Path(__file__).resolve().parents[2]


class DemoError(Exception):
    """The reason why the demo cannot continue, as text for people."""


def plain_environment() -> dict[str, str]:
    """The environment without variables that could direct MLflow or an HTTP client to another machine."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "DATABRICKS_", "PORTCULLIS_")) and not name.lower().endswith("_proxy")
    }
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["MLFLOW_DISABLE_TELEMETRY"] = "true"
    env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # saves eight processes that nothing here needs
    return env


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class World:
    def __init__(self, portcullis: str):
        self.portcullis = portcullis
        # Short: a Unix socket's path may have 104 characters at most, and macOS has long temporary folders.
        base = "/tmp" if len(tempfile.gettempdir()) > 40 else None
        self.folder = Path(tempfile.mkdtemp(prefix="portcullis-demo-", dir=base))
        self.socket = self.folder / "serve.sock"
        self.audit = self.folder / "audit.jsonl"
        self.env = plain_environment()
        self.url = ""  # of the gateway, once it runs
        self._running: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append((name, process, log))
        return process

    def await_url(self, name: str, url: str, seconds: int, request: Callable[[str], bool]) -> None:
        """Polls until the URL answers as expected; fails early if the process has ended."""
        process, log = next((p, log) for n, p, log in self._running if n == name)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise DemoError(f"{name} ended with status {process.returncode}:\n{tail(log)}")
            try:
                if request(url):
                    return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.2)
        raise DemoError(f"{name} does not answer at {url} after {seconds} s:\n{tail(log)}")

    def mlflow(self) -> str:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self.start(
            "mlflow",
            [
                str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                "--artifacts-destination", str(self.folder / "artifacts"),
            ],
        )  # fmt: skip
        self.await_url("mlflow", f"{url}/health", 120, lambda url: get(url).strip() == b"OK")
        return url

    def gateway(self, mlflow: str) -> str:
        port = free_port()
        self.start(
            "portcullis",
            [
                self.portcullis, "serve", "-f", str(ROOT / "examples" / "quickstart"),
                "--listen", f"127.0.0.1:{port}", "--socket", str(self.socket),
                "--state", str(self.socket.with_name("state")),
                "--env", f"MLFLOW_TRACKING_URI={mlflow}", "--audit-file", str(self.audit),
            ],
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}/mlflow/mcp"
        self.await_url("portcullis", self.url, 60, initializes)
        return self.url

    def command(self, *words: str) -> str:
        """Runs `portcullis …` as a person on the gateway's machine would, and returns its output."""
        done = subprocess.run(
            [self.portcullis, *words],
            env={**self.env, "PORTCULLIS_SOCKET": str(self.socket)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            raise DemoError(f"`portcullis {' '.join(words)}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def requests(self, method: str, path: str) -> int:
        """The number of such requests that MLflow has answered, by its own access log."""
        log = (self.folder / "mlflow.log").read_text(errors="replace")
        return log.count(f'"{method} /api/2.0/mlflow/{path} HTTP')

    def pids(self) -> list[int]:
        return [process.pid for _, process, _ in self._running]

    def close(self) -> None:
        # The gateway first: it stops mlflow-mcp, its child, in good order.
        for _, process, _ in reversed(self._running):
            stop(process)
        self._running.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        except PermissionError:  # macOS, where only zombies are left in the group
            break
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=5)
    # Processes that the group's leader has left behind.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


def initializes(url: str) -> bool:
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "demo", "version": "1"},
        },
    }
    request = urllib.request.Request(
        url,
        data=json.dumps(message).encode(),
        headers={"Content-Type": "application/json", "Accept": "application/json, text/event-stream"},
    )
    with urllib.request.urlopen(request, timeout=15) as answer:
        return answer.status == 200 and b"serverInfo" in answer.read()


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
