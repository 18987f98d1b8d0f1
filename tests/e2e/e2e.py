"""Portcullis on a cluster with pods: installed, used, edited, disturbed, upgraded and uninstalled, with a check of each step.

In: a cluster (KUBECONFIG) that has the images, empty of Portcullis; kubectl and helm on PATH. Out: an account on standard
output; exit status 1 if anything in it did not happen. With --show it prints what a person would type and what came back.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from base import POLICIES, ROOT, SERVERS, SYSTEM, UNKNOWN_TOOL
from callers import Callers
from causes import Causes
from cluster import Account, Failed, until
from first_day import FirstDay
from under_load import UnderLoad


class Run(FirstDay, Callers, Causes, UnderLoad):
    def uninstall(self) -> None:
        self.account.chapter("helm uninstall keeps the definitions and what they define")
        total = self.violations()["total"]
        self.helm("uninstall", "portcullis", "-n", SYSTEM, "--wait")
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
        self.helm(
            "install", "portcullis", "charts/portcullis", "-n", SYSTEM, "--set", f"imageRegistry={options.registry}",
            "--set", f"operator.image.tag={options.tag},gateway.image.tag={options.tag}",
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
        self.helm("uninstall", "portcullis", "-n", SYSTEM, "--wait")

    def end(self) -> None:
        self.account.chapter("And MLflow")
        found = self.truth()
        self.check(found == self.after_use, "holds all experiments, the 30 tags and the champion, as before the disturbances", found)

    def play(self) -> None:
        steps = [self.world, self.install, self.quickstart, self.use, self.seen, self.edit, self.callers, self.causes, self.disturb, self.upgrade, self.scale]
        if not self.options.keep:
            steps.append(self.uninstall)
        for step in [*steps, self.end]:
            step()


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
