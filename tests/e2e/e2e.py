"""Portcullis on a cluster with pods: installed, used, edited, disturbed, upgraded and uninstalled, with a check of each step.

In: a cluster (KUBECONFIG) that has the images, empty of Portcullis; kubectl and helm on PATH. Out: an account on standard
output; exit status 1 if anything in it did not happen. With --show it prints what a person would type and what came back.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cluster import Account, Cluster, Failed, Orders, until

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "e2e"
SYSTEM = "portcullis-system"
SERVERS = "mcpservers.portcullis.dev"
POLICIES = "mcppolicies.portcullis.dev"
POLICY = "mlflow-recommended"
ALLOWED_PER_MINUTE = 30
UNKNOWN_TOOL = -32602
GATEWAY = "app.kubernetes.io/component=gateway,portcullis.dev/server="
UPSTREAM = "app.kubernetes.io/component=upstream,portcullis.dev/server="
OPERATOR = "app.kubernetes.io/component=operator"


class Run:
    def __init__(self, options: argparse.Namespace, account: Account) -> None:
        self.options = options
        self.account = account
        self.check = account.check
        self.cluster = Cluster(account)
        self.kubectl = self.cluster.kubectl
        self.programs: list[Orders] = []

    # -- What is there -------------------------------------------------------------------------------------------------

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

    # -- Steps -----------------------------------------------------------------------------------------------------------

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
        self.cluster.run(
            "helm", "install", "portcullis", "charts/portcullis", "-n", SYSTEM, "--create-namespace",
            "--set", f"imageRegistry={options.registry}",
            "--set", f"operator.image.tag={options.tag},gateway.image.tag={options.tag}", show=True,
        )  # fmt: skip
        self.cluster.rollout(SYSTEM, "deployment/portcullis-operator")
        # Pods that are made from now on, all but the first two, must meet it.
        self.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
        # It asks once, and a pod that is ready is known to kube-proxy a moment later.
        tries = []

        def tested() -> bool:
            tries.append(self.cluster.run("helm", "test", "portcullis", "-n", SYSTEM, "--logs", attempt=True))
            return "Phase:          Succeeded" in tries[-1]

        until("helm test succeeds", tested, 30)
        self.account.command(f"helm test portcullis -n {SYSTEM}", "\n".join(tries[-1].splitlines()[:8]))
        for output in tries[:-1]:
            self.account.line(f"helm test had failed before: {output.splitlines()[-1]}")
        self.check(True, "the operators run, and helm test agrees")

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
        arguments = {"name": seed["model"], "alias": "champion", "version": seed["challenger"]}
        answer = agent("call", tool="set_model_alias", arguments=arguments)
        self.check(not answer["ok"], f"a promotion, with nobody who could approve it: “{answer['text']}”", answer)
        expected = {**self.before, "tags": [f"note-{number:02}" for number in range(1, ALLOWED_PER_MINUTE + 1)]}
        found = self.truth()
        self.check(found == expected, "MLflow has 30 new tags, all experiments, and the champion where it was", found)
        self.after_use = found

        status = self.agent("raw", url=f"http://mlflow-upstream.ml.svc:8000/mcp", headers={})
        self.check(status == 401, "the agent cannot go around the gateway: HTTP 401 from the server itself", status)

    def seen(self) -> None:
        self.account.chapter("kubectl get: what was refused")
        # The promotion is a denial: there is nobody in a cluster yet who could approve it.
        expected = {"total": 3, "hidden": 1, "denied": 1, "limited": 1, "unapproved": 0, "audited": 0}
        until("three violations are in the server's status", lambda: self.violations()["total"] >= 3)
        self.check(self.violations() == expected, "the server counts what the agent was answered, each once", self.violations())
        self.kubectl("-n", "ml", "get", SERVERS, show=True)
        self.kubectl("-n", "ml", "get", POLICIES, show=True)

        def by_rule() -> dict[str, int]:
            counts = self.cluster.get("-n", "ml", POLICIES, POLICY)["status"].get("violations", {}).get("byRule", [])
            return {entry["rule"]: entry["count"] for entry in counts}

        until("three violations are in the policy's status", lambda: sum(by_rule().values()) >= 3)
        self.check(by_rule() == {"deletions": 1, "tags": 1, "promotions": 1}, "the policy says by which rule", by_rule())
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

    def patch(self, patch: str) -> None:
        self.kubectl("-n", "ml", "patch", POLICIES, POLICY, "--type=json", "-p", patch, show=True)

    def verdict(self, call: dict[str, Any], wanted: Any) -> tuple[float, Any]:
        """How long until a call got the wanted answer, from when kubectl came back, and that answer."""
        began = time.monotonic()
        answer = until("the edit is in force", lambda: wanted(found := self.agent("call", **call)) and found, 30)
        return time.monotonic() - began, answer

    # -- Under load --------------------------------------------------------------------------------------------------------

    def load(self, url: str) -> None:
        arguments = {"run_id": self.seed["best_run_id"], "metric_name": "accuracy"}
        self.agent("open", url=url)
        answer = self.agent("call", tool="get_run_metric", arguments=arguments)
        history = self.bench("history", run=self.seed["best_run_id"], metric="accuracy")
        told = [[point.get("step"), point.get("value")] for point in answer["values"]]
        if told != history:
            raise Failed(f"before the load the answer is not MLflow's: {answer}")
        refused = [["delete_experiment", {"experiment_id": victim}] for victim in self.victims]
        refused += [["delete_run", {"run_id": run}] for run in self.seed["run_ids"]]
        refused.append(["delete_model_alias", {"name": self.seed["model"], "alias": "champion"}])
        allowed = {"tool": "get_run_metric", "arguments": arguments, "values": answer["values"]}
        self.agent("load", url=url, workers=4, allowed=allowed, refused={"tools": refused})
        self.steady()

    def steady(self) -> dict[str, Any]:
        """Waits until every worker had ten answers in a row, all of them after now."""
        before = self.agent("count")["counts"].get("allowed right", 0)

        def runs() -> Any:
            seen = self.agent("count")
            return seen["steady"] >= 10 and seen["counts"].get("allowed right", 0) >= before + 20 and seen

        try:
            return until("the load is answered again", runs)
        except Failed as error:
            raise Failed(f"{error}\n{self.agent('count')}\n{self.cluster.why('ml')}") from None

    def replaced(self, namespace: str, labels: str, pods: list[str]) -> None:
        """Deletes the pods and waits until as many others are ready."""
        number = len(self.cluster.running(namespace, labels))
        self.kubectl("-n", namespace, "delete", "pod", *pods, "--wait=false", show=True)

        def others() -> bool:
            names = [pod["metadata"]["name"] for pod in self.cluster.running(namespace, labels)]
            return len(names) >= number and not set(names) & set(pods)

        try:
            until(f"there are new pods for {', '.join(pods)}", others)
        except Failed as error:
            raise Failed(f"{error}\n{self.cluster.why(namespace)}") from None

    def one_of(self, namespace: str, labels: str) -> str:
        return self.cluster.running(namespace, labels)[0]["metadata"]["name"]

    def judge(self, what: str, before: dict[str, Any], after: dict[str, Any], interruption: bool = True) -> None:
        """No wrong answer since the load began; and how often nothing was decided meanwhile."""
        missed = after["counts"].get("unavailable", 0) - before["counts"].get("unavailable", 0)
        right = sum(after["counts"].get(f"{kind} right", 0) - before["counts"].get(f"{kind} right", 0) for kind in ("allowed", "refused"))
        why = {text: count for text, count in after["unavailable"].items() if count != before["unavailable"].get(text, 0)}
        self.check(
            after["wrong"] == [] and right > 0 and (interruption or missed == 0),
            f"{what}: {right} right answers, 0 wrong, {missed} times none", (after["wrong"], why),
        )  # fmt: skip
        if missed and self.account.show:
            for text, count in sorted(why.items(), key=lambda item: -item[1])[:4]:
                self.account.line(f"    {count} × {text}")

    def disturb(self) -> None:
        self.account.chapter("Pods are deleted while the agent works")
        violations = self.violations()
        self.load(self.url)
        for what, labels in (("gateway", GATEWAY + "mlflow"), ("server", UPSTREAM + "mlflow")):
            before = self.agent("count")
            self.replaced("ml", labels, [self.one_of("ml", labels)])
            self.judge(f"a new {what} pod", before, self.steady())
        before = self.agent("count")
        lease = self.cluster.get("-n", SYSTEM, "lease", "portcullis-operator")
        leader = next(
            pod["metadata"]["name"]
            for pod in self.cluster.running(SYSTEM, OPERATOR)
            if pod["metadata"]["name"] in lease["spec"]["holderIdentity"]
        )
        self.replaced(SYSTEM, OPERATOR, [leader])
        self.judge("the leading operator's pod replaced", before, self.steady(), interruption=False)
        self.accounted(self.agent("stop"), violations, "mlflow")
        self.ready()
        self.edit_after_takeover()

    def edit_after_takeover(self) -> None:
        call = {"tool": "get_run_metric", "arguments": {"run_id": self.seed["best_run_id"], "metric_name": "loss"}}
        rule = {"name": "freeze", "tools": {"names": ["get_run_metric"]}, "action": "Deny", "reason": "Frozen again."}
        rules = self.cluster.get("-n", "ml", POLICIES, POLICY)["spec"]["rules"]
        self.patch(json.dumps([{"op": "add", "path": "/spec/rules/-", "value": rule}]))
        took, answer = self.verdict(call, lambda answer: not answer["ok"])
        self.check("Frozen again" in answer["text"], f"the other operator delivers an edit: {took * 1000:.0f} ms later “{answer['text']}”")
        self.patch(json.dumps([{"op": "remove", "path": f"/spec/rules/{len(rules)}"}]))
        self.verdict(call, lambda answer: answer["ok"])

    def accounted(self, seen: dict[str, Any], before: dict[str, int], server: str) -> None:
        """Each refusal that reached the agent is in status; none more than was asked for."""
        answered, sent = seen["counts"].get("refused right", 0), seen["sent"].get("refused", 0)

        def counted() -> int:
            return self.violations(server)["hidden"] - before["hidden"]

        try:
            until(f"{answered} refusals are counted", lambda: counted() >= answered, 120)
        except Failed:
            pass
        now = counted()
        self.check(
            answered <= now <= sent,
            f"{server}: {answered} refusals reached the agent, {now} are in status, {sent} calls were made", now,
        )  # fmt: skip

    def upgrade(self) -> None:
        self.account.chapter("helm upgrade while the agent works")
        violations = self.violations()
        self.load(self.url)
        before = self.agent("count")
        old = {pod["metadata"]["name"] for pod in self.cluster.running("ml", GATEWAY + "mlflow")}
        tag = self.options.next
        self.cluster.run(
            "helm", "upgrade", "portcullis", "charts/portcullis", "-n", SYSTEM, "--reset-then-reuse-values",
            "--set", f"operator.image.tag={tag},gateway.image.tag={tag}", show=True,
        )  # fmt: skip
        self.cluster.rollout(SYSTEM, "deployment/portcullis-operator")

        def new_gateway() -> bool:
            pods = self.cluster.running("ml", GATEWAY + "mlflow")
            return any(
                pod["spec"]["containers"][0]["image"].endswith(f":{tag}") and pod["metadata"]["name"] not in old
                for pod in pods
            )

        until("the gateway runs the new image", new_gateway)
        self.judge(f"operators and gateway replaced by {tag}", before, self.steady())
        self.accounted(self.agent("stop"), violations, "mlflow")
        self.ready()

    def scale(self) -> None:
        self.account.chapter("A server without limits on two gateways")
        self.kubectl("apply", "-f", "tests/e2e/two-gateways.yaml", show=True)
        self.ready("reader")
        self.kubectl(
            "-n", "ml", "patch", SERVERS, "reader", "--type=merge", "-p", '{"spec":{"gateway":{"replicas":2}}}', show=True
        )
        until("both gateways run the policy", lambda: self.status("reader").get("replicas", {}).get("summary") == "2/2")
        self.ready("reader")
        self.kubectl("-n", "ml", "get", SERVERS, "-o", "wide", show=True)
        violations = self.violations("reader")
        self.load(self.status("reader")["url"])

        def served() -> list[int]:
            names = [pod["metadata"]["name"] for pod in self.cluster.running("ml", GATEWAY + "reader")]
            return [self.kubectl("-n", "ml", "logs", name).count('"tools/call"') for name in names]

        counts = until("both gateways have served calls", lambda: len(found := served()) == 2 and min(found) > 0 and found)
        self.check(len(counts) == 2, f"both serve the agent: {counts[0]} and {counts[1]} calls", counts)
        before = self.agent("count")
        self.replaced("ml", GATEWAY + "reader", [self.one_of("ml", GATEWAY + "reader")])
        self.judge("one of two gateways replaced", before, self.steady())
        self.accounted(self.agent("stop"), violations, "reader")

    def uninstall(self) -> None:
        self.account.chapter("helm uninstall keeps the definitions and what they define")
        total = self.violations()["total"]
        self.cluster.run("helm", "uninstall", "portcullis", "-n", SYSTEM, "--wait", show=True)
        self.kubectl("-n", "ml", "get", SERVERS, show=True)
        kept = sorted(item["metadata"]["name"] for item in self.cluster.items("-n", "ml", SERVERS))
        crds = sum(".portcullis.dev" in item["metadata"]["name"] for item in self.cluster.items("crds"))
        self.check((crds, kept) == (3, ["mlflow", "reader"]), "three definitions and both servers are still there", (crds, kept))
        self.agent("open", url=self.url)
        hidden = self.agent("call", tool="delete_experiment", arguments={"experiment_id": self.victims[0]})
        read = self.agent("call", tool="get_run_metric", arguments={"run_id": self.seed["best_run_id"], "metric_name": "loss"})
        self.check(
            (hidden["code"], read["ok"]) == (UNKNOWN_TOOL, True),
            "the gateway goes on enforcing without an operator: reads answered, deletions unknown", (hidden, read),
        )  # fmt: skip

        options = self.options
        self.cluster.run(
            "helm", "install", "portcullis", "charts/portcullis", "-n", SYSTEM, "--set", f"imageRegistry={options.registry}",
            "--set", f"operator.image.tag={options.tag},gateway.image.tag={options.tag}", show=True,
        )  # fmt: skip
        self.cluster.rollout(SYSTEM, "deployment/portcullis-operator")
        self.ready()
        until("the refusal without an operator is counted", lambda: self.violations()["total"] >= total + 1)
        self.check(
            self.violations()["total"] == total + 1,
            f"installed again, it takes over, and counts the refusal of meanwhile: {total + 1}", self.violations(),
        )  # fmt: skip
        self.kubectl("-n", "ml", "delete", f"{SERVERS},{POLICIES}", "--all", show=True)
        mine = "app.kubernetes.io/managed-by=portcullis"
        kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,secrets,pods"
        until("all that the operator made is gone", lambda: self.cluster.items("-n", "ml", kinds, "-l", mine) == [])
        self.check(True, "servers and policies deleted: nothing that the operator made for them is left")
        self.cluster.run("helm", "uninstall", "portcullis", "-n", SYSTEM, "--wait", show=True)

    def end(self) -> None:
        self.account.chapter("And MLflow")
        found = self.truth()
        self.check(found == self.after_use, "holds all experiments, the 30 tags and the champion, as before the disturbances", found)

    def play(self) -> None:
        steps = [self.world, self.install, self.quickstart, self.use, self.seen, self.edit, self.disturb, self.upgrade, self.scale]
        if not self.options.keep:
            steps.append(self.uninstall)
        for step in [*steps, self.end]:
            step()

    def close(self) -> None:
        for program in self.programs:
            program.close()


def keep_running(run: Run) -> None:
    print(f"\n{run.account.paint('1', 'Still running')}:\n")
    run.account.line(f"export KUBECONFIG={os.environ['KUBECONFIG']} PATH={run.options.tools}:$PATH")
    run.account.line("kubectl -n ml get mcpservers.portcullis.dev,mcppolicies.portcullis.dev")
    run.account.line("kubectl -n ml port-forward service/mlflow-gateway 8080:8080      # then, in another terminal:")
    run.account.line("claude mcp add --transport http mlflow http://127.0.0.1:8080/mcp")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--registry", required=True, help="what goes in front of the images' names")
    parser.add_argument("--tag", required=True, help="of the images to install")
    parser.add_argument("--next", required=True, help="of the images to upgrade to")
    parser.add_argument("--tools", default="", help="folder of kubectl and helm, for --keep to name")
    parser.add_argument("--show", action="store_true", help="print each command and what came back")
    parser.add_argument("--keep", action="store_true", help="leave Portcullis and MLflow in the cluster")
    options = parser.parse_args()

    def interrupted(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    os.chdir(ROOT)
    account = Account(options.show)
    run = Run(options, account)
    try:
        run.play()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except Failed as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    finally:
        run.close()
    total = account.held + account.failed
    if account.failed:
        print(f"\n{account.paint('31', f'{account.failed} of {total} did not happen')}")
        return 1
    print(f"\n{account.paint('32', f'All {total} happened')}")
    if options.keep:
        keep_running(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
