"""The cluster as a person uses it: kubectl and helm, and processes in pods that take orders.

In: KUBECONFIG, and kubectl and helm on PATH. Out: what they print; a `Failed` with what went wrong. With `show` each command
that a person would type is printed, and what came back.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from queue import Empty, Queue
from typing import Any, Callable

PATIENCE = 180.0


class Failed(Exception):
    """Why the run cannot go on; the text is for people."""


class Account:
    """What the reader sees, and the count of what held."""

    def __init__(self, show: bool) -> None:
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.show = show
        self.held = 0
        self.failed = 0
        self._chapter = 0
        self._started = time.monotonic()

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def chapter(self, title: str) -> None:
        self._chapter += 1
        took = self.paint("2", f"({time.monotonic() - self._started:.0f} s)")
        print(f"\n{self.paint('1', f'{self._chapter}  {title}')} {took}", flush=True)

    def line(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def command(self, text: str, output: str) -> None:
        if self.show:
            self.line(self.paint("36", f"$ {text}"))
            for line in output.rstrip().splitlines():
                self.line(self.paint("2", f"  {line}"))

    def check(self, happened: bool, text: str, otherwise: object = "") -> None:
        if happened:
            self.held += 1
            self.line(f"{self.paint('32', '✓')} {text}")
        else:
            self.failed += 1
            detail = f"\n      instead: {otherwise}" if otherwise != "" else ""
            self.line(f"{self.paint('31', '✗')} {text}{detail}")


class Cluster:
    def __init__(self, account: Account) -> None:
        self._account = account

    def run(self, *command: str, show: bool = False, stdin: str | None = None, attempt: bool = False) -> str:
        """Runs it and gives its output. `attempt`: gives it, errors included, whatever the exit status."""
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=600)
        if done.returncode != 0 and not attempt:
            raise Failed(f"{shlex.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        output = done.stdout + (done.stderr if attempt else "")
        if show:
            self._account.command(shlex.join(command), output)
        return output

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.run("kubectl", *arguments, **options)

    def get(self, *arguments: str) -> Any:
        """An object, or None if there is none."""
        output = self.kubectl("get", "--ignore-not-found", "--output=json", *arguments)
        return json.loads(output) if output.strip() else None

    def items(self, *arguments: str) -> list[Any]:
        return (self.get(*arguments) or {"items": []})["items"]

    def rollout(self, namespace: str, workload: str, seconds: float = PATIENCE) -> None:
        try:
            self.kubectl("-n", namespace, "rollout", "status", workload, f"--timeout={seconds:.0f}s")
        except Failed as error:
            raise Failed(f"{error}\n{self.why(namespace)}") from None

    def why(self, namespace: str) -> str:
        """What there is to see of a namespace where something does not become ready."""
        pods = self.kubectl("-n", namespace, "get", "pods", "-o", "wide", attempt=True)
        events = self.kubectl(
            "-n", namespace, "get", "events", "--sort-by=.lastTimestamp", "-o",
            "custom-columns=TYPE:.type,OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message", attempt=True,
        )  # fmt: skip
        return pods + "\n".join(events.splitlines()[-15:])

    def running(self, namespace: str, labels: str) -> list[Any]:
        """Ready pods that are not about to end."""
        return [
            pod
            for pod in self.items("-n", namespace, "pods", "-l", labels)
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        ]


def until(what: str, happens: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Polls until the function gives something, and gives that."""
    deadline = time.monotonic() + seconds
    while True:
        found = happens()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"within {seconds:.0f} s it did not come that {what}")
        time.sleep(0.1)


class Orders:
    """A Python program in a pod: one JSON line in, one out. Orders of several threads do not mix."""

    def __init__(self, namespace: str, pod: str, program: str) -> None:
        self.pod = pod
        self._log: list[str] = []
        self._process = subprocess.Popen(
            ["kubectl", "-n", namespace, "exec", "-i", pod, "--", "python", "-u", f"/code/{program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._answers: Queue[str | None] = Queue()
        self._lock = threading.Lock()
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _read_log(self) -> None:
        for line in self._process.stderr:
            self._log = [*self._log[-30:], line]

    def __call__(self, do: str, seconds: float = PATIENCE, **order: Any) -> Any:
        with self._lock:
            self._number += 1
            try:
                self._process.stdin.write(json.dumps({"id": self._number, "do": do, **order}) + "\n")
                self._process.stdin.flush()
                while True:
                    line = self._answers.get(timeout=seconds)
                    if line is None:
                        raise Failed(f"the program in pod {self.pod} ended:\n{''.join(self._log)}")
                    # MLflow likes to print.
                    if line.startswith("{") and (answer := json.loads(line)).get("id") == self._number:
                        break
            except Empty:
                raise Failed(f"pod {self.pod} did not answer {do} within {seconds:.0f} s") from None
            except BrokenPipeError:
                raise Failed(f"the program in pod {self.pod} is gone:\n{''.join(self._log)}") from None
        if "error" in answer:
            raise Failed(f"{do} in pod {self.pod}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
