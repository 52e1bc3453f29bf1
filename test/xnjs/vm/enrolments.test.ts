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
import { signingRequest } from '#tsi/agent/machine-key.js';
import { signedText, type EnrolmentAnswer, type EnrolmentAsk } from '#tsi/protocol/enrolment.js';
import type { AskEnrolment } from '#xnjs/tsi/agent-link-options.js';
import { toEnrollee } from '#xnjs/vm/context/enrollees.js';
import { Enrolments, newToken } from '#xnjs/vm/context/enrolments.js';
import { MachineAuthority, machineName } from '#xnjs/vm/context/machine-authority.js';
import { hashOf } from '#xnjs/vm/context/proof.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch } from '../job/rig.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const newKey = (): KeyObject => generateKeyPairSync('ed25519').privateKey;

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
  let forgotten = 0;
  const directory = scratch(scope);
  const authority = await MachineAuthority.open(join(directory, 'ca.pem'), 'grid', 1);
  const enrolments = new Enrolments({
    ...{ authority, tokenMs: 60_000, clock, log: silentLog },
    audit: ({ why }) => void events.push(why),
    forgetToken: () => Promise.resolve(void (forgotten += 1)),
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
  return {
    enrolments,
    keep: (enrolment: TargetSystem['enrolment'] & object) =>
      void (record = { ...record, enrolment }),
    admit,
    putBack,
    clock,
    token,
    authority,
    directory,
    events,
    record: () => record,
    forgotten: () => forgotten,
  };
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

/** Its link breaks before a certificate has come. */
const loses =
  (ask: AskEnrolment): AskEnrolment =>
  (message) =>
    'challenge' in message ? ask(message) : Promise.reject(new Error('the link broke'));

/** Somebody who shows a certificate and signs with a key. */
const show =
  (certificate: string, key: KeyObject, machine?: string): AskEnrolment =>
  (message) => {
    if (!('challenge' in message)) return Promise.resolve({});
    const text = Buffer.from(signedText(machine ?? message.machine, message.challenge));
    return Promise.resolve({
      certificate,
      signature: sign(null, text, key).toString('base64'),
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
    const key = newKey();
    const seen: object[] = [];
    await server.admit(enrol(server.token, key, seen));
    const grant = seen.at(-1) as { certificate: string };
    await server.admit(show(grant.certificate, key));
    await refusal(server, enrol(server.token, newKey()))(/used before/);
  });

  it('is given again where the answer was lost, for the same key', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = newKey();
    await server.admit(loses(enrol(server.token, key)));
    await server.admit(enrol(server.token, key));
    assert.deepEqual(server.events, []);
    assert.equal(server.forgotten(), 1);
  });

  it('is refused with a token that is wrong or too old', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    await refusal(server, enrol(newToken(), newKey()))(/of another machine/);
    server.clock.advance(60_001);
    await refusal(server, enrol(server.token, newKey()))(/too old/);
    assert.equal(server.record().enrolment?.keyHash, undefined);
  });

  it('does not count for the next machine of the same target system', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = newKey();
    const former = server.authority.sign(machineName(server.record()), createPublicKey(key));
    const next = await aServer(scope, { generation: 2 });
    const own = next.authority.sign(machineName(server.record()), createPublicKey(key));
    await refusal(next, show(own.toString(), key))(/another machine/);
    await refusal(next, show(former.toString(), key))(/another machine/);
  });

  it('counts again for a machine that was put back to a snapshot', async () => {
    await using scope = new Scope();
    const server = await aServer(scope);
    const key = newKey();
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
    const key = newKey();
    await server.admit(enrol(server.token, key));
    const { authority } = server;
    const machine = machineName(server.record());
    const good = authority.sign(machine, createPublicKey(key)).toString();
    await refusal(server, show(good, newKey()))(/does not have the key/);
    await refusal(server, show(good, key, `${machine}0`))(/does not have the key/);
    const stranger = newKey();
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
    await server.admit(enrol(server.token, newKey()));
    await refusal(server, silent)(/cannot prove/);
  });

  it('is asked for once, of a copy that was greeted with its token', async () => {
    await using scope = new Scope();
    const copy = aTargetSystem({ start: { tier: 'warm', reason: '' }, boot: { identityMs: 9 } });
    const server = await aServer(scope, copy);
    const issued = server.enrolments.issueForChannel(copy);
    server.keep(issued);
    const asked = server.enrolments.questionFor(copy.id)!;
    const seen: object[] = [];
    await server.enrolments.admit(copy.id, enrol(asked.token!, newKey(), seen), { asked });
    assert.deepEqual(
      seen.map((message) => Object.keys(message)[1]),
      ['challenge', 'certificate'],
    );
    assert.equal(seen[0], asked);
    const { keyHash, ...rest } = server.record().enrolment!;
    assert.ok(keyHash);
    assert.equal(rest.tokenHash, issued.tokenHash);
  });

  it('is another one when that of a copy is over before it was used', async () => {
    await using scope = new Scope();
    const copy = aTargetSystem({ start: { tier: 'warm', reason: '' }, boot: { identityMs: 9 } });
    const server = await aServer(scope, copy);
    server.keep(server.enrolments.issueForChannel(copy));
    server.clock.advance(60_001);
    assert.equal(server.enrolments.questionFor(copy.id), undefined);
    const key = newKey();
    /** It has no token but the one that it is told. */
    await server.admit((message) =>
      Promise.resolve(
        'challenge' in message && message.token !== undefined
          ? { token: message.token, request: signingRequest(key, message.machine) }
          : {},
      ),
    );
    assert.ok(server.record().enrolment?.keyHash);
    assert.deepEqual(server.events, []);
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
    const ask: AskEnrolment = (message) => Promise.resolve(agent.answer(JSON.stringify(message)));
    await server.admit(loses(ask));
    assert.equal(server.record().enrolment?.means, 'message');
    // the token was nowhere but in that message: from now on its key is what proves it
    const stolen = { request: signingRequest(newKey(), 'x'), signature: 'A'.repeat(88) };
    await refusal(server, () => Promise.resolve(stolen))(/neither the token nor a certificate/);
    const replayed: AskEnrolment = async (message) => ({
      ...(await ask(message)),
      signature: stolen.signature,
    });
    await refusal(server, replayed)(/neither the token nor a certificate/);
    await server.admit(ask);
    assert.equal(server.forgotten(), 1);
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
    const say = (message: object): EnrolmentAnswer => agent.answer(JSON.stringify(message));
    assert.deepEqual(say(ask), {});
    const { request = '', token: shown } = say({ ...ask, token });
    assert.equal(shown, token);
    const key = readSigningRequest(request);
    const authority = await MachineAuthority.open(join(stateDir, 'ca.pem'), 'grid', 1);
    const grant = (machine: string, of: KeyObject): object => ({
      machine,
      certificate: authority.sign(machine, of).toString(),
      authority: authority.certificate,
    });
    assert.throws(() => say(grant(`${aTargetSystem().id}.2`, key)), /for another machine/);
    assert.throws(() => say(grant(ask.machine, createPublicKey(newKey()))), /for another key/);
    say(grant(ask.machine, key));
    assert.deepEqual(Object.keys(say(ask)), ['certificate', 'signature']);
    // what was asked in the name of another machine gets neither certificate nor token
    assert.deepEqual(say({ ...ask, machine: `${aTargetSystem().id}.2` }), {});
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
      assert.throws(() => agent.answer(wrong), { code: 'TSI_PROTOCOL' });
  });
});

/** What `openssl req` makes with a key of a curve, as earlier versions of the agent did. */
const ofCurve = `-----BEGIN CERTIFICATE REQUEST-----
MIHLMHQCAQAwEjEQMA4GA1UEAwwHbWFjaGluZTBZMBMGByqGSM49AgEGCCqGSM49
AwEHA0IABARKcBjCrB6zElWH3czBDW3lhunesXAqHbm8pG7bAFV5tgqcnwkVZ09h
qkYek/SDBzhLTw2WPLT5EsWbFd9mytagADAKBggqhkjOPQQDAgNHADBEAiBZ18G2
Q1k8wQNinF5EYMEp1pKtOKBg3kmqSrxV7AXPjwIgb0SOD3aEIkgYfjNsulDV0z2u
VMnoz0g8bQdQqzUu/W8=
-----END CERTIFICATE REQUEST-----
`;

describe('a signing request', () => {
  const good = signingRequest(newKey(), 'machine');
  const body = (text: string): Buffer =>
    Buffer.from(text.replace(/-----[A-Z ]+-----/g, ''), 'base64');
  const pem = (der: Buffer): string =>
    `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;

  it('that is cut off, changed or none is refused', () => {
    assert.equal(readSigningRequest(good).asymmetricKeyType, 'ed25519');
    const der = body(good);
    const algorithm = der.lastIndexOf('300506032b6570', 'hex');
    for (let at = 0; at < der.length; at += 1) {
      assert.throws(() => readSigningRequest(pem(der.subarray(0, at))), { code: 'BAD_REQUEST' });
      // what stands around the two parts is not signed, and not looked at
      if (at < 3 || (at >= algorithm && at < algorithm + 10)) continue;
      const changed = Buffer.from(der);
      changed.writeUInt8(der.readUInt8(at) ^ 0x01, at);
      assert.throws(() => readSigningRequest(pem(changed)), { code: 'BAD_REQUEST' }, `octet ${at}`);
    }
    for (const text of ['', 'x', good.repeat(50)])
      assert.throws(() => readSigningRequest(text), { code: 'BAD_REQUEST' });
  });
  it('may be for a key of a curve, too', () => {
    assert.equal(readSigningRequest(ofCurve).asymmetricKeyType, 'ec');
  });
});
