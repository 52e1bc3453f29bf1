import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect as connectSocket, type NetConnectOpts, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import { errorText } from '#kernel/errors.js';
import { LibvirtError, unavailable } from './errors.js';
import { CommandSocket, sshCommand, type Command } from './ssh.js';
import type { Address, LibvirtUri, SshAddress, TlsAddress } from './uri.js';

export type DialOptions = {
  readonly signal: AbortSignal;
  /** Instead of `ssh`: another way to run something on that host. */
  readonly command?: ((address: SshAddress, driverUri: string) => Command) | undefined;
};

/** Sent by the daemon after the TLS handshake: it accepts the certificate. */
const accepted = 1;

/**
 * Opens the byte stream that libvirt's protocol is spoken on.
 * @throws {@link LibvirtError} `HYPERVISOR_UNAVAILABLE`; the signal's reason when aborted
 */
export async function dial(
  { driverUri, address }: LibvirtUri,
  options: DialOptions,
): Promise<Duplex> {
  const { signal, command = sshCommand } = options;
  signal.throwIfAborted();
  try {
    if (address.kind === 'ssh') return new CommandSocket(command(address, driverUri));
    if (address.kind === 'tls') return await dialTls(address, signal);
    return await connected(connectSocket(toNodeOptions(address)), 'connect', signal);
  } catch (cause) {
    signal.throwIfAborted();
    if (cause instanceof LibvirtError) throw cause;
    throw unavailable(`no connection to libvirt: ${errorText(cause)}`, { ...address }, cause);
  }
}

function toNodeOptions(address: Exclude<Address, SshAddress | TlsAddress>): NetConnectOpts {
  if (address.kind === 'unix') return { path: address.path };
  const { host, port } = address;
  return { host, port };
}

async function dialTls({ host, port, pki }: TlsAddress, signal: AbortSignal): Promise<Duplex> {
  const read = (path: string): Promise<Buffer> => readFile(path, { signal });
  const [ca, cert, key] = await Promise.all([read(pki.ca), read(pki.cert), read(pki.key)]);
  const socket = connectTls({ host, port, ca, cert, key });
  await connected(socket, 'secureConnect', signal);
  const verdict = await firstByte(socket, signal);
  if (verdict === accepted) return socket;
  socket.destroy();
  throw unavailable('libvirt refuses our certificate', { host, port, verdict });
}

/** A connection that was refused here, or aborted, leaves no socket behind. */
async function connected(socket: Socket, event: string, signal: AbortSignal): Promise<Socket> {
  try {
    await once(socket, event, { signal });
    return socket.setNoDelay().setKeepAlive(true);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** @returns `undefined` if the stream ends before it */
async function firstByte(socket: Socket, signal: AbortSignal): Promise<number | undefined> {
  const abort = (): void => void socket.destroy();
  signal.addEventListener('abort', abort, { once: true });
  try {
    const chunks: AsyncIterable<Buffer> = socket.iterator({ destroyOnReturn: false });
    for await (const chunk of chunks) {
      if (chunk.length > 1) socket.unshift(chunk.subarray(1));
      return chunk[0];
    }
    return undefined;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
