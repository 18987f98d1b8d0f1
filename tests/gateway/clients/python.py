"""An agent's session with the Python SDK, 1.x or 2.x, or with fastmcp where it is installed: what it asks for is on the command line, what it got on standard output.

    python python.py URL STEPS

STEPS is a JSON list of ["list"], ["call", TOOL, ARGUMENTS], ["watch", TOOL, ARGUMENTS], a call that asks for progress, and
["wait"], which prints a line and goes on when it gets one.
Prints one JSON document: the negotiated version and, for each step, the names of the tools, or [is_error, text], with a
list of [progress, message] for a watched call, or {"code", "message"} of a JSON-RPC error.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from importlib.util import find_spec


FASTMCP = find_spec("fastmcp") is not None
# It raises the errors of tools unless it is asked not to.
PROGRESS, CALL = ("progress_handler", {"raise_on_error": False}) if FASTMCP else ("progress_callback", {})


def failed(error):
    data = error.error
    return {"code": data.code, "message": data.message}


async def steps(session, wanted, rpc_error):
    out = []
    for step in wanted:
        try:
            if step[0] == "wait":
                print("wait", flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
                out.append(None)
            elif step[0] == "list":
                listed = await session.list_tools()
                out.append(sorted(tool.name for tool in getattr(listed, "tools", listed)))
            else:
                told = []

                async def progress(value, _total, message):
                    told.append([value, message])

                watch = {PROGRESS: progress} if step[0] == "watch" else {}
                result = await session.call_tool(step[1], step[2], **watch, **CALL)
                failure = getattr(result, "is_error", getattr(result, "isError", None))
                text = result.content[0].text if result.content else ""
                out.append([bool(failure), text, *([told] if watch else [])])
        except rpc_error as error:
            out.append(failed(error))
    return out


async def first(url, wanted):
    from mcp import ClientSession, McpError
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        started = await session.initialize()
        return {"version": started.protocolVersion, "steps": await steps(session, wanted, McpError)}


async def second(url, wanted):
    from mcp.client.client import Client
    from mcp.shared.exceptions import MCPError

    # The default: asks as 2026-07-28 first.
    async with Client(url) as client:
        return {"version": client.protocol_version, "steps": await steps(client, wanted, MCPError)}


async def fast(url, wanted):
    from fastmcp import Client
    from fastmcp.exceptions import MCPError

    async with Client(url) as client:
        return {"version": client.protocol_version, "steps": await steps(client, wanted, MCPError)}


async def main():
    run = fast if FASTMCP else first if version("mcp").startswith("1.") else second
    print(json.dumps(await asyncio.wait_for(run(sys.argv[1], json.loads(sys.argv[2])), 60)))


asyncio.run(main())
