import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { errorText, GridError } from '#kernel/errors.js';
import { printJson, tell } from './print.js';
import type { Session } from './profile.js';

const protocol = 'UNICORE-Socket-Forwarding';

export type ForwardOptions = {
  readonly host?: string;
  readonly loginNode?: string;
  readonly bind: string;
};
type Wish = { readonly localPort: number; readonly query: URLSearchParams };

/** `8080:80`, `8080:db.internal:5432`, `8080:run/service.sock`; the local port may be 0: a free one. */
export function parseForward(text: string, options: Omit<ForwardOptions, 'bind'> = {}): Wish {
  const [, local = '', host, remote = ''] = /^(\d{1,5}):(?:(.+):)?([^:]+)$/.exec(text) ?? [];
  const localPort = Number(local);
  if (local === '' || localPort > 65_535)
    throw new GridError(
      'BAD_REQUEST',
      `${text}: must be <local port>:<remote port>, such as 8080:80`,
    );
  const query = new URLSearchParams(
    /^\d+$/.test(remote)
      ? { port: remote, host: host ?? options.host ?? 'localhost' }
      : { file: remote },
  );
  if (options.loginNode !== undefined) query.set('loginNode', options.loginNode);
  return { localPort, query };
}

/** Listens here, and connects whoever comes with a service near a job; until the signal. */
export async function forwardPort(
  session: Session,
  jobId: string,
  wish: string,
  options: ForwardOptions,
  { asJson, signal }: { readonly asJson: boolean; readonly signal: AbortSignal },
): Promise<void> {
  const { localPort, query } = parseForward(wish, options);
  const path = `${session.core}/jobs/${encodeURIComponent(jobId)}/forward-port?${query.toString()}`;
  await session.client.json('GET', path, undefined, { signal }); // may we, and does it make sense?
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    open.add(socket.on('error', () => undefined));
    socket.once('close', () => open.delete(socket));
    carry(session, path, socket, signal).catch((error: unknown) => {
      if (!signal.aborted) tell(`a connection ended: ${errorText(error)}`);
      socket.destroy();
    });
  });
  const port = await listening(server, localPort, options.bind);
  if (asJson) printJson({ host: options.bind, port });
  else tell(`forwarding ${options.bind}:${port} to job ${jobId}; Ctrl-C ends it`);
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  server.close();
  for (const socket of open) socket.destroy();
}

async function carry(
  { client }: Session,
  path: string,
  near: Socket,
  signal: AbortSignal,
): Promise<void> {
  const far = await client.upgrade(path, protocol, { signal });
  try {
    await Promise.all([pipeline(near, far, { signal }), pipeline(far, near, { signal })]);
  } finally {
    far.destroy();
  }
}

function listening(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const text = `cannot listen on ${host}:${port}: ${cause.message}`;
      reject(new GridError('BAD_REQUEST', text, {}, { cause }));
    });
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
  });
}
