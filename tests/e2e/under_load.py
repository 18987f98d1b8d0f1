"""What happens to a cluster: pods are deleted, the chart is upgraded, a server gets a second gateway. All under load.

In: what first_day.py leaves. Out: checks. While anything goes on, an agent makes one call that policy allows and several that
it hides, as fast as it is answered; load.py says which answers are right, which are none, and which are wrong. None may be
wrong, and every refusal that reached the agent must be in the server's status, once.
"""

from __future__ import annotations

import json
from typing import Any

from base import GATEWAY, OPERATOR, POLICIES, POLICY, SERVERS, SYSTEM, UPSTREAM, Base
from cluster import Failed, until


class UnderLoad(Base):
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
        wrong = sum(after["counts"].get(kind, 0) for kind in ("allowed wrong", "refused wrong", "wrong status"))
        why = {text: count for text, count in after["unavailable"].items() if count != before["unavailable"].get(text, 0)}
        self.check(
            wrong == 0 and right > 0 and (interruption or missed == 0),
            f"{what}: {right} right answers, {wrong} wrong, {missed} times none", (after["wrong"], why),
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
        # The server's process is another since, so the agent's session with it is over.
        self.agent("open", url=self.url)
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
        self.helm(
            "upgrade", "portcullis", "charts/portcullis", "-n", SYSTEM, "--reset-then-reuse-values",
            "--set", f"operator.image.tag={tag},gateway.image.tag={tag}",
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
