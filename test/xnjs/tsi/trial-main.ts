import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import type { Scope } from '#kernel/scope.js';

/** What a main does with a request, as the test says; the port is where it is expected to call back. */
export type Main = (socket: Socket, replyPort: () => Promise<number>) => Promise<void> | void;

/** A TSI's main that does what a real one would not. @returns its port */
export async function startMain(scope: Scope, main: Main, host = '127.0.0.1'): Promise<number> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    const replyPort = async (): Promise<number> => {
      const [request] = (await once(socket, 'data')) as [Buffer];
      return Number(/^newtsiprocess (\d+)\n$/.exec(request.toString())?.[1]);
    };
    void Promise.resolve(main(socket, replyPort)).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  scope.defer(() => {
    sockets.forEach((socket) => socket.destroy());
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A connection back. */
export async function callBack(port: number, localAddress = '127.0.0.1'): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', localAddress });
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

export function answerPings(socket: Socket, version = '11.2.0'): void {
  socket.on('data', (chunk: Buffer) => {
    if (chunk.includes('ENDOFMESSAGE\n')) socket.write(`TSI_OK\n${version}\nENDOFMESSAGE\n`);
  });
}

/** Both call-backs of a worker that answers pings, and nothing else. */
export async function serve(port: number, version?: string, from?: string): Promise<void> {
  answerPings(await callBack(port, from), version);
  await callBack(port, from);
}
