"""Agents with service accounts: pods that call with the tokens that their kubelet projects.

In: what first_day.py leaves. Out: checks of who is admitted as whom, and with whose variables the server's processes run.
The pods and the server `team` are removed again.
"""

from __future__ import annotations

import json
from typing import Any

from base import POLICIES, SERVERS, UNKNOWN_TOOL, Base
from cluster import Orders, until

AUDIENCE = "portcullis:ml/team"
MOUNT = "/var/run/portcullis"
# Prints the users of all processes of the server; the bridge's own environment cannot be read.
USERS = """
import glob, json
users = set()
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        text = open(path, "rb").read().decode()
    except OSError:
        continue
    for part in text.split("\\0"):
        name, _, value = part.partition("=")
        if name == "MLFLOW_TRACKING_USERNAME":
            users.add(value)
print(json.dumps(sorted(users)))
"""


def pod(account: str) -> dict[str, Any]:
    """An agent's pod with two tokens of its service account: for the server, and for another one."""

    def token(audience: str, path: str) -> dict[str, Any]:
        return {"serviceAccountToken": {"audience": audience, "expirationSeconds": 600, "path": path}}

    sources = [token(AUDIENCE, "token"), token("portcullis:ml/mlflow", "elsewhere")]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": account, "namespace": "agents"},
        "spec": {
            "serviceAccountName": account, "automountServiceAccountToken": False, "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "python", "image": "localhost/mlflow-mcp:0.4.1", "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "code", "mountPath": "/code", "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"},
                                 {"name": "token", "mountPath": MOUNT, "readOnly": True}],
            }],
            "volumes": [{"name": "code", "configMap": {"name": "e2e-code"}}, {"name": "tmp", "emptyDir": {}},
                        {"name": "token", "projected": {"sources": sources}}],
        },
    }  # fmt: skip


class Callers(Base):
    def callers(self) -> None:
        self.account.chapter("Agents with service accounts, each with a user of its own in MLflow")
        for name in ("trainer", "reader"):
            self.kubectl("-n", "ml", "create", "secret", "generic", f"team-{name}", f"--from-literal=username={name}-in-mlflow")
        self.kubectl("apply", "--server-side", "-f", "tests/e2e/callers.yaml", show=True)
        names = ("trainer", "reader", "visitor")
        pods = {"apiVersion": "v1", "kind": "List", "items": [pod(name) for name in names]}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(pods))
        self.ready("team")
        for name in names:
            self.kubectl("-n", "agents", "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")
        agents = {name: Orders("agents", name, "pod_agent.py") for name in names}
        url = self.status("team")["url"]
        token = f"{MOUNT}/token"

        without = agents["trainer"]("raw", url=url, headers={})
        elsewhere = agents["trainer"]("raw", url=url, headers={}, token=f"{MOUNT}/elsewhere")
        self.check(
            (without, elsewhere) == (401, 401),
            "without a token, and with one for another server: HTTP 401", (without, elsewhere),
        )  # fmt: skip
        tag = {"tool": "set_experiment_tag", "arguments": {"experiment_id": self.victims[-1], "key": "by", "value": "trainer"}}
        for name in ("trainer", "reader"):
            agents[name]("open", url=url, token=token)
        read = agents["reader"]("call", tool="get_experiments", arguments={})
        written, refused = agents["trainer"]("call", **tag), agents["reader"]("call", **tag)
        self.check(
            (read["ok"], written["ok"], refused["ok"], refused["code"]) == (True, True, False, UNKNOWN_TOOL),
            "with its pod's own token the trainer may set a tag, and the reader may read and not see that tool", (read, written, refused),
        )  # fmt: skip
        users = json.loads(self.kubectl("-n", "ml", "exec", "deployment/team-upstream", "--", "python", "-c", USERS))
        self.check(
            users == ["reader-in-mlflow", "trainer-in-mlflow"],
            "each session's process of the server runs with its caller's user", users,
        )  # fmt: skip
        try:
            told = agents["visitor"]("open", url=url, token=token)
        except Exception as error:  # noqa: BLE001 - what the agent was answered
            told = str(error)
        self.check(
            "no credential for serviceaccount:agents/visitor" in str(told),
            f"the visitor is admitted and has no user there: “{told}”", told,
        )  # fmt: skip

        def by_grant() -> set[str]:
            return {entry["grant"] for entry in self.status("team").get("violations", {}).get("recent", [])}

        until("the refusal is in the server's status", lambda: "serviceaccount:agents/reader" in by_grant())
        self.check(by_grant() == {"serviceaccount:agents/reader"}, "the status names the refused caller", sorted(by_grant()))
        for agent in agents.values():
            agent.close()
        self.kubectl("-n", "ml", "delete", f"{SERVERS},{POLICIES}", "team", "--wait=false", show=True)
        self.kubectl("-n", "ml", "delete", "secret", "team-trainer", "team-reader")
        self.kubectl("-n", "agents", "delete", "pod,serviceaccount", *names, "--wait=false")
