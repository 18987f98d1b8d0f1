# Job: guard an MLflow from nothing, from the documentation alone.
steps docs/tutorials/guard.md

check 'the agent sees 35 tools' \
  bash -c "python3 examples/agent/call.py http://127.0.0.1:$GATEWAY_PORT/mlflow/mcp | wc -l | grep -x '35'"
check 'MLflow itself still has the experiment' mlflow_says 'experiments/get?experiment_id=0' '"lifecycle_stage": "active"'
