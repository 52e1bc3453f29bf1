import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { ByteSource } from '#kernel/net/byte-source.js';
import { acceptTls } from '#kernel/net/tls-upgrade.js';
import { Scope } from '#kernel/scope.js';
import { longestEnrolment } from '#tsi/protocol/enrolment.js';
import { CallbackRange } from '#xnjs/tsi/callback-range.js';
import { askMain, type TsiTls } from '#xnjs/tsi/callback-transport.js';
import { ClassicBinding } from '#xnjs/vm/classic-binding.js';
import { toEnrollee } from '#xnjs/vm/context/enrollees.js';
import { Enrolments, meansOf, newToken } from '#xnjs/vm/context/enrolments.js';
import { MachineAuthority } from '#xnjs/vm/context/machine-authority.js';
import { hashOf } from '#xnjs/vm/context/proof.js';
import { requireNetwork } from '#xnjs/vm/tsi-network.js';
import { scratch } from '../job/rig.js';
import { alice, startAgent, until } from '../../tsi/agent-process.js';
import { makeCertificates, type Certificates } from '../../tsi/certificates.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

type Enrolment = 'optional' | 'required';
const metadataOf = (tls: TsiTls | undefined, enrolment: Enrolment = 'optional') =>
  anImageMetadata({
    tsi: {
      ...{ transport: 'tcp', port: 4433, login: alice.login, jobsDirectory: '/home/jobs' },
      ...(tls && { tls: { dn: 'CN=TSI,O=Grid' } }),
    },
    contextualisation: { enrolment },
  });

describe('a machine whose TSI is reached by TCP and TLS proves which one it is', () => {
  const scope = new Scope();
  let directory: string;
  /** All machines of the image have these. */
  let image: Certificates;
  let tls: TsiTls;
  const listener = scope.use(
    new CallbackRange({ host: undefined, firstPort: 0, lastPort: 0, log: silentLog }),
  );
  before(async () => {
    directory = scratch(scope);
    image = await makeCertificates(directory);
    tls = { ...image.xnjs, peerDns: ['CN=TSI,O=Grid'] };
  });
  after(() => scope.close());

  /** A server that has made one machine; its record is a fake, the database is met elsewhere. */
  async function aServer(enrolment?: Enrolment, validDays = 1) {
    const token = newToken();
    const issuedMs = Date.now();
    const metadata = metadataOf(tls, enrolment);
    let record = aTargetSystem({
      image: { id: 'i', parts: {}, metadata },
      enrolment: { means: 'commandLine', generation: 1, tokenHash: hashOf(token), issuedMs },
    });
    const refusals: string[] = [];
    const file = join(directory, `authority-${token}.pem`);
    const enrolments = new Enrolments({
      authority: await MachineAuthority.open(file, 'grid', validDays),
      ...{ tokenMs: 60_000, clock: systemClock, log: silentLog },
      audit: ({ why }) => void refusals.push(why),
      forgetToken: () => Promise.resolve(),
      machines: {
        find: () => toEnrollee(record),
        queue: (_id, work) => work(),
        save: (_id, enrolment) => Promise.resolve(void (record = { ...record, enrolment })),
        refused: () => Promise.resolve(),
      },
    });
    const bind = (port: number) => {
      const binding = scope.use(
        new ClassicBinding({
          ...{ name: record.id, login: alice.login, ports: [port], listener, tls },
          addresses: () => Promise.resolve(['127.0.0.1']),
          enrolment: {
            admit: (ask) => enrolments.admit(record.id, ask, { needsCertificate: true }),
            peer: () => enrolments.peerOf(record.id),
            isDue: () => enrolments.isDueOf(record.id),
          },
          ...{ heartbeatMs: 50, silenceMs: 5_000, clock: systemClock, log: silentLog },
        }),
      );
      const news: boolean[] = [];
      binding.onChange((up) => news.push(up));
      return { binding, news, isUp: () => news.at(-1) === true };
    };
    return { bind, token, refusals, record: () => record };
  }

  /** A machine of the image. @param token that lies in it */
  async function aMachine(name: string, token: string, more: readonly string[] = []) {
    const state = join(directory, name);
    mkdirSync(state);
    const tokenFile = join(state, 'token');
    writeFileSync(tokenFile, token);
    const properties = [
      ...['tsi.my_addr=127.0.0.1', 'tsi.my_port=0', 'tsi.unicorex_machine=127.0.0.1'],
      ...image.tsi,
      'tsi.allowed_dn.1=CN=XNJS 1,O=Grid,C=EU',
      `tsi.state_dir=${state}`,
      `tsi.enrolment_file=${tokenFile}`,
      ...more,
    ];
    const agent = await startAgent(scope, { properties });
    return { agent, tokenFile, port: await agent.port() };
  }

  it('by its token once, then by its certificate, also to a server that was started anew', async () => {
    const server = await aServer();
    const machine = await aMachine('one', server.token);
    const first = server.bind(machine.port);
    await until('it is up', first.isUp);
    const { keyHash } = server.record().enrolment ?? {};
    assert.match(keyHash ?? '', /^[0-9a-f]{64}$/);
    assert.equal(await first.binding.tsi.execute(alice, 'echo one'), 'one\n');
    assert.equal(existsSync(machine.tokenFile), false);
    await first.binding[Symbol.asyncDispose]();

    const second = server.bind(machine.port);
    await until('it is up again', second.isUp);
    assert.equal(await second.binding.tsi.execute(alice, 'echo two'), 'two\n');
    assert.equal(server.record().enrolment?.keyHash, keyHash);
    assert.deepEqual(server.refusals, []);
    await second.binding[Symbol.asyncDispose]();

    // of the same image, at the same address, with a token that was read before it was used
    const thief = await aMachine('thief', server.token);
    const third = server.bind(thief.port);
    await until('it is refused', () => server.refusals.length > 0);
    assert.deepEqual(server.refusals, ['the enrolment token was used before']);
    assert.throws(() => third.binding.tsi, { code: 'TSI_UNAVAILABLE', message: /was used before/ });
    assert.deepEqual(third.news, []);
  });

  it('on each connection of a worker: who lets the machine answer for itself gets no work', async () => {
    const server = await aServer();
    const machine = await aMachine('real', server.token);
    const { binding, isUp } = server.bind(machine.port);
    await until('it is up', isUp);
    await binding[Symbol.asyncDispose]();
    const asked: string[] = [];
    const relay = async (plain: Socket): Promise<void> => {
      const socket = await acceptTls(plain, tsiKeys(image), 5_000);
      const line = (await new ByteSource(socket).read(longestEnrolment))?.toString().trim() ?? '';
      asked.push(line.split(' ')[0] ?? '');
      const options = { host: '127.0.0.1', port: machine.port, listener, tls };
      const signal = AbortSignal.timeout(5_000);
      socket.end((await askMain(options, line, longestEnrolment, signal)) ?? '');
    };
    const between = createServer((plain) => {
      plain.on('error', () => undefined);
      relay(plain).catch(() => asked.push('refused'));
    });
    await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
    scope.defer(() => between.close());
    const { news, binding: other } = server.bind((between.address() as AddressInfo).port);
    await until(
      'it is asked for a worker',
      () => asked.filter((verb) => verb === 'refused').length > 1,
    );
    assert.ok(asked.includes('enrolment'), 'its proof is passed on');
    assert.ok(!asked.includes('newtsiprocess'), 'nothing is asked of it');
    assert.throws(() => other.tsi, { message: /certificate of another machine/ });
    assert.deepEqual(news, []);
    await other[Symbol.asyncDispose]();
  });

  it('by a certificate whose time is over, as long as its key is known', async () => {
    const server = await aServer('optional', 0);
    const machine = await aMachine('late', server.token);
    const { binding, news, isUp } = server.bind(machine.port);
    await until('it is up', isUp);
    const { expiresMs = Infinity } = server.record().enrolment ?? {};
    assert.ok(expiresMs <= Date.now());
    assert.equal(await binding.tsi.execute(alice, 'echo late'), 'late\n');
    await until('it is renewed', () => server.record().enrolment?.expiresMs !== expiresMs);
    assert.deepEqual([news, server.refusals], [[true], []]);
  });

  it('unless its agent does not know of it, and its image does not ask for that', async () => {
    const other = ['tsi.enrolment=0'];
    const server = await aServer();
    const machine = await aMachine('old', server.token, other);
    const { isUp } = server.bind(machine.port);
    await until('it is up', isUp);
    assert.equal(server.record().enrolment?.keyHash, undefined);
    const strict = await aServer('required');
    const { news } = strict.bind(machine.port);
    await until('it is refused', () => strict.refusals.length > 0);
    assert.deepEqual(strict.refusals, ['its agent cannot prove which machine it is']);
    assert.deepEqual(news, []);
  });

  it('and without TLS it is given no token, and cannot be asked to', () => {
    const [safe, plain] = [metadataOf(tls), metadataOf(undefined)].map((metadata) =>
      aTargetSystem({ image: { id: 'i', parts: {}, metadata } }),
    );
    assert.deepEqual([meansOf(safe!), meansOf(plain!)], ['commandLine', undefined]);
    const network = {
      ...{ name: 'n', serverAddress: '10.0.0.1', prefixLength: 24, listener },
      callbackPorts: { first: 7654, last: 7654 },
    };
    assert.throws(() => requireNetwork(metadataOf(undefined, 'required'), network), {
      code: 'BAD_REQUEST',
      message: /enrolment is required, which over tcp takes tsi\.tls/,
    });
  });
});

/** What whoever has read the image has of it. */
function tsiKeys({ tsi }: Certificates) {
  const [key = '', cert = '', ca = ''] = tsi.map((line) =>
    readFileSync(line.slice(line.indexOf('=') + 1), 'utf8'),
  );
  return { key, cert, ca };
}
