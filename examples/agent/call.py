"""Calls one tool of an MCP server over HTTP, as an agent would, and prints what the agent reads. Needs Python 3.9 alone.

    python3 examples/agent/call.py URL                      lists the tools
    python3 examples/agent/call.py URL TOOL '{"a": "b"}'    calls one; the exit status is 1 if the call failed

A call that waits for approval is repeated, as its answer asks, until a person has decided. The environment variable KEY is sent as `Authorization: Bearer …`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request

VERSION = "2025-11-25"


class Server:
    def __init__(self, url: str) -> None:
        self.url = url
        self.headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if "KEY" in os.environ:
            self.headers["Authorization"] = f"Bearer {os.environ['KEY']}"
        self.id = 0

    def send(self, method: str, params: dict | None = None, notification: bool = False) -> dict:
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if not notification:
            self.id += 1
            message["id"] = self.id
        request = urllib.request.Request(self.url, json.dumps(message).encode(), self.headers)
        try:
            with urllib.request.urlopen(request) as answer:
                if session := answer.headers.get("Mcp-Session-Id"):
                    self.headers["Mcp-Session-Id"] = session
                body = answer.read().decode()
                if answer.headers.get_content_type() == "text/event-stream":
                    events = [line[5:] for line in body.splitlines() if line.startswith("data:")]
                    body = next(event for event in events if '"id"' in event)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"HTTP {error.code}: {error.read().decode().strip()}") from None
        return json.loads(body) if body else {}

    def begin(self) -> None:
        client = {"name": "call.py", "version": "1"}
        self.send("initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": client})
        self.headers["MCP-Protocol-Version"] = VERSION
        self.send("notifications/initialized", notification=True)

    def end(self) -> None:
        request = urllib.request.Request(self.url, headers=self.headers, method="DELETE")
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError:
            pass  # a server may not let clients end sessions


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    server = Server(sys.argv[1])
    server.begin()
    try:
        if len(sys.argv) == 2:
            tools = server.send("tools/list")["result"]["tools"]
            print("\n".join(sorted(tool["name"] for tool in tools)))
            return 0
        arguments = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
        call = {"name": sys.argv[2], "arguments": arguments}
        answer = server.send("tools/call", call)
        while "Approval pending" in json.dumps(answer):
            print("waits for approval", file=sys.stderr)
            time.sleep(answer["result"]["_meta"]["portcullis.dev/retryAfterMs"] / 1000)
            answer = server.send("tools/call", call)
        if "error" in answer:
            print(f"error {answer['error']['code']}: {answer['error']['message']}")
            return 1
        print("\n".join(part.get("text", "") for part in answer["result"]["content"]))
        return 1 if answer["result"].get("isError") else 0
    finally:
        server.end()


sys.exit(main())
