import { once } from 'node:events';
import type { WebSocket } from '#kernel/http/client-websocket.js';
import { GridError } from '#kernel/errors.js';
import { tell } from './print.js';
import type { Session } from './profile.js';

export type ConsoleOptions = {
  /** Only what there is in the log. */
  readonly log?: boolean;
  readonly watch?: boolean;
  readonly force?: boolean;
};

/** `Ctrl-]`, as telnet and virsh have it: the guest gets every other key. */
const escape = 0x1d;
const normalEnd = 1000;

/** The console of the machine at this terminal, until the escape key, the end of the machine or a signal. */
export async function openConsole(
  session: Session,
  siteId: string,
  options: ConsoleOptions,
  signal: AbortSignal,
): Promise<void> {
  if (options.log) {
    await showLog(session, siteId);
    return;
  }
  const { watch = false, force = false } = options;
  if (watch && force)
    throw new GridError('BAD_REQUEST', 'watch, force: who only looks on takes nothing over');
  const wish = { siteId, ...(watch && { watch: 'true' }), ...(force && { force: 'true' }) };
  const address = session.service.address('/sites/:siteId/console', wish);
  const socket = await session.client.webSocket(address, { signal });
  tell(`console of ${siteId}${watch ? ', to look at' : ''}; Ctrl-] ends it`);
  const { stdin } = process;
  const onKeys = (keys: Buffer): void => take(keys, socket, watch);
  if (stdin.isTTY) stdin.setRawMode(true);
  try {
    socket.on('error', () => undefined); // `close` follows
    socket.on('message', (data) => {
      // as: by its binaryType, the default
      if (!process.stdout.write(data as Buffer)) {
        socket.pause();
        process.stdout.once('drain', () => socket.resume());
      }
    });
    stdin.on('data', onKeys);
    const closed = once(socket, 'close');
    socket.resume();
    const [code, reason] = (await closed) as [number, Buffer];
    const why = reason.toString() || 'the connection has ended';
    if (code !== normalEnd && !signal.aborted) tell(`\r\nconsole closed: ${why}`);
  } finally {
    if (stdin.isTTY) stdin.setRawMode(false);
    stdin.off('data', onKeys).pause();
  }
}

/** What comes before the escape key is still sent. */
function take(keys: Buffer, socket: WebSocket, watch: boolean): void {
  const at = keys.indexOf(escape);
  const typed = at < 0 ? keys : keys.subarray(0, at);
  if (typed.length > 0 && !watch) {
    process.stdin.pause();
    socket.send(typed, () => process.stdin.resume());
  }
  if (at >= 0) socket.close(normalEnd);
}

/** The end of what the machine wrote to its console. */
async function showLog({ client, service }: Session, siteId: string): Promise<void> {
  const headers = { accept: 'text/plain' };
  const address = service.address('/sites/:siteId/console', { siteId });
  const { body } = await client.download(address, { headers });
  for await (const chunk of body as AsyncIterable<Buffer>) process.stdout.write(chunk);
  process.stdout.write('\n');
}
