import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
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
  await carryAll(
    { bind: options.bind, port: localPort, signal },
    () => session.client.upgrade(path, protocol, { signal }),
    (port) => {
      if (asJson) printJson({ host: options.bind, port });
      else tell(`forwarding ${options.bind}:${port} to job ${jobId}; Ctrl-C ends it`);
    },
  );
}

type Listening = { readonly bind: string; readonly port: number; readonly signal: AbortSignal };

/** Listens here, and carries the bytes of whoever comes, until the signal. @param tellPort hears where */
export async function carryAll(
  { bind, port, signal }: Listening,
  connect: () => Promise<Duplex>,
  tellPort: (port: number) => void,
): Promise<void> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    open.add(socket.on('error', () => undefined));
    socket.once('close', () => open.delete(socket));
    carry(connect, socket, signal).catch((error: unknown) => {
      if (!signal.aborted) tell(`a connection ended: ${errorText(error)}`);
      socket.destroy();
    });
  });
  tellPort(await listening(server, port, bind));
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  server.close();
  for (const socket of open) socket.destroy();
}

async function carry(
  connect: () => Promise<Duplex>,
  near: Socket,
  signal: AbortSignal,
): Promise<void> {
  const far = await connect();
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
