import assert from 'node:assert/strict';
import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  sign,
  type KeyObject,
} from 'node:crypto';
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { readSigningRequest } from '#kernel/security/signing-request.js';
import { Enrolment } from '#tsi/agent/enrolment.js';
import { defaultSettings } from '#tsi/agent/settings.js';
import { signingRequest } from '#tsi/agent/signing-request.js';
import { signedText, type EnrolmentAnswer, type EnrolmentAsk } from '#tsi/protocol/enrolment.js';
import type { AskEnrolment } from '#xnjs/tsi/agent-link.js';
import { toEnrollee } from '#xnjs/vm/context/enrollees.js';
import { Enrolments, hashOf, newToken } from '#xnjs/vm/context/enrolments.js';
import { MachineAuthority, machineName } from '#xnjs/vm/context/machine-authority.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch } from '../job/rig.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const ecKey = (): KeyObject => generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;

/** A server with one machine whose token is known; the records are a fake, the database is met elsewhere. */
async function aServer(scope: Scope, changes: Partial<TargetSystem> = {}) {
  const clock = new ShiftedClock();
  const token = newToken();
  const issued = {
    means: 'commandLine',
    generation: changes.generation ?? 1,
    tokenHash: hashOf(token),
    issuedMs: clock.now(),
  } as const;
  let record = aTargetSystem({ enrolment: issued, ...changes });
  const events: string[] = [];
  const directory = scratch(scope);
  const authority = await MachineAuthority.open(join(directory, 'ca.pem'), 'grid', 1);
  const enrolments = new Enrolments({
    ...{ authority, tokenMs: 60_000, clock, log: silentLog },
    audit: ({ why }) => void events.push(why),
    forgetToken: () => Promise.resolve(),
    machines: {
      find: () => toEnrollee(record),
      queue: (_id, work) => work(),
      save: (_id, enrolment) => Promise.resolve(void (record = { ...record, enrolment })),
      refused: () => Promise.resolve(),
    },
  });
  const admit = (ask: AskEnrolment): Promise<void> => enrolments.admit(record.id, ask);
  /** What is kept of the enrolment in a snapshot comes back with it. */
  const putBack = (): void => void (record = { ...record, generation: 2 });
  return { admit, putBack, clock, token, authority, directory, events, record: () => record };
}
type Server = Awaited<ReturnType<typeof aServer>>;

/** Somebody who has the token, and a key. */
const enrol =
  (token: string, key: KeyObject, seen: unknown[] = []): AskEnrolment =>
  (message) => {
    seen.push(message);
    return Promise.resolve(
      'challenge' in message ? { token, request: signingRequest(key, message.machine) } : {},
    );
  };

/** Somebody who shows a certificate and signs with a key. */
const show =
  (certificate: string, key: KeyObject, machine?: string): AskEnrolment =>
  (message) => {
    if (!('challenge' in message)) return Promise.resolve({});
    const text = Buffer.from(signedText(machine ?? message.machine, message.challenge));
    return Promise.resolve({
      certificate,
      signature: sign('sha256', text, key).toString('base64'),
    });
  };

const refusal =
  (server: Server, ask: AskEnrolment) =>
  async (reason: RegExp): Promise<void> => {
    await assert.rejects(server.admit(ask), { code: 'FORBIDDEN', message: reason });
    assert.match(server.events.at(-1) ?? '', reason);
  };

describe('an enrolment', () => {
  it('is good once: whoever has the token and another key comes too late', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = ecKey();
    const seen: object[] = [];
    await server.admit(enrol(server.token, key, seen));
    const grant = seen.at(-1) as { certificate: string };
    await server.admit(show(grant.certificate, key));
    await refusal(server, enrol(server.token, ecKey()))(/used before/);
  });

  it('is given again where the answer was lost, for the same key', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = ecKey();
    const lost: AskEnrolment = (message) =>
      'challenge' in message
        ? enrol(server.token, key)(message)
        : Promise.reject(new Error('the link broke'));
    await assert.rejects(server.admit(lost), { message: 'the link broke' });
    await server.admit(enrol(server.token, key));
    assert.deepEqual(server.events, []);
  });

  it('is refused with a token that is wrong or too old', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    await refusal(server, enrol(newToken(), ecKey()))(/of another machine/);
    server.clock.advance(60_001);
    await refusal(server, enrol(server.token, ecKey()))(/too old/);
    assert.equal(server.record().enrolment?.keyHash, undefined);
  });

  it('does not count for the next machine of the same target system', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = ecKey();
    const former = server.authority.sign(machineName(server.record()), createPublicKey(key));
    const next = await aServer(scope, { generation: 2 });
    const own = next.authority.sign(machineName(server.record()), createPublicKey(key));
    await refusal(next, show(own.toString(), key))(/another machine/);
    await refusal(next, show(former.toString(), key))(/another machine/);
  });

  it('counts again for a machine that was put back to a snapshot', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = ecKey();
    const seen: object[] = [];
    await server.admit(enrol(server.token, key, seen));
    const { certificate } = seen.at(-1) as { certificate: string };
    server.putBack();
    await server.admit(show(certificate, key));
    assert.deepEqual(server.events, []);
  });

  it('is not proved by a certificate alone, nor by that of another authority or another key', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = ecKey();
    await server.admit(enrol(server.token, key));
    const { authority } = server;
    const machine = machineName(server.record());
    const good = authority.sign(machine, createPublicKey(key)).toString();
    await refusal(server, show(good, ecKey()))(/does not have the key/);
    await refusal(server, show(good, key, `${machine}0`))(/does not have the key/);
    const stranger = ecKey();
    const other = authority.sign(machine, createPublicKey(stranger)).toString();
    await refusal(server, show(other, stranger))(/another key than the one that was enrolled/);
    const elsewhere = await aServer(scope);
    const foreign = elsewhere.authority.sign(machine, createPublicKey(key)).toString();
    await refusal(server, show(foreign, key))(/another machine/);
    await server.admit(show(good, key));
  });

  it('is required of an agent that has proved itself before', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const silent: AskEnrolment = () => Promise.resolve(undefined);
    await server.admit(silent);
    await server.admit(enrol(server.token, ecKey()));
    await refusal(server, silent)(/cannot prove/);
  });

  it('comes over the channel where there is no other way', async () => {
    await using scope = new Scope();
    const image = { ...aTargetSystem().image, metadata: anImageMetadata({ format: 'qcow2' }) };
    const { enrolment: none, ...rest } = aTargetSystem({ image });
    const server = await aServer(scope, { ...rest, enrolment: none! });
    const agent = new Enrolment({
      ...defaultSettings(),
      stateDir: join(server.directory, 'agent'),
    });
    const ask: AskEnrolment = (message) => agent.answer(JSON.stringify(message));
    await server.admit(ask);
    assert.equal(server.record().enrolment?.means, 'message');
    const { keyHash } = server.record().enrolment ?? {};
    await server.admit(ask);
    assert.equal(server.record().enrolment?.keyHash, keyHash);
    assert.equal(statSync(join(server.directory, 'agent', 'enrolment.json')).mode & 0o777, 0o600);
    assert.equal(statSync(join(server.directory, 'ca.pem')).mode & 0o777, 0o600);
  });
});

describe('the agent', () => {
  it('shows nothing to whoever asks for another machine, and takes no certificate that is not its own', async () => {
    await using scope = new Scope();
    const stateDir = join(scratch(scope), 'state');
    mkdirSync(stateDir);
    const agent = new Enrolment({ ...defaultSettings(), stateDir, enrolmentFiles: [] });
    const token = newToken();
    const ask: EnrolmentAsk = {
      machine: `${aTargetSystem().id}.1`,
      challenge: Buffer.alloc(32, 1).toString('base64'),
      expects: createHash('sha256').update(token).digest('hex'),
    };
    const say = (message: object): Promise<EnrolmentAnswer> =>
      agent.answer(JSON.stringify(message));
    assert.deepEqual(await say(ask), {});
    const { request = '', token: shown } = await say({ ...ask, token });
    assert.equal(shown, token);
    const key = readSigningRequest(request);
    const authority = await MachineAuthority.open(join(stateDir, 'ca.pem'), 'grid', 1);
    const grant = (machine: string, of: KeyObject): object => ({
      machine,
      certificate: authority.sign(machine, of).toString(),
      authority: authority.certificate,
    });
    await assert.rejects(say(grant(`${aTargetSystem().id}.2`, key)), /for another machine/);
    await assert.rejects(say(grant(ask.machine, createPublicKey(ecKey()))), /for another key/);
    await say(grant(ask.machine, key));
    assert.deepEqual(Object.keys(await say(ask)), ['certificate', 'signature']);
    // what was asked in the name of another machine gets neither certificate nor token
    assert.deepEqual(await say({ ...ask, machine: `${aTargetSystem().id}.2` }), {});
  });

  it('makes no sense of what is no question', async () => {
    await using scope = new Scope();
    const agent = new Enrolment({ ...defaultSettings(), stateDir: scratch(scope) });
    for (const wrong of [
      '',
      '[]',
      '{"machine":"x"}',
      '{"machine":"../1","challenge":"","expects":""}',
    ])
      await assert.rejects(agent.answer(wrong), { code: 'TSI_PROTOCOL' });
  });
});

describe('a signing request', () => {
  const good = signingRequest(ecKey(), 'machine');
  const body = (text: string): Buffer =>
    Buffer.from(text.replace(/-----[A-Z ]+-----/g, ''), 'base64');
  const pem = (der: Buffer): string =>
    `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;

  it('that is cut off, changed or none is refused', () => {
    assert.equal(readSigningRequest(good).asymmetricKeyType, 'ec');
    const der = body(good);
    const algorithm = der.indexOf('300a06082a8648ce3d040302', 'hex');
    for (let at = 0; at < der.length; at += 1) {
      assert.throws(() => readSigningRequest(pem(der.subarray(0, at))), { code: 'BAD_REQUEST' });
      // what stands around the two parts is not signed, and not looked at
      if (at < 3 || (at >= algorithm && at < algorithm + 15)) continue;
      const changed = Buffer.from(der);
      changed.writeUInt8(der.readUInt8(at) ^ 0x01, at);
      assert.throws(() => readSigningRequest(pem(changed)), { code: 'BAD_REQUEST' }, `octet ${at}`);
    }
    for (const text of ['', 'x', good.repeat(50)])
      assert.throws(() => readSigningRequest(text), { code: 'BAD_REQUEST' });
  });
});
