import type { AddressInfo, ListenOptions, Server } from 'node:net';
import { listenError } from '#kernel/http/listen.js';
import type { Log } from '#kernel/log.js';

/**
 * @param where with a name for messages, or a socket that listens already
 * @param log told of what goes wrong from then on, which must not end the process
 * @returns the port
 * @throws `ADDRESS_IN_USE`, `CONFIG_INVALID`
 */
export function listen(
  server: Server,
  where: ListenOptions & { fd?: number },
  log: Log,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const refuse = (cause: Error) => reject(listenError(cause, `${where.host}:${where.port}`));
    server.once('error', refuse);
    server.listen(where, () => {
      server.off('error', refuse);
      server.on('error', (err) => log.error({ err }, 'a connection could not be accepted'));
      resolve((server.address() as AddressInfo).port);
    });
  });
}

export function urlOf(host: string, port: number): string {
  const everywhere = host === '::' || host === '0.0.0.0';
  return `https://${everywhere ? 'localhost' : host.includes(':') ? `[${host}]` : host}:${port}`;
}
