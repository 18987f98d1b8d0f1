# The commands of README.md.
steps README.md

check 'the gateway answers the agents that README.md connects' \
  bash -c "python3 examples/agent/call.py http://127.0.0.1:$GATEWAY_PORT/mlflow/mcp get_experiments | grep -F Default"
