import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Agent, createServer, request } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Scope } from '#kernel/scope.js';
import type { NginxOptions } from './nginx.js';

/**
 * The least that Node can do for a request that passes a TLS proxy: no routes, no users, no log, an answer that is
 * always the same. As a program of its own: `plain-proxy.ts <key> <certificate> <answer> <socket>`.
 */
export async function startPlainProxy(
  scope: Scope,
  { directory, keyFile, certFile, answer }: NginxOptions,
): Promise<{ url: string; pid: number }> {
  const args = [import.meta.filename, keyFile, certFile, answer, `${directory}/plain.sock`];
  const child = spawn(process.execPath, [...process.execArgv, ...args], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  scope.defer(async () => {
    if (child.exitCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  const [port] = (await once(child, 'message')) as [number];
  return { url: `https://127.0.0.1:${port}`, pid: child.pid ?? 0 };
}

function serve([keyFile = '', certFile = '', answer = '', socketPath = '']: string[]): void {
  const headers = { 'content-type': 'application/json', 'content-length': answer.length };
  createServer((_, response) => response.writeHead(200, headers).end(answer)).listen(socketPath);
  const agent = new Agent({ keepAlive: true });
  const tls = { key: readFileSync(keyFile), cert: readFileSync(certFile) };
  const proxy = createTlsServer(tls, (incoming, response) => {
    const { url: path, method, headers: given } = incoming;
    const onward = { socketPath, agent, path, method, headers: given };
    const outgoing = request(onward, (got) => {
      response.writeHead(got.statusCode ?? 500, got.rawHeaders);
      got.pipe(response);
    });
    incoming.pipe(outgoing);
  });
  proxy.listen(0, '127.0.0.1', () => process.send?.((proxy.address() as AddressInfo).port));
}

if (process.argv[1] === import.meta.filename) serve(process.argv.slice(2));
