import { randomBytes } from 'node:crypto';
import { Server as TlsServer } from 'node:tls';
import { z } from 'zod';
import { file } from '#kernel/config.js';
import type { Log } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { loadServerContext, type ServerContext } from '#kernel/security/server-context.js';
import { versionOf, watchPaths } from '#kernel/watch.js';
import type { ListenAddress, Listening } from './listen.js';

/** TLS of a service that clients may reach without a gateway. */
export const DirectTls = z.strictObject({
  keyFile: file,
  certFile: file,
  /** Authorities of clients who come without a gateway, with certificates; default: none do. */
  trustFiles: z.array(file).default([]),
  /** A folder of such authorities and of revocation lists, PEM or DER, whatever their names. */
  trustDir: file.optional(),
  /** How often these files are looked at for changes. */
  reloadSeconds: z.number().positive().max(86_400).default(2),
});
export type DirectTls = z.output<typeof DirectTls>;

/** Where a service listens, as its configuration says. */
export type Where =
  | { readonly unix: string }
  | { readonly host: string; readonly port: number; readonly tls?: DirectTls | undefined };

/** Whether clients may show it their certificates, instead of a gateway. */
export function believesCertificates(where: Where): boolean {
  if ('unix' in where || !where.tls) return false;
  return where.tls.trustFiles.length > 0 || where.tls.trustDir !== undefined;
}

export type Address = {
  readonly address: ListenAddress;
  /** To be called when it listens: what the files say from then on holds from then on. */
  readonly follow: (listening: Listening, deps: { scope: Scope; log: Log }) => void;
};

/** @throws `ConfigError` `CONFIG_INVALID` naming the file */
export async function openAddress(where: Where): Promise<Address> {
  if ('unix' in where) return { address: where, follow: () => undefined };
  const { host, port, tls: files } = where;
  if (!files) return { address: { host, port }, follow: () => undefined };
  const ticketSecret = randomBytes(48);
  const version = await versionOf(pathsOf(files)); // before they are read
  const context = await loadServerContext(files, ticketSecret);
  return {
    address: { host, port, tls: context.tls },
    follow: (listening, { scope, log }) => {
      const load = () => loadServerContext(files, ticketSecret);
      const reload = reloading(context, load, listening, log);
      const stop = watchPaths(() => pathsOf(files), reload, files.reloadSeconds * 1_000, version);
      scope.defer(stop);
    },
  };
}

function reloading(
  initial: ServerContext,
  load: () => Promise<ServerContext>,
  { server, endConnections }: Listening,
  log: Log,
): () => Promise<void> {
  let { trustVersion } = initial;
  return async () => {
    try {
      const next = await load();
      if (server instanceof TlsServer) server.setSecureContext(next.tls);
      log.info('TLS files read again');
      // whoever is believed no more was let in by a handshake of before
      if (next.trustVersion !== trustVersion) endConnections();
      ({ trustVersion } = next);
    } catch (err) {
      log.error({ err }, 'TLS files not usable, the last good ones stay in force');
    }
  };
}

function pathsOf({ keyFile, certFile, trustFiles, trustDir }: DirectTls): string[] {
  return [keyFile, certFile, ...trustFiles, ...(trustDir === undefined ? [] : [trustDir])];
}
