"""Fills an empty MLflow with what a small team would have: an experiment with four trained runs, a registered model
with three versions, and aliases on two of them.

In: the URI of a tracking server. Out: a `Seed` that says what was made. The runs are real: a churn classifier is
trained by gradient descent on made-up customers, and every epoch's loss and accuracy is logged.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

EXPERIMENT = "churn"
MODEL = "churn"
EPOCHS = 40
LEARNING_RATES = (0.01, 0.05, 0.2, 0.8)


@dataclass(frozen=True)
class Seed:
    model: str
    experiment_id: str
    run_ids: tuple[str, ...]
    best_run_id: str
    champion: str  # version that the alias champion points at before the demo
    challenger: str  # version that the agent will want to promote
    metrics: int  # metric values logged in all


def customers(count: int) -> tuple[list[list[float]], list[int]]:
    """Customers as (tenure, tickets, discount), and whether each left. The same ones each time."""
    dice = random.Random(7)
    rows, left = [], []
    for _ in range(count):
        row = [dice.gauss(0, 1), dice.gauss(0, 1), dice.gauss(0, 1)]
        leaning = -1.8 * row[0] + 1.3 * row[1] - 0.6 * row[2] + dice.gauss(0, 0.7)
        rows.append(row)
        left.append(int(leaning > 0))
    return rows, left


def train(rows: list[list[float]], left: list[int], rate: float) -> tuple[list[tuple[float, float]], list[float]]:
    """Logistic regression by gradient descent. Returns (loss, accuracy) of every epoch, and the weights."""
    weights = [0.0, 0.0, 0.0]
    history = []
    for _ in range(EPOCHS):
        slope = [0.0, 0.0, 0.0]
        loss, right = 0.0, 0
        for row, label in zip(rows, left):
            guess = 1 / (1 + math.exp(-sum(w * x for w, x in zip(weights, row))))
            loss -= math.log(guess if label else 1 - guess)
            right += int((guess > 0.5) == bool(label))
            for i, x in enumerate(row):
                slope[i] += (guess - label) * x
        weights = [w - rate * s / len(rows) for w, s in zip(weights, slope)]
        history.append((loss / len(rows), right / len(rows)))
    return history, weights


def seed(uri: str) -> Seed:
    # Otherwise it logs the creation of each version.
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=uri)
    experiment_id = client.create_experiment(EXPERIMENT)
    rows, left = customers(200)
    runs = []
    for rate in LEARNING_RATES:
        history, weights = train(rows, left, rate)
        run = client.create_run(experiment_id, run_name=f"lr-{rate}")
        now = int(time.time() * 1000)
        values = [
            Metric(name, value, now, epoch)
            for epoch, (loss, accuracy) in enumerate(history)
            for name, value in (("loss", loss), ("accuracy", accuracy))
        ]
        client.log_batch(
            run.info.run_id,
            metrics=values,
            params=[Param("learning_rate", str(rate)), Param("epochs", str(EPOCHS))],
            tags=[RunTag("team", "growth"), RunTag("dataset", "customers-2026-10")],
        )
        client.log_dict(run.info.run_id, {"weights": weights}, "model/weights.json")
        client.set_terminated(run.info.run_id, "FINISHED")
        runs.append((run.info.run_id, run.info.artifact_uri, history[-1][0]))

    client.create_registered_model(MODEL, description="Who is about to leave?")
    versions = [
        client.create_model_version(MODEL, f"{artifacts}/model", run_id).version for run_id, artifacts, _ in runs[1:]
    ]
    client.set_registered_model_alias(MODEL, "champion", versions[1])
    client.set_registered_model_alias(MODEL, "challenger", versions[2])
    return Seed(
        model=MODEL,
        experiment_id=experiment_id,
        run_ids=tuple(run_id for run_id, _, _ in runs),
        best_run_id=min(runs, key=lambda run: run[2])[0],
        champion=str(versions[1]),
        challenger=str(versions[2]),
        metrics=2 * EPOCHS * len(runs),
    )
