import { connect as connectSocket, type Socket, type TcpNetConnectOpts } from 'node:net';

/**
 * A TCP connection with keep-alive and without delay, or the reason why there is none.
 * @param signal fires: it is given up, so that it does not come about later, with nobody to use or end it
 */
export function connectTcp(
  options: TcpNetConnectOpts,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({
      ...options,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 5_000,
    });
    const timer = setTimeout(() => fail(new Error('the connection takes too long')), timeoutMs);
    const abort = (): void => fail(signal?.reason as Error);
    function settle(): void {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
    function fail(error: Error): void {
      settle();
      socket.destroy();
      reject(error);
    }
    signal?.addEventListener('abort', abort);
    if (signal?.aborted) abort();
    socket.on('error', fail); // for good: an error that nobody listens to ends the process
    socket.once('connect', () => {
      settle();
      resolve(socket);
    });
  });
}
