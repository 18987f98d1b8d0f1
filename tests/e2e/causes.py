"""Servers that cannot work: each says why, in words, in its own conditions, and the others are served.

In: what first_day.py leaves. Out: checks, with the number of seconds from `kubectl apply` to the words (pods take some of
them to fail). The namespace `broken` is removed again.
"""

from __future__ import annotations

import json
import time
from typing import Any

from base import SERVERS, Base

IMAGE = "localhost/mlflow-mcp:0.4.1"
NAMESPACE = "broken"
STARVED = "no-pods"
RESTRICTED = "restricted"
LIMITED = "limited"
# Python that takes memory until the kernel ends it.
GREEDY = "x = []\nwhile True: x.append(bytearray(1 << 20))"


def stdio(*command: str, image: str = IMAGE, **more: Any) -> dict[str, Any]:
    return {"stdio": {"image": image, "command": list(command), **more}}


def http(url: str) -> dict[str, Any]:
    return {"http": {"url": url}}


# By name: the upstream, the namespace, the condition that tells, and the words that it must have.
CASES: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    "image": (stdio("mlflow-mcp", image="localhost:9/nothing:1"), NAMESPACE, "UpstreamReady", ["localhost:9/nothing:1", "cannot be pulled"]),
    "command": (stdio("/no/such/program"), NAMESPACE, "UpstreamReady", ["does not run", "/no/such/program"]),
    "crash": (stdio("sh", "-c", "exit 3"), NAMESPACE, "UpstreamReady", ["does not run", "exited with status 3"]),
    "memory": (
        stdio("python", "-c", GREEDY, resources={"limits": {"memory": "64Mi"}}), NAMESPACE, "UpstreamReady", ["does not run", "memory"],
    ),
    "silent": (stdio("sleep", "100000"), NAMESPACE, "UpstreamReady", ["has not answered `initialize`"]),
    "chatty": (stdio("sh", "-c", "while true; do echo hello; sleep 1; done"), NAMESPACE, "UpstreamReady", ["has not answered `initialize`"]),
    "secret": (
        stdio("mlflow-mcp", env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "token"}}}]),
        NAMESPACE, "UpstreamReady", ["absent"],
    ),
    "quota": (stdio("mlflow-mcp"), STARVED, "Ready", ["exceeded quota"]),
    "security": (
        stdio("mlflow-mcp", volumes=[{"name": "host", "hostPath": {"path": "/"}}]), RESTRICTED, "Ready", ["violates PodSecurity", "hostPath"],
    ),
    "path": (http("http://mlflow.ml.svc:5000/no/such/path"), NAMESPACE, "UpstreamReady", ["404"]),
    "port": (http("http://mlflow.ml.svc:5999/mcp"), NAMESPACE, "UpstreamReady", ["nothing listens there"]),
    "name": (http("http://no-such-service.ml.svc:5000/mcp"), NAMESPACE, "UpstreamReady", ["has no address"]),
    "plain": (http("https://mlflow.ml.svc:5000/mcp"), NAMESPACE, "UpstreamReady", ["does not speak TLS"]),
}  # fmt: skip


# Runs under a quota that refuses pods without limits.
WITHIN = "within"


class Causes(Base):
    def causes(self) -> None:
        self.account.chapter("Servers that cannot work say why")
        for namespace in (NAMESPACE, STARVED, RESTRICTED, LIMITED):
            self.kubectl("create", "namespace", namespace)
        self.kubectl("label", "namespace", RESTRICTED, "pod-security.kubernetes.io/enforce=restricted")
        self.kubectl("-n", STARVED, "create", "quota", "none", "--hard=pods=0")
        self.kubectl("-n", LIMITED, "create", "quota", "limited", "--hard=limits.cpu=8,limits.memory=8Gi")
        began = time.monotonic()
        manifests = [
            {
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"upstream": upstream, "authentication": {"anonymous": "Allow"}},
            }
            for name, (upstream, namespace) in {
                **{name: case[:2] for name, case in CASES.items()},
                WITHIN: (stdio("mlflow-mcp", env=[{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow.ml.svc:5000"}]), LIMITED),
            }.items()
        ]  # fmt: skip
        # Without a policy the first thing to say would be that nothing is allowed.
        manifests += [
            {
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
                "metadata": {"name": "open", "namespace": namespace},
                "spec": {
                    "targetSelector": {"matchLabels": {}},
                    "rules": [{"name": "all", "tools": {"names": ["*"]}, "action": "Allow"}],
                },
            }
            for namespace in (NAMESPACE, STARVED, RESTRICTED, LIMITED)
        ]  # fmt: skip
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
        waiting = dict(CASES)
        said: dict[str, str] = {}
        while waiting and time.monotonic() - began < 180:
            for name, (_, namespace, type_, words) in list(waiting.items()):
                found = self.cluster.get("-n", namespace, SERVERS, name) or {}
                conditions = found.get("status", {}).get("conditions", [])
                told = next((c for c in conditions if c["type"] == type_), {})
                said[name] = f"{told.get('status')} {told.get('reason')}: {told.get('message')}"
                if told.get("status") == "False" and all(word in told["message"] for word in words):
                    took = time.monotonic() - began
                    self.check(True, f"{name}, after {took:.0f} s: “{told['message']}”")
                    del waiting[name]
            time.sleep(0.2)
        for name in waiting:
            self.check(False, f"{name} says why it does not work", said[name])
        ready = self.kubectl("-n", LIMITED, "wait", "--for=condition=Ready", f"{SERVERS}/{WITHIN}", "--timeout=120s")
        self.check("condition met" in ready, "a quota on limits admits the pods of a server that states no resources", ready)
        answer = self.agent("call", tool="get_run_metric", arguments={"run_id": self.seed["best_run_id"], "metric_name": "loss"})
        self.check(answer["ok"], "meanwhile the server that works is served", answer)
        self.kubectl("delete", "namespace", NAMESPACE, STARVED, RESTRICTED, LIMITED, "--wait=false")
