// An agent's session with the TypeScript SDK: `node node.mjs MODULES sdk|client URL STEPS`, as python.py beside it.
// MODULES is the node_modules folder with @modelcontextprotocol/sdk (1.x) and @modelcontextprotocol/client (2.x).
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const [modules, which, url, steps] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(join(modules, '@modelcontextprotocol', path)));

let client, transport;
if (which === 'sdk') {
  const { Client } = await load('sdk/dist/esm/client/index.js');
  const { StreamableHTTPClientTransport } = await load('sdk/dist/esm/client/streamableHttp.js');
  client = new Client({ name: 'test', version: '0' });
  transport = new StreamableHTTPClientTransport(new URL(url));
} else {
  const { Client, StreamableHTTPClientTransport } = await load('client/dist/index.mjs');
  // Asks as 2026-07-28 first.
  client = new Client({ name: 'test', version: '0' }, { versionNegotiation: { mode: 'auto' } });
  transport = new StreamableHTTPClientTransport(new URL(url));
}
await client.connect(transport);
const out = [];
for (const [what, name, args] of JSON.parse(steps)) {
  try {
    if (what === 'list') {
      out.push((await client.listTools()).tools.map((tool) => tool.name).sort());
    } else {
      // A watched call asks for progress, and gives up after 3 s without any.
      const told = [];
      const onprogress = ({ progress, message }) => told.push([progress, message]);
      const options = what === 'watch' ? { onprogress, resetTimeoutOnProgress: true, timeout: 3000 } : undefined;
      const params = { name, arguments: args };
      const result = await (which === 'sdk' ? client.callTool(params, undefined, options) : client.callTool(params, options));
      const answer = [result.isError === true, result.content[0]?.text ?? ''];
      out.push(options ? [...answer, told] : answer);
    }
  } catch (error) {
    if (typeof error.code !== 'number') throw error;
    out.push({ code: error.code, message: error.message });
  }
}
await client.close();
console.log(JSON.stringify({ version: transport.protocolVersion ?? null, steps: out }));
