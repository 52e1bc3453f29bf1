import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { GridError } from '#kernel/errors.js';
import { decodeAcl, decodeAclSupport, filterAcl } from '#tsi/protocol/acl.js';
import * as commands from '#tsi/protocol/commands.js';
import { decodeFacts } from '#tsi/protocol/facts.js';
import { frame, MessageSplitter } from '#tsi/protocol/framing.js';
import {
  decodeBudget,
  decodePartitions,
  decodeReservation,
  decodeUserInfo,
  encodeBudget,
  encodePartitions,
  encodeReservation,
  encodeUserInfo,
  reservationStates,
} from '#tsi/protocol/information.js';
import { decodeListing, encodeListing } from '#tsi/protocol/listing.js';
import { parseMessage, type Command } from '#tsi/protocol/message.js';
import {
  decodeEnd,
  decodeLength,
  decodePing,
  decodeReply,
  encodeFailed,
  encodeOk,
} from '#tsi/protocol/reply.js';
import { decodeSpace, decodeStatus, encodeStatus } from '#tsi/protocol/status.js';

const rounds = { numRuns: 300 };
const alice = { login: 'alice', groups: 'NONE' };

/** Every row of the protocol's table. */
const table = Object.values(commands).filter(
  (row): row is Extract<typeof row, Command<never>> => typeof row === 'object' && 'decode' in row,
) as unknown as readonly Command<unknown>[]; // the values differ; here they are only passed through

const words = table.map(({ name }) => `#${name}`);
const headers = [
  ...['#TSI_FILE /a b 640', '#TSI_FILE /a', '#TSI_LENGTH 5', '#TSI_LENGTH -5', '#TSI_START 1e3'],
  ...['#TSI_USPACE_DIR /u', '#TSI_OUTCOME_DIR /u', '#TSI_STDOUT o', '#TSI_STDERR e'],
  ...['#TSI_ARRAY 0-9', '#TSI_ARRAY 1-9', '#TSI_JOB_MODE alloc', '#TSI_JOB_MODE x', '#TSI_SSR_A b'],
  ...['#TSI_ACL_OPERATION SETFACL', '#TSI_ACL_PATH /p', '#TSI_ACL_COMMAND RM RECURSIVE'],
  ...['#TSI_ACL_COMMAND_SPEC DU bob r-x', '#TSI_BSSID 7', '#TSI_LS_MODE R', '#TSI_EXCLUSIVE TRUE'],
  ...[
    '#TSI_SCRIPT',
    '#TSI_IDENTITY bob NONE',
    '#TSI_IDENTITY root',
    '#TSI_ __proto__',
    '#TSI_SSR___PROTO__ x',
  ],
];
/** Lines as a peer might send that knows the protocol, and means harm. */
const hostileLine = fc.oneof(
  fc.constantFrom(...words, ...headers, 'ENDOFMESSAGE', ' ENDOFMESSAGE', 'TSI_OK', 'TSI_FAILED: x'),
  fc.string({ unit: 'binary', maxLength: 40 }).map((text) => text.replaceAll('\n', ' ')),
);
const hostileText = fc.array(hostileLine, { maxLength: 25 }).map((lines) => lines.join('\n'));
const payloadLine = fc.oneof(
  fc.constantFrom(
    ...['START_LISTING', 'END_LISTING', ' DRWXO 1 1 /a', '--rwxr-x--- a b', '<', 'QSTAT'],
    ...[' 1 RUNNING q S', ' 1 X', 'TOTAL 1', 'FREE -1', 'USER x', 'TSI_LENGTH 5', 'user::rwx'],
    ...['home: /h', 'Accepted key 0: k', 'Attribute: __proto__=x', 'status: OK', 'p 1 2 core-h'],
    ...[
      '{"a":{"Nodes":1,"isDefault":true}}',
      '{"__proto__":{"Nodes":1,"isDefault":false}}',
      'true',
    ],
    ...['READY 2030-01-01', 'extensions: a b', '[]', 'null', '{}', 'default:group:x:r-x'],
  ),
  hostileLine,
);
const payload = fc.oneof(
  fc.array(payloadLine, { maxLength: 12 }).map((lines) => lines.join('\n')),
  fc.json(),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
);

/** A decoder may refuse by an error of the catalogue, and in no other way. */
function decides(decode: () => unknown): void {
  try {
    decode();
  } catch (error) {
    if (!(error instanceof GridError)) throw error;
  }
}

describe('any text', () => {
  it('is read as a message, or refused, by every command', () => {
    fc.assert(
      fc.property(hostileText, (text) => {
        const message = parseMessage(text);
        for (const row of table) decides(() => row.decode(message));
      }),
      rounds,
    );
  });

  const readers: readonly (readonly [string, (text: string) => unknown])[] = [
    ['a reply', (text) => decodeReply(text)],
    ['a bare reply', (text) => decodeReply(text, true)],
    ['the end of a chunk', decodeEnd],
    ['a length', (text) => decodeLength(text, 10)],
    ['a ping', decodePing],
    ['a listing', decodeListing],
    ['a status', decodeStatus],
    ['space', decodeSpace],
    ['facts', decodeFacts],
    ['access rights', decodeAcl],
    ['support of access rights', decodeAclSupport],
    ['what getfacl prints', filterAcl],
    ['partitions', decodePartitions],
    ['a budget', decodeBudget],
    ['user information', decodeUserInfo],
    ['a reservation', decodeReservation],
  ];
  for (const [what, read] of readers)
    it(`is read as ${what}, or refused`, () => {
      fc.assert(
        fc.property(payload, (text) => decides(() => read(text))),
        rounds,
      );
      assert.equal(({} as Record<string, unknown>)['Nodes'], undefined);
    });
});

describe('any bytes', () => {
  it('are cut into the same messages wherever the network cuts them', () => {
    const pieces = fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 20 });
    const framed = fc.array(hostileText.map((text) => Buffer.from(`${text}\nENDOFMESSAGE\n`)));
    fc.assert(
      fc.property(
        fc.oneof(pieces, framed),
        fc.array(fc.nat({ max: 30 }), { minLength: 1 }),
        (parts, cuts) => {
          const wire = Buffer.concat(parts);
          const whole = new MessageSplitter(1_000_000).push(wire).map(String);
          const splitter = new MessageSplitter(1_000_000);
          const found: string[] = [];
          for (let at = 0; at < wire.length;) {
            const size = 1 + (cuts[at % cuts.length] ?? 0);
            found.push(...splitter.push(wire.subarray(at, at + size)).map(String));
            at += size;
          }
          assert.deepEqual(found, whole);
        },
      ),
      rounds,
    );
  });

  it('never make a splitter hold more than its limit', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 30 }), (parts) => {
        const splitter = new MessageSplitter(500);
        decides(() => {
          for (const part of parts) {
            splitter.push(Buffer.from(part));
            assert.ok(splitter.pendingBytes <= 500 + '\nENDOFMESSAGE\n'.length);
          }
        });
      }),
      rounds,
    );
  });
});

describe('what is written', () => {
  it('is one message with the identity that was given, whatever the values hold', () => {
    const plain = fc.stringMatching(/^[!-~][ -~é]{0,20}$/);
    const text = fc.oneof(
      { weight: 12, arbitrary: plain },
      { weight: 1, arbitrary: hostileLine },
      { weight: 1, arbitrary: hostileText },
    );
    const values = fc.record({
      ...{ uspaceDir: text.map((tail) => `/${tail}`), outcomeDir: fc.constant('/o') },
      ...{ stdout: text, stderr: text, jobName: text, queue: text, project: text, script: text },
      ...{ qos: text, nodesFilter: text, attemptId: text, jobFile: text },
    });
    let written = 0;
    fc.assert(
      fc.property(values, (value) => {
        let wire: string;
        try {
          wire = commands.submit.encode(value, alice);
        } catch (error) {
          assert.ok(error instanceof GridError);
          return;
        }
        written += 1;
        const messages = new MessageSplitter(1_000_000).push(Buffer.from(wire)).map(String);
        assert.equal(messages.length, 1);
        const message = parseMessage(messages[0] ?? '');
        assert.deepEqual(message.identity, alice);
        assert.equal(message.words[0], 'TSI_SUBMIT');
        const { script, uspaceDir } = commands.submit.decode(message);
        assert.deepEqual([script.trimEnd(), uspaceDir], [value.script.trimEnd(), value.uspaceDir]);
      }),
      { numRuns: 2_000 },
    );
    assert.ok(written > 20, `only ${written} could be written`);
  });

  it('as a reply ends where it ends, whatever the payload holds', () => {
    fc.assert(
      fc.property(payload, payload, (text, reason) => {
        const wire = encodeOk(text) + encodeFailed(reason);
        const replies = new MessageSplitter(1_000_000).push(Buffer.from(wire)).map(String);
        assert.equal(replies.length, 2);
        assert.ok(replies[0]?.startsWith('TSI_OK\n'));
        assert.throws(() => decodeReply(replies[1] ?? ''), { code: 'TSI_FAILED' });
      }),
      rounds,
    );
  });

  it('is read as it was meant', () => {
    const word = fc.stringMatching(/^[A-Za-z0-9_.-]{1,12}$/);
    const line = fc.stringMatching(/^[!-~][ -~]{0,30}[!-~]$/);
    const plain = { noNullPrototype: true } as const;
    const partition = fc.record({ Nodes: fc.nat(), isDefault: fc.boolean() }, plain);
    fc.assert(
      fc.property(fc.dictionary(word, partition), (partitions) => {
        const read = decodePartitions(encodePartitions(partitions));
        assert.deepEqual(Object.entries(read), Object.entries(partitions));
      }),
    );
    const percent = fc.integer({ min: -1, max: 100 });
    const budget = fc.record(
      { project: word, remaining: fc.integer(), percent, units: word },
      plain,
    );
    fc.assert(
      fc.property(fc.array(budget, { minLength: 1 }), (budgets) =>
        assert.deepEqual(decodeBudget(encodeBudget(budgets)), budgets),
      ),
    );
    const info = fc.record(
      {
        home: line.map((tail) => `/${tail}`),
        acceptedKeys: fc.array(line),
        attributes: fc.dictionary(
          word.filter((name) => name !== '__proto__'),
          line,
          { noNullPrototype: true },
        ),
        status: line,
      },
      plain,
    );
    fc.assert(
      fc.property(info, (given) => assert.deepEqual(decodeUserInfo(encodeUserInfo(given)), given)),
    );
    const state = fc.constantFrom(...reservationStates);
    fc.assert(
      fc.property(fc.record({ state, start: word, text: line }, plain), (given) =>
        assert.deepEqual(decodeReservation(encodeReservation(given)), given),
      ),
    );
    const entry = fc.record(
      { state: fc.constantFrom('QUEUED', 'RUNNING'), queue: word, rawState: word },
      plain,
    );
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(word, entry), { selector: ([id]) => id }), (jobs) =>
        assert.deepEqual([...decodeStatus(encodeStatus(jobs))], jobs),
      ),
    );
    assert.deepEqual(decodeListing(encodeListing([])), []);
    assert.equal(frame(''), 'ENDOFMESSAGE\n');
  });
});
