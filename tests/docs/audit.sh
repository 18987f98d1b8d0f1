# Job: audit first, then enforce, from the documentation alone.
steps docs/tutorials/audit.md

check 'under Audit the deletion took place' mlflow_says 'experiments/get?experiment_id=1' '"lifecycle_stage": "deleted"'
check 'under Enforce it did not' mlflow_says 'experiments/get?experiment_id=2' '"lifecycle_stage": "active"'
