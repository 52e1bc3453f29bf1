import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  decodeGreeting,
  decodeGreetingAnswer,
  encodeGreeting,
  encodeGreetingAnswer,
  longestGreeting,
} from '#tsi/protocol/greeting.js';
import { AnswerLine } from '#xnjs/tsi/answer-line.js';

const nonce = `${'n'.repeat(43)}=`;
const machine = '11111111-2222-4333-8444-555555555555.1';
const enrolment = { machine, challenge: `${'c'.repeat(43)}=`, expects: 'a'.repeat(64) };
const identity = {
  hostName: 'vsite-11111111',
  machineId: 'b'.repeat(32),
  seed: `${'A'.repeat(86)}==`,
  timeMs: 1_800_000_000_000,
  isCopy: true,
  isRehearsal: false,
};

describe('a greeting', () => {
  it('is one line of JSON after its word', () => {
    const line = encodeGreeting({ nonce, enrolment });
    assert.equal(
      line,
      `VSITE-GREETING {"nonce":"${nonce}","enrolment":${JSON.stringify(enrolment)}}\n`,
    );
    assert.deepEqual(decodeGreeting(line), { nonce, enrolment });
    const both = { nonce, identity, enrolment };
    assert.deepEqual(decodeGreeting(encodeGreeting(both)), both);
  });

  it('is none where another word stands', () => {
    assert.equal(decodeGreeting('PRI * HTTP/2.0\r\n'), undefined);
    assert.equal(decodeGreeting('VSITE-CHANNEL x command\n'), undefined);
  });

  const refused: readonly (readonly [string, object, string])[] = [
    ['without a nonce', { enrolment }, 'nonce'],
    ['with a nonce that is too short', { nonce: 'n', enrolment }, 'nonce'],
    ['whose question is none', { nonce, enrolment: 'yes' }, 'enrolment'],
    [
      'whose question names no machine',
      { nonce, enrolment: { ...enrolment, machine: '1' } },
      'machine',
    ],
    [
      'whose identity has another name',
      { nonce, identity: { ...identity, hostName: '-' } },
      'hostName',
    ],
  ];
  for (const [what, message, field] of refused)
    it(`is refused ${what}`, () => {
      assert.throws(() => decodeGreeting(`VSITE-GREETING ${JSON.stringify(message)}\n`), {
        code: 'TSI_PROTOCOL',
        details: { field },
      });
    });

  it('gives no certificate', () => {
    const pem = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
    const grant = { machine, certificate: pem, authority: pem };
    assert.throws(
      () => decodeGreeting(`VSITE-GREETING ${JSON.stringify({ nonce, enrolment: grant })}\n`),
      { code: 'TSI_PROTOCOL' },
    );
  });
});

describe('the answer to a greeting', () => {
  const answer = { nonce, isAnother: true, enrolment: { token: 't'.repeat(43) } };
  const line = Buffer.from(encodeGreetingAnswer(answer));
  const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);

  it('is found before HTTP/2, whole and one byte at a time', () => {
    for (const size of [1, 7, line.length + settings.length]) {
      const reader = new AnswerLine();
      const wire = Buffer.concat([line, settings]);
      let rest: Buffer | undefined;
      let at = 0;
      while (rest === undefined) rest = reader.push(wire.subarray(at, (at += size)));
      assert.deepEqual(decodeGreetingAnswer(reader.text ?? ''), answer);
      assert.ok(settings.equals(Buffer.concat([rest, wire.subarray(at)])));
    }
  });

  it('is missing where an agent begins with HTTP/2', () => {
    const reader = new AnswerLine();
    assert.deepEqual(reader.push(settings), settings);
    assert.equal(reader.text, undefined);
  });

  it('is not collected without end', () => {
    const reader = new AnswerLine();
    assert.equal(reader.push(Buffer.from('V')), undefined);
    assert.throws(() => reader.push(Buffer.alloc(longestGreeting, 'x')), { code: 'TSI_PROTOCOL' });
  });

  it('is refused when it is something else', () => {
    assert.throws(() => decodeGreetingAnswer('VSITE-CHANNEL'), { code: 'TSI_PROTOCOL' });
    assert.throws(() => decodeGreetingAnswer('VSITE-ANSWER {"nonce":1}'), { code: 'TSI_PROTOCOL' });
  });
});
