# Job: find out why a call was denied and correct it, from the documentation alone.
steps docs/tutorials/denied.md

check 'MLflow itself has the tag that was denied before' mlflow_says 'experiments/get?experiment_id=0' '"value": "trial"'
check 'the refused call and the corrected one were decided by different texts' \
  bash -c "grep set_experiment_tag audit.jsonl | jq -r .revision | sort -u | wc -l | grep -x '2'"
check 'validate prints the revision of the call that passed' \
  bash -c "portcullis validate careful -o yaml | grep -F \"\$(jq -r 'select(.outcome == \"allowed\") | .revision' audit.jsonl | tail -n 1)\""
