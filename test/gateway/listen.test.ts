import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { it } from 'node:test';
import { createLog } from '#kernel/log.js';
import { listen } from '#gateway/listen.js';

it('a server that cannot accept a connection says so and goes on', async () => {
  const lines: string[] = [];
  const log = createLog({ level: 'error', stream: { write: (line: string) => lines.push(line) } });
  const server = createServer();
  await listen(server, { host: 'localhost', port: 0 }, log);
  for (const code of ['EMFILE', 'ENOBUFS'])
    server.emit('error', Object.assign(new Error(`accept ${code}`), { code }));
  assert.deepEqual(
    ['EMFILE', 'ENOBUFS'].map((code, at) => lines[at]?.includes(code)),
    [true, true],
  );
  server.close();
});
