"""What every step of the end-to-end run uses: the objects' status, edits of the policy, and what MLflow holds.

In: the options, and an `Account` to write to. Out: plain values. Nothing here checks anything.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

from cluster import Account, Cluster, Failed, Orders, until

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "e2e"
SYSTEM = "portcullis-system"
SERVERS = "mcpservers.portcullis.dev"
POLICIES = "mcppolicies.portcullis.dev"
APPROVALS = "mcpapprovals.portcullis.dev"
POLICY = "mlflow-recommended"
ALLOWED_PER_MINUTE = 30
UNKNOWN_TOOL = -32602
GATEWAY = "app.kubernetes.io/component=gateway,portcullis.dev/server="
UPSTREAM = "app.kubernetes.io/component=upstream,portcullis.dev/server="
OPERATOR = "app.kubernetes.io/component=operator"


class Base:
    def __init__(self, options: argparse.Namespace, account: Account) -> None:
        self.options = options
        self.account = account
        self.check = account.check
        self.cluster = Cluster(account)
        self.kubectl = self.cluster.kubectl
        self.programs: list[Orders] = []
        # What the steps hand on to each other.
        self.bench: Orders
        self.agent: Orders
        self.seed: dict[str, Any]
        self.victims: list[str]
        self.url = ""

    def helm(self, *arguments: str) -> str:
        output = self.cluster.run("helm", *arguments)
        # The notes that follow are the same each time.
        self.account.command(shlex.join(["helm", *arguments]), output.partition("NOTES:")[0])
        return output

    def status(self, server: str = "mlflow") -> dict[str, Any]:
        found = self.cluster.get("-n", "ml", SERVERS, server)
        return found.get("status", {}) if found else {}

    def violations(self, server: str = "mlflow") -> dict[str, int]:
        counts = self.status(server).get("violations", {})
        return {name: counts.get(name, 0) for name in ("total", "hidden", "denied", "limited", "unapproved", "audited")}

    def condition(self, kind: str, name: str, type_: str) -> dict[str, Any]:
        """The condition, if it is about the object as it is now."""
        found = self.cluster.get("-n", "ml", kind, name)
        for condition in (found or {}).get("status", {}).get("conditions", []):
            if condition["type"] == type_ and condition["observedGeneration"] == found["metadata"]["generation"]:
                return condition
        return {}

    def ready(self, server: str = "mlflow", seconds: float = 240) -> None:
        try:
            until(f"{server} is Ready", lambda: self.condition(SERVERS, server, "Ready").get("status") == "True", seconds)
        except Failed as error:
            raise Failed(f"{error}\n{json.dumps(self.status(server), indent=2)}\n{self.cluster.why('ml')}") from None

    def truth(self) -> dict[str, Any]:
        return self.bench("truth", experiments=[self.seed["experiment_id"], *self.victims], model=self.seed["model"])

    def patch(self, patch: str) -> None:
        self.kubectl("-n", "ml", "patch", POLICIES, POLICY, "--type=json", "-p", patch, show=True)

    def verdict(self, call: dict[str, Any], wanted: Any) -> tuple[float, Any]:
        """How long until a call got the wanted answer, from when kubectl came back, and that answer."""
        began = time.monotonic()
        answer: Any = None

        def given() -> bool:
            nonlocal answer
            answer = self.agent("call", **call)
            return wanted(answer)

        try:
            until("the edit is in force", given, 30)
        except Failed as error:
            raise Failed(f"{error}; the last answer was {answer}\n{json.dumps(self.status(), indent=2)}") from None
        return time.monotonic() - began, answer

    def close(self) -> None:
        for program in self.programs:
            program.close()
