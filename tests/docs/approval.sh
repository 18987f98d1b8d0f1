# Job: approve a promotion, from the documentation alone.
steps docs/tutorials/approval.md
wait "$last" || true   # the call of the agent, which ends with the answer of the server

check 'MLflow itself has the second version as champion' \
  mlflow_says 'registered-models/alias?name=churn&alias=champion' '"version": "2"'
check 'the approval was used once' bash -c "jq -c 'select(.step == \"consumed\")' audit.jsonl | wc -l | grep -x '1'"
check 'no key is in the log' bash -c '! grep -F "$(cat trainer.key)" audit.jsonl'
