import type { Socket } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';

/** PEM texts. Both sides show a certificate that the other's `ca` must have signed; names are not compared. */
export type MutualTls = {
  readonly key: string;
  readonly passphrase?: string;
  readonly cert: string;
  /** Absent: the authorities that the system trusts. */
  readonly ca?: string;
};

/** The server's side of a handshake on a connection that was accepted. Rejects for an untrusted peer. */
export function acceptTls(plain: Socket, tls: MutualTls, timeoutMs: number): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = createServer({
      ...tls,
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: timeoutMs,
    });
    server.once('secureConnection', (socket) => {
      socket.on('error', () => plain.destroy());
      resolve(socket);
    });
    server.once('tlsClientError', (error: Error) => {
      plain.destroy();
      reject(error);
    });
    plain.once('close', () => reject(new Error('the peer ended the handshake')));
    server.emit('connection', plain);
  });
}

/** The client's side of a handshake on a connection that was made. Rejects for an untrusted peer. */
export function startTls(plain: Socket, tls: MutualTls, timeoutMs: number): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...tls, socket: plain, checkServerIdentity: () => undefined });
    const fail = (error: Error): void => {
      plain.destroy();
      reject(error);
    };
    const timer = setTimeout(() => fail(new Error('the TLS handshake takes too long')), timeoutMs);
    socket.once('error', fail);
    socket.once('close', () => fail(new Error('the peer ended the handshake')));
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      resolve(socket);
    });
  });
}
