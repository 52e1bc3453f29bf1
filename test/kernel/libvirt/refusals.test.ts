import assert from 'node:assert/strict';
import { once } from 'node:events';
import { finished } from 'node:stream/promises';
import { describe, it } from 'node:test';
import type { FinishedCall } from '#kernel/libvirt/calls.js';
import { LibvirtClient, type LibvirtClientOptions } from '#kernel/libvirt/client.js';
import type { LibvirtError } from '#kernel/libvirt/errors.js';
import { events } from '#kernel/libvirt/events.js';
import { encodeHeader, type Message } from '#kernel/libvirt/frame.js';
import { errorMessage, procedures } from '#kernel/libvirt/procedures.js';
import { encode } from '#kernel/libvirt/xdr.js';
import { silentLog } from '#kernel/log.js';
import { startPeer, type Answer, type Peer } from './peer.js';

const unavailable = { code: 'HYPERVISOR_UNAVAILABLE' };
const protocol = { code: 'HYPERVISOR_PROTOCOL' };
const getType = procedures.connect_get_type.number;
const openChannel = 296;
const keepAlive = 0x6b656570;
const dom = { name: 'vm', uuid: '00112233-4455-6677-8899-aabbccddeeff', id: 1 };
const started = encode(events.lifecycle.message, { callbackID: 0, dom, event: 2, detail: 0 });
const channel = { dom, name: null, flags: 0 };

const connect = (uri: string, options: Partial<LibvirtClientOptions> = {}) =>
  LibvirtClient.connect({ uri, log: silentLog, ...options });

/** Answers the call `connect_get_type`, and nothing else, by itself. */
const onGetType =
  (act: Answer): Answer =>
  (message, peer) =>
    message.procedure === getType && message.type === 0 ? act(message, peer) !== false : false;

function down(client: LibvirtClient): Promise<LibvirtError> {
  return new Promise((resolve) => {
    client.onConnectionChange((change) => {
      if (change.state === 'down') resolve(change.cause);
    });
  });
}

describe('a daemon that misbehaves', () => {
  it('fails a call at its deadline, and takes no notice of the late answer', async () => {
    const late: (() => void)[] = [];
    await using peer = await startPeer((message, { send }) => {
      if (message.procedure !== getType || late.length > 0) return false;
      late.push(() => send({ ...message, type: 1 }, Buffer.from('nonsense')));
      return true;
    });
    await using client = await connect(peer.uri);
    await assert.rejects(client.call('connect_get_type', {}, { timeoutMs: 20 }), unavailable);
    for (const send of late) send();
    assert.deepEqual(await client.call('connect_get_type', {}), { type: 'X' });
  });

  it('ends a call with the reason of its signal, before and after it was sent', async () => {
    await using peer = await startPeer(onGetType(() => true));
    await using client = await connect(peer.uri);
    const abort = new AbortController();
    const call = client.call('connect_get_type', {}, { signal: abort.signal });
    const reason = new Error('changed my mind');
    abort.abort(reason);
    await assert.rejects(call, reason);
    await assert.rejects(client.call('connect_get_type', {}, { signal: abort.signal }), reason);
  });

  it('fails calls in flight when the connection breaks', async () => {
    await using peer = await startPeer(onGetType((_, { socket }) => void socket.destroy()));
    await using client = await connect(peer.uri);
    const lost = down(client);
    await assert.rejects(client.call('connect_get_type', {}), unavailable);
    assert.equal((await lost).code, 'HYPERVISOR_UNAVAILABLE');
    assert.equal(client.connected, false);
  });

  it('fails a call on a connection of its own when the client is closed', async () => {
    let tellAsked: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => (tellAsked = resolve));
    await using peer = await startPeer(onGetType(() => tellAsked()));
    const told: unknown[] = [];
    const onCall = ({ procedure, code }: FinishedCall) => void told.push([procedure, code]);
    const client = await connect(peer.uri, { onCall });
    const call = client.callApart('connect_get_type', {});
    await asked;
    await Promise.all([client.close(), assert.rejects(call, /the libvirt client was closed/)]);
    assert.deepEqual(told, [['connect_get_type', 'HYPERVISOR_UNAVAILABLE']], 'and is counted');
  });

  it('fails a call at once while disconnected', async () => {
    await using client = new LibvirtClient({
      uri: 'test+unix:///default?socket=/nonexistent/socket',
      log: silentLog,
    });
    client.start();
    await assert.rejects(client.call('connect_get_type', {}), unavailable);
    await assert.rejects(client.openStream('domain_open_channel', channel), unavailable);
  });

  it('fails only the call whose answer it cannot read', async () => {
    await using peer = await startPeer(
      onGetType((message, { send }) => send({ ...message, type: 1 }, Buffer.alloc(4, 255))),
    );
    await using client = await connect(peer.uri);
    await assert.rejects(client.call('connect_get_type', {}), protocol);
    await client.call('domain_resume', { dom });
  });

  const broken = [
    ['a frame that is too long', Buffer.from('ffffffff', 'hex'), 'HYPERVISOR_PROTOCOL'],
    ['an answer of another version', version(2), 'HYPERVISOR_PROTOCOL'],
    ['an event it cannot read', lifecycle(Buffer.from('short')), 'HYPERVISOR_PROTOCOL'],
  ] as const;
  for (const [what, bytes, code] of broken)
    it(`breaks off at ${what}`, async () => {
      await using peer = await startPeer(onGetType((_, { socket }) => void socket.write(bytes)));
      await using client = await connect(peer.uri);
      const lost = down(client);
      await assert.rejects(client.call('connect_get_type', {}), { code });
      assert.equal((await lost).code, code);
    });

  it('goes on after messages that concern nobody', async () => {
    await using peer = await startPeer(
      onGetType((message, { send }) => {
        send({ ...message, type: 1, serial: 4711 }, Buffer.from('nobody asked'));
        send({ ...message, type: 3, serial: 4711 }, Buffer.from('no such stream'));
        send({ ...message, type: 2, procedure: 9999 }, Buffer.from('unknown event'));
        send({ ...message, program: 0x20008087 }, Buffer.from('another program'));
        return false;
      }),
    );
    await using client = await connect(peer.uri);
    assert.deepEqual(await client.call('connect_get_type', {}), { type: 'X' });
  });

  it('survives a listener that throws', async () => {
    await using peer = await startPeer(
      onGetType((_, { socket }) => {
        socket.write(lifecycle(started));
        return false;
      }),
    );
    await using client = await connect(peer.uri);
    const heard: string[] = [];
    client.onLifecycle(() => assert.fail('a bug'));
    const stop = client.onLifecycle(({ event }) => void heard.push(event));
    await client.call('connect_get_type', {});
    stop();
    await client.call('connect_get_type', {});
    assert.deepEqual(heard, ['started']);
  });

  it('keeps more calls than the daemon takes to itself', async () => {
    const held: (() => void)[] = [];
    let silent = false;
    await using peer = await startPeer(
      onGetType((message, { send }) => {
        if (silent) return true;
        const payload = encode(procedures.connect_get_type.result, { type: 'X' });
        held.push(() => send({ ...message, type: 1 }, payload));
        if (held.length === 2) setImmediate(() => held.splice(0).forEach((answer) => answer()));
        return true;
      }),
    );
    await using client = await connect(peer.uri, { maxInFlight: 2 });
    await Promise.all(Array.from({ length: 10 }, () => client.call('connect_get_type', {})));
    silent = true;
    const waiting = [1, 2, 3].map(() => client.call('connect_get_type', {}, { timeoutMs: 20 }));
    const fourth = client.call('connect_get_type', {}, { timeoutMs: 0 });
    await assert.rejects(fourth, unavailable);
    assert.equal((await Promise.allSettled(waiting)).length, 3);
  });
});

describe('the beginning of a connection', () => {
  const authTypes =
    (types: number[]): Answer =>
    (message, { send }) => {
      if (message.procedure !== procedures.auth_list.number) return false;
      send({ ...message, type: 1 }, encode(procedures.auth_list.result, { types }));
      return true;
    };

  it('refuses an authentication that we do not speak', async () => {
    await using peer = await startPeer(authTypes([1]));
    await assert.rejects(connect(peer.uri), { code: 'HYPERVISOR_FAILED' });
  });

  it('asks polkit where the daemon wants it', async () => {
    const asked: number[] = [];
    await using peer = await startPeer((message, peer_) => {
      asked.push(message.procedure);
      if (message.procedure !== procedures.auth_polkit.number)
        return authTypes([2])(message, peer_);
      peer_.send({ ...message, type: 1 }, encode(procedures.auth_polkit.result, { complete: 1 }));
      return true;
    });
    await using client = await connect(peer.uri);
    assert.ok(client.connected);
    assert.deepEqual(asked.slice(0, 3), [66, 70, 1]);
  });

  it('has a deadline', async () => {
    await using peer = await startPeer(() => true);
    await assert.rejects(connect(peer.uri, { connectTimeoutMs: 30 }), unavailable);
  });

  it('ends with the reason of its signal', async () => {
    const abort = new AbortController();
    const reason = new Error('changed my mind');
    await using peer = await startPeer(() => {
      abort.abort(reason);
      return true;
    });
    const options = { uri: peer.uri, log: silentLog };
    await assert.rejects(LibvirtClient.connect(options, { signal: abort.signal }), reason);
  });

  it('fails where nobody listens', async () => {
    const uri = 'test+unix:///default?socket=/nonexistent/socket';
    await assert.rejects(connect(uri), unavailable);
  });

  it('refuses a broken URI', async () => {
    await assert.rejects(connect('nonsense'), { code: 'CONFIG_INVALID' });
  });
});

describe('keepalive', () => {
  const ping = { program: keepAlive, procedure: 1, type: 2, serial: 0, status: 0 };

  it('answers a ping', async () => {
    const pongs: number[] = [];
    await using peer = await startPeer((message, { send }) => {
      if (message.program === keepAlive) pongs.push(message.procedure);
      if (message.procedure === getType) send(ping);
      return false;
    });
    await using client = await connect(peer.uri);
    await client.call('connect_get_type', {});
    await client.call('domain_resume', { dom });
    assert.deepEqual(pongs, [2]);
  });

  it('takes a silent daemon for dead, and a pong for life', async () => {
    let silent = false;
    let pings = 0;
    await using peer = await startPeer((message, { send }) => {
      if (message.program !== keepAlive || message.procedure !== 1) return silent;
      if (++pings > 5) silent = true;
      if (!silent) send({ ...ping, procedure: 2 });
      return true;
    });
    await using client = await connect(peer.uri, { keepAlive: { intervalMs: 10, count: 2 } });
    assert.equal((await down(client)).code, 'HYPERVISOR_UNAVAILABLE');
    assert.equal(pings, 7);
  });

  it('does not pile up answers to pings for a daemon that does not read', async () => {
    const pings = 40_000;
    const flood = Buffer.concat(Array<Buffer>(pings).fill(encodeHeader(ping, 0)));
    let pongs = 0;
    await using peer = await startPeer((message, { socket }) => {
      if (message.program === keepAlive) pongs++;
      if (message.procedure !== getType) return message.program === keepAlive;
      socket.pause().write(flood, () => socket.resume());
      return true;
    });
    await using client = await connect(peer.uri);
    await assert.rejects(client.call('connect_get_type', {}, { timeoutMs: 300 }), unavailable);
    await client.call('domain_resume', { dom });
    assert.ok(pongs > 0 && pongs < pings / 2, `${pongs} pongs`);
  });
});

describe('a stream that goes wrong', () => {
  const onChannel =
    (act: (message: Message, peer: Peer) => void): Answer =>
    (message, peer) => {
      if (message.procedure !== openChannel || message.type !== 0) return false;
      act(message, peer);
      return true;
    };
  const accept = (message: Message, { send }: Peer): void => send({ ...message, type: 1 });
  const failure = encode(errorMessage, {
    code: 42,
    domain: 10,
    message: 'no domain',
    level: 2,
    dom: null,
    str1: null,
    str2: null,
    str3: null,
    int1: 0,
    int2: 0,
    net: null,
  });

  it('is refused with the answer of the daemon', async () => {
    await using peer = await startPeer(
      onChannel((message, { send }) => send({ ...message, type: 1, status: 1 }, failure)),
    );
    await using client = await connect(peer.uri);
    const opening = client.openStream('domain_open_channel', channel);
    await assert.rejects(opening, { code: 'DOMAIN_UNKNOWN' });
  });

  const endings = [
    [
      'an error of the daemon',
      (message: Message, { send }: Peer) => send({ ...message, type: 3, status: 1 }, failure),
      'DOMAIN_UNKNOWN',
    ],
    [
      'an error that cannot be read',
      (message: Message, { send }: Peer) =>
        send({ ...message, type: 3, status: 1 }, Buffer.from('nonsense')),
      'HYPERVISOR_PROTOCOL',
    ],
    [
      'the end of its connection',
      (_: Message, { socket }: Peer) => void socket.destroy(),
      'HYPERVISOR_UNAVAILABLE',
    ],
  ] as const;
  for (const [what, act, code] of endings)
    it(`is destroyed by ${what}`, async () => {
      await using peer = await startPeer(
        onChannel((message, one) => {
          accept(message, one);
          setImmediate(() => act(message, one));
        }),
      );
      await using client = await connect(peer.uri);
      const stream = client.openStream('domain_open_channel', channel);
      await assert.rejects(stream.then(finished), { code });
    });

  it('does not end the process if nobody looked at it', async () => {
    await using peer = await startPeer(onChannel((_, { socket }) => void socket.destroy()));
    await using client = await connect(peer.uri);
    await assert.rejects(client.openStream('domain_open_channel', channel), unavailable);
  });

  it('ends when the daemon does not confirm its end in time', async () => {
    await using peer = await startPeer((message, one) =>
      message.type === 3 ? true : onChannel(accept)(message, one),
    );
    await using client = await connect(peer.uri, { callTimeoutMs: 50 });
    const stream = await client.openStream('domain_open_channel', channel);
    stream.end();
    await assert.rejects(once(stream, 'finish'), unavailable);
  });

  it('is destroyed when the client is closed', async () => {
    await using peer = await startPeer(onChannel(accept));
    const client = await connect(peer.uri);
    const stream = await client.openStream('domain_open_channel', channel);
    await Promise.all([client.close(), client.close()]);
    await client.close();
    assert.ok(stream.destroyed);
    await assert.rejects(client.openStream('domain_open_channel', channel), unavailable);
  });
});

function version(number: number): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(28);
  bytes.writeUInt32BE(number, 8);
  return bytes;
}

function lifecycle(payload: Buffer): Buffer {
  const header = { program: 0x20008086, procedure: 318, type: 2, serial: 0, status: 0 };
  return Buffer.concat([encodeHeader(header, payload.length), payload]);
}
