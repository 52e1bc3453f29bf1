import type { Socket } from 'node:net';
import {
  connect,
  createSecureContext,
  createServer,
  type SecureContext,
  type TLSSocket,
} from 'node:tls';

/** PEM texts. Both sides show a certificate that the other's `ca` must have signed; names are not compared. */
export type MutualTls = {
  readonly key: string;
  readonly passphrase?: string;
  readonly cert: string;
  /** Absent: the authorities that the system trusts. */
  readonly ca?: string;
  /**
   * Whoever has the key of the certificate that is shown gets through, whatever the certificate is: the caller
   * looks at that, and knows more of it than an authority does.
   */
  readonly isUnchecked?: boolean;
};
type Shown = Pick<MutualTls, 'key' | 'cert'>;

export type AcceptTls = MutualTls & {
  /** What a client is shown that names whom it wants; `undefined`: what everybody is. */
  readonly shownAs?: (name: string) => Shown | undefined;
};
export type StartTls = MutualTls & {
  /** Whom it wants. */
  readonly servername?: string;
};

/**
 * A certificate that is shown by name does not replace a general one for another kind of key: OpenSSL then has both,
 * and takes the one whose signature comes first here. Machines have Ed25519 keys, which general ones are not.
 */
const namedFirst = [
  'ed25519',
  ...['ecdsa_secp256r1_sha256', 'ecdsa_secp384r1_sha384', 'ecdsa_secp521r1_sha512'],
  ...['rsa_pss_rsae_sha256', 'rsa_pss_rsae_sha384', 'rsa_pss_rsae_sha512'],
  ...['rsa_pkcs1_sha256', 'rsa_pkcs1_sha384', 'rsa_pkcs1_sha512'],
].join(':');

type SniAnswer = (error: null, context?: SecureContext) => void;

/** The server's side of a handshake on a connection that was accepted. Rejects for an untrusted peer. */
export function acceptTls(
  plain: Socket,
  { isUnchecked = false, shownAs, ...tls }: AcceptTls,
  timeoutMs: number,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = createServer({
      ...tls,
      requestCert: true,
      rejectUnauthorized: !isUnchecked,
      handshakeTimeout: timeoutMs,
      ...(shownAs && {
        sigalgs: namedFirst,
        SNICallback: (name: string, answer: SniAnswer) => {
          const shown = shownAs(name);
          answer(null, shown && createSecureContext({ ...tls, ...shown }));
        },
      }),
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
export function startTls(
  plain: Socket,
  { isUnchecked = false, ...tls }: StartTls,
  timeoutMs: number,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...tls,
      socket: plain,
      rejectUnauthorized: !isUnchecked,
      checkServerIdentity: () => undefined,
    });
    const fail = (error: Error): void => {
      clearTimeout(timer);
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
