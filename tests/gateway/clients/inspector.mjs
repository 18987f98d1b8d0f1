// The command line of the MCP Inspector: `node inspector.mjs MODULES inspector URL STEPS`, as node.mjs beside it. Each step is a run
// of the program, with a session of its own; an error is what it says before it ends.
import { execFile } from 'node:child_process';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

const [modules, , url, steps] = process.argv.slice(2);
// It finds its own package only from here.
const cwd = join(modules, '@modelcontextprotocol/inspector-cli/build');
const program = join(cwd, 'index.js');
const run = (args) =>
  new Promise((done) => {
    execFile(process.execPath, [program, url, '--transport', 'http', ...args], { cwd }, (error, out, err) => done({ error, out, err }));
  });
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const out = [];
for (const [what, name, args] of JSON.parse(steps)) {
  if (what === 'wait') {
    console.log('wait');
    await lines.next();
    out.push(null);
    continue;
  }
  const given = Object.entries(args ?? {}).flatMap(([key, value]) => ['--tool-arg', `${key}=${value}`]);
  const method = what === 'list' ? ['--method', 'tools/list'] : ['--method', 'tools/call', '--tool-name', name, ...given];
  const said = await run(method);
  if (said.error) {
    // The program tells what went wrong in words alone.
    out.push({ code: Number(/MCP error (-\d+)/.exec(said.err)?.[1] ?? 0), message: said.err });
  } else {
    const result = JSON.parse(said.out);
    out.push(what === 'list' ? result.tools.map((tool) => tool.name).sort() : [result.isError === true, result.content[0]?.text ?? '']);
  }
}
console.log(JSON.stringify({ version: null, steps: out }));
process.exit(0);
