"""The first day: an MLflow, helm install, kubectl apply, an agent at work, what was refused, an edit of the policy.

In: an empty cluster. Out: checks, and a server `mlflow` in namespace `ml` with an agent that uses it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from base import ALLOWED_PER_MINUTE, APPROVALS, HERE, POLICIES, POLICY, ROOT, SERVERS, SYSTEM, UNKNOWN_TOOL, Base
from cluster import Orders, until


class FirstDay(Base):
    def world(self) -> None:
        self.account.chapter("An MLflow, and an agent in another namespace")
        code = [HERE / "pod_agent.py", HERE / "pod_workbench.py", HERE / "load.py"]
        code += [ROOT / "examples/demo/agent.py", ROOT / "examples/demo/seed.py"]
        for namespace in ("ml", "agents"):
            self.kubectl("create", "namespace", namespace)
            self.kubectl("-n", namespace, "create", "configmap", "e2e-code", *(f"--from-file={file}" for file in code))
        self.kubectl("apply", "--server-side", "-f", str(HERE / "world.yaml"))
        self.cluster.rollout("ml", "deployment/mlflow")
        for namespace, pod in (("ml", "workbench"), ("agents", "agent")):
            self.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=120s")
        self.bench = Orders("ml", "workbench", "pod_workbench.py")
        self.agent = Orders("agents", "agent", "pod_agent.py")
        self.programs += [self.bench, self.agent]
        self.seed = self.bench("seed")
        self.victims = self.bench("experiments", names=[f"victim-{number}" for number in range(5)])
        self.account.line(
            f"{len(self.seed['run_ids'])} runs with {self.seed['metrics']} metric values,"
            f" the model {self.seed['model']!r} in 3 versions, {1 + len(self.victims)} experiments"
        )
        self.before = self.truth()

    def install(self) -> None:
        self.account.chapter("helm install")
        options = self.options
        self.helm(
            "install", "portcullis", "charts/portcullis", "-n", SYSTEM, "--create-namespace",
            "--set", f"imageRegistry={options.registry}",
            "--set", f"operator.image.tag={options.tag},gateway.image.tag={options.tag}",
        )  # fmt: skip
        self.cluster.rollout(SYSTEM, "deployment/portcullis-operator")
        # Pods that are made from now on, all but the first two, must meet it.
        self.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
        tested = self.cluster.run("helm", "test", "portcullis", "-n", SYSTEM, "--logs", attempt=True)
        self.account.command(f"helm test portcullis -n {SYSTEM}", "\n".join(tested.splitlines()[:8]))
        self.check("Phase:          Succeeded" in tested, "the operators run, and helm test agrees", tested)

    def quickstart(self) -> None:
        self.account.chapter("kubectl apply: a server and the recommended policy")
        files = [f"examples/quickstart/{name}.yaml" for name in ("server", "policy")]
        self.kubectl("apply", *(f"--filename={file}" for file in files), show=True)
        self.ready()
        self.kubectl("-n", "ml", "get", SERVERS, show=True)
        tools = {name: self.status()["tools"].get(name) for name in ("discovered", "visible", "hidden", "summary")}
        self.check(
            tools == {"discovered": 40, "visible": 35, "hidden": 5, "summary": "35/40"},
            "the server is Ready and shows 35 of its 40 tools", tools,
        )  # fmt: skip
        self.url = self.status()["url"]

    def use(self) -> None:
        self.account.chapter(f"The agent works through {self.url}")
        agent, seed = self.agent, self.seed
        direct = set(self.bench("direct"))
        agent("open", url=self.url)
        listed = set(agent("tools"))
        self.check(
            (len(direct), len(listed)) == (40, 35) and listed < direct,
            f"tools/list shows 35 of 40; not there: {', '.join(sorted(direct - listed))}", sorted(listed),
        )  # fmt: skip
        answer = agent("call", tool="get_run_metric", arguments={"run_id": seed["best_run_id"], "metric_name": "loss"})
        told = [[point.get("step"), point.get("value")] for point in answer["values"] if isinstance(point, dict)]
        history = self.bench("history", run=seed["best_run_id"], metric="loss")
        self.check(
            answer["ok"] and told == history and len(history) > 1,
            f"get_run_metric gives {len(history)} points of loss, the same as in MLflow", answer,
        )  # fmt: skip
        answer = agent("call", tool="delete_experiment", arguments={"experiment_id": seed["experiment_id"]})
        self.check(
            (answer["ok"], answer["code"], answer["text"])
            == (False, UNKNOWN_TOOL, "Unknown tool: delete_experiment"),
            f"delete_experiment, called anyway: “{answer['text']}”", answer,
        )  # fmt: skip
        answers = [
            agent("call", tool="set_experiment_tag",
                  arguments={"experiment_id": seed["experiment_id"], "key": f"note-{number:02}", "value": "by the agent"})
            for number in range(1, ALLOWED_PER_MINUTE + 2)
        ]  # fmt: skip
        last = answers[-1]
        self.check(
            [answer["ok"] for answer in answers] == [True] * ALLOWED_PER_MINUTE + [False]
            and 0 < (last["retry_after_ms"] or 0) <= 60_000,
            f"set_experiment_tag {ALLOWED_PER_MINUTE} times, then: “{last['text']}”",
            [answer["text"] for answer in answers if not answer["ok"]],
        )  # fmt: skip
        answer = self.promote("1", "Denied", "version 1 is too old")
        self.check(
            not answer["ok"] and "version 1 is too old" in answer["text"],
            f"a promotion is held, and a person denies it: “{answer['text']}”", answer,
        )  # fmt: skip
        answer = self.promote(seed["challenger"], "Approved", "it is better on the holdout set")
        self.check(answer["ok"], "another promotion is held, a person approves it, and it is made", answer)
        moved = lambda: self.bench("alias", model=seed["model"], alias="production", version="1")
        answer = self.promote(seed["challenger"], "Approved", "it is live", alias="production", meanwhile=moved)
        production = self.bench("aliases", model=seed["model"])["production"]
        self.check(
            not answer["ok"] and answer["text"].startswith("Approval stale") and production == "1",
            f"a third is approved after the alias was moved, and is not made: “{answer['text']}”", answer,
        )  # fmt: skip
        tags = [f"note-{number:02}" for number in range(1, ALLOWED_PER_MINUTE + 1)]
        expected = {**self.before, "tags": tags, "champion": seed["challenger"]}
        found = self.truth()
        self.check(found == expected, "MLflow has 30 new tags, all experiments, and the approved champion", found)
        self.after_use = found

        status = self.agent("raw", url=f"http://mlflow-upstream.ml.svc:8000/mcp", headers={})
        self.check(status == 401, "the agent cannot go around the gateway: HTTP 401 from the server itself", status)

    def promote(
        self, version: str, verdict: str, reason: str, alias: str = "champion", meanwhile: Callable[[], Any] | None = None
    ) -> dict[str, Any]:
        """The agent asks for a promotion, and a person decides about it while the call is held; the answer to the call."""
        answers: list[dict[str, Any]] = []
        arguments = {"name": self.seed["model"], "alias": alias, "version": version}
        call = threading.Thread(
            target=lambda: answers.append(self.agent("call", tool="set_model_alias", arguments=arguments)), daemon=True
        )
        call.start()
        undecided = lambda: [item for item in self.cluster.items("-n", "ml", APPROVALS) if "decisions" not in item["spec"]]
        name = until("there is an McpApproval to decide", undecided)[0]["metadata"]["name"]
        if meanwhile is not None:
            meanwhile()
        person = json.loads(self.kubectl("auth", "whoami", "--output=json"))["status"]["userInfo"]["username"]
        decision = {"verdict": verdict, "by": person, "reason": reason}
        patch = json.dumps({"spec": {"decisions": [decision]}})
        self.kubectl("-n", "ml", "patch", APPROVALS, name, "--type=merge", "-p", patch, show=True)
        call.join(60)
        return answers[0] if answers else {"ok": False, "text": "no answer came"}

    def seen(self) -> None:
        self.account.chapter("kubectl get: what was refused")
        expected = {"total": 4, "hidden": 1, "denied": 0, "limited": 1, "unapproved": 2, "audited": 0}
        until("four violations are in the server's status", lambda: self.violations()["total"] >= 4)
        self.check(self.violations() == expected, "the server counts what the agent was answered, each once", self.violations())
        self.kubectl("-n", "ml", "get", SERVERS, show=True)
        self.kubectl("-n", "ml", "get", POLICIES, show=True)

        def by_rule() -> dict[str, int]:
            counts = self.cluster.get("-n", "ml", POLICIES, POLICY)["status"].get("violations", {}).get("byRule", [])
            return {entry["rule"]: entry["count"] for entry in counts}

        until("four violations are in the policy's status", lambda: sum(by_rule().values()) >= 4)
        self.check(by_rule() == {"deletions": 1, "tags": 1, "alias-promotions": 2}, "the policy says by which rule", by_rule())
        events = until(
            "there are Events about it", lambda: self.cluster.items("-n", "ml", "events", "--field-selector", "reason=Violation")
        )
        about = sorted({f"{event['regarding' if 'regarding' in event else 'involvedObject']['kind']}" for event in events})
        self.account.line(f"Events about refusals are on: {', '.join(about)}")

    def edit(self) -> None:
        self.account.chapter("Edit the policy")
        call = {"tool": "get_run_metric", "arguments": {"run_id": self.seed["best_run_id"], "metric_name": "loss"}}
        rule = {"name": "freeze", "tools": {"names": ["get_run_metric"]}, "action": "Deny", "reason": "Metrics are frozen today."}
        patch = json.dumps([{"op": "add", "path": "/spec/rules/-", "value": rule}])
        self.patch(patch)
        took, answer = self.verdict(call, lambda answer: not answer["ok"])
        self.check("frozen today" in answer["text"], f"{took * 1000:.0f} ms later: “{answer['text']}”", answer)

        broken = {**rule, "name": "broken", "when": "args.run_id =="}
        self.patch(json.dumps([{"op": "add", "path": "/spec/rules/-", "value": broken}]))
        condition = until(
            "the policy is refused",
            lambda: (found := self.condition(POLICIES, POLICY, "Accepted")).get("status") == "False" and found,
        )
        answer = self.agent("call", **call)
        self.check(
            condition["reason"] == "Invalid" and "frozen today" in answer["text"],
            f"a broken rule is told and changes nothing: “{condition['message']}”", (condition, answer),
        )  # fmt: skip
        rules = self.cluster.get("-n", "ml", POLICIES, POLICY)["spec"]["rules"]
        steps = [{"op": "remove", "path": f"/spec/rules/{at}"} for at, rule in enumerate(rules) if rule["name"] in ("freeze", "broken")]
        self.patch(json.dumps(steps[::-1]))
        took, answer = self.verdict(call, lambda answer: answer["ok"])
        self.check(answer["ok"], f"both rules taken out: {took * 1000:.0f} ms later it is answered again, in the same session")
