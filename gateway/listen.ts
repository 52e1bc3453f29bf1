import type { AddressInfo, ListenOptions, Server } from 'node:net';
import { ListenError } from '#kernel/http/listen.js';

/** @param where with a name for messages, or a socket that listens already. @returns the port; @throws {@link ListenError} */
export function listen(server: Server, where: ListenOptions & { fd?: number }): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const { host, port } = where;
      const address = `${host}:${port}`;
      const used = cause.code === 'EADDRINUSE';
      const reason = used
        ? `${address} is used by another program`
        : `cannot listen on ${address}: ${cause.message}`;
      const code = used ? 'ADDRESS_IN_USE' : 'CONFIG_INVALID';
      reject(new ListenError(code, reason, { host, port }, { cause }));
    });
    server.listen(where, () => resolve((server.address() as AddressInfo).port));
  });
}

export function urlOf(host: string, port: number): string {
  const everywhere = host === '::' || host === '0.0.0.0';
  return `https://${everywhere ? 'localhost' : host.includes(':') ? `[${host}]` : host}:${port}`;
}
