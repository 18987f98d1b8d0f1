"""Runs in the workbench's pod, beside MLflow: says what is true. Orders and answers as in pod_agent.py.

    {"id": 1, "do": "seed"}                      fills MLflow; what was made
    {"id": 2, "do": "direct"}                    names of the tools that mlflow-mcp has with nothing in front
    {"id": 3, "do": "truth", …}                  what MLflow holds now
    {"id": 4, "do": "history", "run": …, "metric": …}
    {"id": 5, "do": "alias", "model": …, "alias": …, "version": …} moves an alias
    {"id": 6, "do": "aliases", "model": …}       the aliases of a model, with their versions
    {"id": 7, "do": "experiments", "names": […]} makes experiments; their ids
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import Any

sys.path.insert(0, "/code")
from agent import over_stdio
from mlflow import MlflowClient
from seed import seed

client = MlflowClient()


async def direct() -> list[str]:
    with open(os.devnull, "w") as log:
        async with over_stdio("mlflow-mcp", dict(os.environ), log) as agent:
            return await agent.tools()


def truth(order: dict[str, Any]) -> dict[str, Any]:
    experiments = [client.get_experiment(experiment) for experiment in order["experiments"]]
    return {
        "stages": [experiment.lifecycle_stage for experiment in experiments],
        "tags": sorted(key for key in experiments[0].tags if not key.startswith("mlflow.")),
        "champion": str(client.get_registered_model(order["model"]).aliases.get("champion")),
    }


for line in sys.stdin:
    order = json.loads(line)
    try:
        match order["do"]:
            case "seed":
                result: Any = asdict(seed(os.environ["MLFLOW_TRACKING_URI"]))
            case "direct":
                result = asyncio.run(direct())
            case "truth":
                result = truth(order)
            case "history":
                points = client.get_metric_history(order["run"], order["metric"])
                result = [[point.step, point.value] for point in points]
            case "alias":
                result = client.set_registered_model_alias(order["model"], order["alias"], order["version"])
            case "aliases":
                aliases = client.get_registered_model(order["model"]).aliases
                result = {alias: str(version) for alias, version in aliases.items()}
            case "experiments":
                result = [client.create_experiment(name) for name in order["names"]]
            case other:
                raise ValueError(f"there is no order {other!r}")
        reply = {"id": order["id"], "result": result}
    except Exception as error:  # noqa: BLE001 - told to who asked
        reply = {"id": order["id"], "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), flush=True)
