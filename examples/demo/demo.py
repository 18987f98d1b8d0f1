"""The demo: an agent works on a real MLflow through Portcullis, and the demo checks every step in MLflow itself.

In: the built `portcullis`. Out: a report on standard output; exit status 1 if any step in it failed. run.sh
starts this with the Python that has MLflow, mlflow-mcp and the MCP client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import textwrap
import time
import traceback
from importlib.metadata import version
from typing import Any

from world import BIN, DemoError, World

ALLOWED_PER_MINUTE = 30
UNKNOWN_TOOL = -32602  # the protocol's error code for a tool that does not exist


class Account:
    """The printed report, and the number of checks that passed and failed."""

    def __init__(self) -> None:
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.held = 0
        self.failed = 0
        self._chapter = 0

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        print(f"  {text}" if text else "", flush=True)

    def dim(self, text: str) -> None:
        self.line(self.paint("2", text))

    def chapter(self, title: str) -> None:
        self._chapter += 1
        print(f"\n{self.paint('1', f'{self._chapter}  {title}')}", flush=True)

    def check(self, happened: bool, text: str, otherwise: object = "") -> None:
        if happened:
            self.held += 1
            first, *rest = textwrap.wrap(text, 104, break_long_words=False, break_on_hyphens=False)
            self.line(f"{self.paint('32', '✓')} {first}")
            for line in rest:
                self.line(f"  {line}")
        else:
            self.failed += 1
            detail = f"\n      instead: {otherwise}" if otherwise != "" else ""
            self.line(f"{self.paint('31', '✗')} {text}{detail}")


def progress(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


async def until(happens: Any, seconds: float) -> Any:
    """Polls until the function returns something or the time is up; returns the last result."""
    deadline = time.monotonic() + seconds
    while True:
        found = await asyncio.to_thread(happens)
        if found or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(0.1)


def prepare(world: World, account: Account) -> tuple[Any, Any]:
    """Starts everything and fills MLflow. Returns a client of MLflow itself, and the seeded data."""
    # Imported late: MLflow takes seconds, and the environment must be clean before.
    progress("Loading MLflow")
    from mlflow import MlflowClient

    import seed as seeds

    progress("Starting an MLflow server on SQLite")
    mlflow_url = world.mlflow()
    progress("Training four models and registering three")
    seed = seeds.seed(mlflow_url)
    progress("Starting portcullis serve -f examples/quickstart")
    world.gateway(mlflow_url)

    print(f"\n{account.paint('1', 'Portcullis')}: an agent, a policy and a real MLflow", flush=True)
    account.line(
        f"MLflow {version('mlflow')}     {mlflow_url}, {len(seed.run_ids)} runs with {seed.metrics} metric values,"
        f" the model {seed.model!r} in 3 versions"
    )
    account.line(f"mlflow-mcp {version('mlflow-mcp')}  behind {world.url}")
    account.line("Policy            examples/quickstart/policy.yaml")
    return MlflowClient(tracking_uri=mlflow_url), seed


async def play(world: World, account: Account, mlflow: Any, seed: Any) -> None:
    import agent as agents

    with (world.folder / "mlflow-mcp.log").open("wb") as log:
        env = {**world.env, "MLFLOW_TRACKING_URI": mlflow.tracking_uri}
        async with agents.over_stdio(str(BIN / "mlflow-mcp"), env, log) as direct:
            without = set(await direct.tools())
            prompts_without = await direct.prompts()

    async with agents.over_http(world.url) as agent:
        within = await lists(world, account, agent, without, prompts_without)
        await reads(account, agent, mlflow, seed)
        await writes(world, account, agent, mlflow, seed)
        await deletes(world, account, agent, mlflow, seed, within)
        await promotes(world, account, agent, mlflow, seed)
    await counts(world, account)


async def lists(world: World, account: Account, agent: Any, without: set[str], prompts_without: list[str]) -> set[str]:
    account.chapter("What the agent can see")
    classes: dict[str, list[str]] = {}
    for entry in catalogue(world):
        if entry["name"] in without:
            classes.setdefault(entry["risk"], []).append(entry["name"])
    within = set(await agent.tools())
    account.dim(f"{'':<26}{'without':>9}{'with Portcullis':>18}")
    for title, names in (
        ("tools", without),
        ("  that read", set(classes.get("Read", []))),
        ("  that write", set(classes.get("Write", []))),
        ("  that delete", set(classes.get("Destructive", []))),
    ):
        account.line(f"{title:<26}{len(names):>9}{len(names & within):>18}")
    try:
        prompts = await agent.prompts()
    except Exception as error:  # noqa: BLE001 - shown as the actual result
        prompts = [str(error)]
    account.line(f"{'prompts':<26}{len(prompts_without):>9}{len(prompts):>18}")
    account.check(
        (len(without), len(within)) == (40, 35) and within < without,
        "mlflow-mcp offers 40 tools; the agent sees 35 of them",
        f"{len(without)} and {len(within)}",
    )
    account.check(
        without - within == set(classes.get("Destructive", [])),
        f"the other 5 are those that delete: {', '.join(sorted(without - within))}",
        sorted(without - within),
    )
    account.check(prompts == [] and len(prompts_without) > 0, "no prompt is offered, because the policy allows none", prompts)
    return within


def catalogue(world: World) -> list[dict[str, Any]]:
    return json.loads(world.command("catalog", "-o", "json"))


async def reads(account: Account, agent: Any, mlflow: Any, seed: Any) -> None:
    account.chapter("Reads are free")
    answer = await agent.call("get_run_metric", run_id=seed.best_run_id, metric_name="loss")
    received = [(point.get("step"), point.get("value")) for point in answer.values if isinstance(point, dict)]
    history = await asyncio.to_thread(mlflow.get_metric_history, seed.best_run_id, "loss")
    true = [(metric.step, metric.value) for metric in history]
    account.check(
        answer.ok and received == true and len(true) > 1,
        f"get_run_metric: {len(true)} points of loss, {true[0][1]:.3f} → {true[-1][1]:.3f}, the same as in MLflow",
        answer.text[:200],
    )


async def writes(world: World, account: Account, agent: Any, mlflow: Any, seed: Any) -> None:
    account.chapter("Writes are limited: 30 tags in any minute")
    before = world.requests("POST", "experiments/set-experiment-tag")
    started = time.monotonic()
    answers = []
    for number in range(1, ALLOWED_PER_MINUTE + 2):
        answers.append(
            await agent.call(
                "set_experiment_tag", experiment_id=seed.experiment_id, key=f"note-{number:02}", value="by the agent"
            )
        )
    took = time.monotonic() - started
    allowed = sum(answer.ok for answer in answers)
    last = answers[-1]
    wait = last.retry_after_ms
    account.check(
        allowed == ALLOWED_PER_MINUTE and not last.ok,
        f"set_experiment_tag: {allowed} calls in {took:.1f} s allowed, the next one refused",
        [answer.text for answer in answers if not answer.ok][:2],
    )
    account.check(
        isinstance(wait, int) and 0 < wait <= 60_000 and "Retry after" in last.text,
        f"the answer to the agent: “{last.text}”",
        (last.text, wait),
    )
    tags = (await asyncio.to_thread(mlflow.get_experiment, seed.experiment_id)).tags
    written = sum(key.startswith("note-") for key in tags)
    asked = world.requests("POST", "experiments/set-experiment-tag") - before
    account.check(
        written == asked == ALLOWED_PER_MINUTE,
        f"MLflow has {written} new tags and was asked {asked} times",
        f"{written} tags, {asked} requests",
    )


async def deletes(world: World, account: Account, agent: Any, mlflow: Any, seed: Any, within: set[str]) -> None:
    account.chapter("Deletions do not exist")

    def experiment() -> str | None:
        stage = mlflow.get_experiment(seed.experiment_id).lifecycle_stage
        return f"experiment {seed.experiment_id} is active" if stage == "active" else None

    def run() -> str | None:
        stage = mlflow.get_run(seed.best_run_id).info.lifecycle_stage
        return f"run {seed.best_run_id[:8]}… is active" if stage == "active" else None

    def alias() -> str | None:
        found = mlflow.get_registered_model(seed.model).aliases.get("champion")
        return f"champion is version {found}" if str(found) == seed.champion else None

    for tool, arguments, still_there in (
        ("delete_experiment", {"experiment_id": seed.experiment_id}, experiment),
        ("delete_run", {"run_id": seed.best_run_id}, run),
        ("delete_model_alias", {"name": seed.model, "alias": "champion"}, alias),
    ):
        answer = await agent.call(tool, **arguments)
        there = await asyncio.to_thread(still_there)
        account.check(
            tool not in within and not answer.ok and answer.code == UNKNOWN_TOOL and there is not None,
            f"{tool:<19} not listed; called anyway: “{answer.text}”; {there}",
            answer,
        )
    asked = sum(
        world.requests(method, path)
        for method, path in (
            ("POST", "experiments/delete"),
            ("POST", "runs/delete"),
            ("DELETE", "registered-models/alias"),
        )
    )
    account.check(asked == 0, "MLflow was never asked to delete anything", f"{asked} requests")


async def promotes(world: World, account: Account, agent: Any, mlflow: Any, seed: Any) -> None:
    account.chapter("Promotions wait for a person")

    def champion() -> str:
        return str(mlflow.get_registered_model(seed.model).aliases.get("champion"))

    def pending() -> list[dict[str, Any]]:
        return json.loads(world.command("approvals", "list", "--pending", "-o", "json"))

    def promotion() -> asyncio.Task[Any]:
        call = agent.call("set_model_alias", name=seed.model, alias="champion", version=seed.challenger)
        return asyncio.create_task(call)

    before = world.requests("POST", "registered-models/alias")

    def executions() -> int:
        return world.requests("POST", "registered-models/alias") - before

    call = promotion()
    waiting = await until(pending, 30)
    now = await asyncio.to_thread(champion)
    account.check(
        len(waiting) == 1 and not call.done() and now == seed.champion and executions() == 0,
        f"set_model_alias champion → version {seed.challenger} is held; MLflow still says version {now}",
        (waiting, call.done() and call.result(), now, executions()),
    )
    if not waiting:
        call.cancel()
        return
    name = waiting[0]["metadata"]["name"]
    # At a terminal, `approve` shows the call and asks; here the digest says which call was
    # reviewed.
    seen = waiting[0]["spec"]["argumentsDigest"][:len("sha256:") + 16]
    account.dim(f"$ portcullis approvals approve {name} --yes --digest {seen} --reason 'lower loss'")
    printed = await asyncio.to_thread(
        world.command, "approvals", "approve", name, "--yes", "--digest", seen, "--reason", "lower loss")
    account.dim(printed)
    answer = await call
    if not answer.ok and answer.text.startswith("Approval pending"):
        # The machine was slower than the hold: the agent repeats the call, as the answer asks it
        # to.
        answer = await promotion()
    now = await asyncio.to_thread(champion)
    account.check(
        answer.ok and now == seed.challenger and executions() == 1,
        f"the call goes through; MLflow says version {now} and was asked once",
        (answer, now, executions()),
    )

    # The same call once more: an approval is valid for one execution.
    await asyncio.to_thread(mlflow.set_registered_model_alias, seed.model, "champion", seed.champion)
    before += 1
    call = promotion()
    waiting = await until(pending, 30)
    if not waiting:
        account.check(False, "the same call again needs a new approval", call.done() and call.result())
        call.cancel()
        return
    again = waiting[0]["metadata"]["name"]
    await asyncio.to_thread(world.command, "approvals", "deny", again, "--reason", "once is enough")
    answer = await call
    now = await asyncio.to_thread(champion)
    account.check(
        again != name and not answer.ok and now == seed.champion and executions() == 1,
        f"the team moves champion back, the agent repeats its call: a new approval, {again}",
        (again, answer, now, executions()),
    )
    account.check(
        "once is enough" in answer.text,
        f"denied this time, the answer to the agent: “{answer.text}”",
        answer.text,
    )


async def counts(world: World, account: Account) -> None:
    account.chapter("What Portcullis counted")
    status = await asyncio.to_thread(world.command, "status")
    for line in status.splitlines():
        account.dim(line)
    outcomes: dict[str, int] = {}
    for line in world.audit.read_text().splitlines():
        record = json.loads(line)
        if record.get("method") == "tools/call":
            outcomes[record["outcome"]] = outcomes.get(record["outcome"], 0) + 1
    account.check(
        (outcomes.get("allowed"), outcomes.get("hidden"), outcomes.get("limited")) == (ALLOWED_PER_MINUTE + 2, 3, 1)
        and outcomes.get("unapproved", 0) >= 1,
        "the audit log has a line for each call: "
        + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
        outcomes,
    )


def keep_running(world: World, account: Account, url: str) -> None:
    stop = world.folder / "stop.sh"
    groups = " ".join(f"-{pid}" for pid in reversed(world.pids()))
    stop.write_text(
        f"#!/bin/sh\n# Stops the demo, by the process groups that it started.\nkill -s TERM -- {groups}\nsleep 3\n"
        f"kill -s KILL -- {groups} 2>/dev/null\nrm -rf '{world.folder}'\n"
    )
    print(f"\n{account.paint('1', 'Still running')}, for your own agent:\n")
    account.line(f"URL           {url}")
    account.line(f"Claude Code   claude mcp add --transport http mlflow {url}")
    account.line(f'Cursor        ~/.cursor/mcp.json: {{"mcpServers": {{"mlflow": {{"url": "{url}"}}}}}}')
    account.line(f"Approvals     {world.portcullis} approvals list --socket {world.socket}")
    account.line(f"Status        {world.portcullis} status --socket {world.socket}")
    account.line(f"Audit log     {world.audit}")
    account.line(f"Stop it       sh {stop}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--portcullis", required=True)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()

    def interrupted(_number: int, _frame: object) -> None:
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)

    started = time.monotonic()
    world = World(options.portcullis)
    os.environ.clear()
    os.environ.update(world.env)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    account = Account()
    left_running = False
    try:
        mlflow, seed = prepare(world, account)
        asyncio.run(play(world, account, mlflow, seed))
        seconds = time.monotonic() - started
        total = account.held + account.failed
        if account.failed:
            print(f"\n{account.paint('31', f'{account.failed} of {total} did not happen')} ({seconds:.0f} s)")
            return 1
        print(f"\n{account.paint('32', f'All {total} happened')}, checked in MLflow itself ({seconds:.0f} s)")
        if options.keep:
            keep_running(world, account, world.url)
            left_running = True
        return 0
    except KeyboardInterrupt:
        print("\nInterrupted; stopping what was started.", file=sys.stderr)
        return 130
    except (DemoError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except BaseExceptionGroup as group:  # what the MCP client's task groups raise
        traceback.print_exception(group)
        return 1
    finally:
        if not left_running:
            world.close()
            print("Nothing is left running.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
