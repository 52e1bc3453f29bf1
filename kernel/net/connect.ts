import { connect as connectSocket, type Socket, type TcpNetConnectOpts } from 'node:net';

/** A TCP connection with keep-alive and without delay, or the reason why there is none. */
export function connectTcp(options: TcpNetConnectOpts, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({
      ...options,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 5_000,
    });
    const timer = setTimeout(() => fail(new Error('the connection takes too long')), timeoutMs);
    function fail(error: Error): void {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    }
    socket.on('error', fail); // for good: an error that nobody listens to ends the process
    socket.once('connect', () => {
      clearTimeout(timer);
      resolve(socket);
    });
  });
}
