import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeHeader, FrameReader, type Header, type Message } from '#kernel/libvirt/frame.js';
import { procedures } from '#kernel/libvirt/procedures.js';
import { encode } from '#kernel/libvirt/xdr.js';

/** True: the message is taken. */
export type Answer = (message: Message, peer: Peer) => unknown;
export type Peer = {
  readonly socket: Socket;
  readonly send: (header: Header, payload?: Buffer) => void;
};

/**
 * A daemon that misbehaves as the test says; nothing else can make libvirtd do it. What `answer` does not
 * take it answers like libvirtd: authentication none, everything else without result.
 */
export async function startPeer(answer: Answer = () => false) {
  const folder = await mkdtemp(join(tmpdir(), 'vsite-peer-'));
  const path = join(folder, 's');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => undefined));
    const frames = new FrameReader();
    const send: Peer['send'] = (header, payload = Buffer.alloc(0)) => {
      socket.write(encodeHeader(header, payload.length));
      socket.write(payload);
    };
    socket.on('data', (chunk: Buffer) => {
      for (const message of frames.push(chunk)) {
        if (answer(message, { socket, send }) === true) continue;
        if (message.type === 0) send({ ...message, type: 1 }, result(message.procedure));
      }
    });
  }).listen(path);
  await once(server, 'listening');
  return {
    uri: `test+unix:///default?socket=${path}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await rm(folder, { recursive: true });
    },
  };
}

function result(procedure: number): Buffer {
  const { auth_list, connect_supports_feature, connect_get_type } = procedures;
  const register = procedures.connect_domain_event_callback_register_any;
  if (procedure === auth_list.number) return encode(auth_list.result, { types: [0] });
  if (procedure === register.number) return encode(register.result, { callbackID: 0 });
  if (procedure === connect_get_type.number) return encode(connect_get_type.result, { type: 'X' });
  if (procedure === connect_supports_feature.number)
    return encode(connect_supports_feature.result, { supported: 1 });
  return Buffer.alloc(0);
}
