import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseDescription } from '#xnjs/job/description.js';
import { withoutCredentials } from '#xnjs/staging/entries.js';
import { withoutSecrets } from '#xnjs/staging/url.js';

const importOf = (entry: object) => parseDescription({ Imports: [entry] }).Imports[0]!;
const exportOf = (entry: object) => parseDescription({ Exports: [entry] }).Exports[0]!;

describe('elements of Imports and Exports', () => {
  it('are read as list or as map, with all the names that clients use', () => {
    const more = { Data: ['one', 'two'], Mode: 'APPEND', Permissions: 'rwx' };
    for (const Imports of [
      [{ To: 'a/b', ...more }],
      [{ From: 'inline:x', file: 'a/b', ...more }],
      { 'a/b': { source: 'inline://dummy', ...more } },
    ]) {
      const [read] = parseDescription({ Imports }).Imports;
      const { to, from, data, mode, permissions } = read!;
      assert.deepEqual(
        [to, from, data, mode, permissions],
        ['a/b', 'inline:', 'one\ntwo', 'append', 'rwx'],
      );
    }
    for (const Exports of [
      [{ From: 'out', To: 'https://h/x' }],
      [{ file: 'out', target: 'https://h/x' }],
      { out: { To: 'https://h/x' } },
    ]) {
      const [read] = parseDescription({ Exports }).Exports;
      assert.deepEqual([read?.from, read?.to, read?.mode], ['out', 'https://h/x', 'overwrite']);
    }
  });

  const flags: [unknown, boolean][] = [
    [undefined, true],
    [true, true],
    ['true', true],
    [false, false],
    ['false', false],
    ['FALSE', false],
  ];
  for (const [FailOnError, meaning] of flags)
    it(`read FailOnError ${JSON.stringify(FailOnError)} as ${meaning}`, () => {
      assert.equal(importOf({ From: 'https://h/x', To: 'x', FailOnError }).failOnError, meaning);
      assert.equal(exportOf({ From: 'x', To: 'https://h/x', FailOnError }).failOnError, meaning);
    });

  it('read credentials of all kinds, and parameters as text', () => {
    const read = (Credentials: object) =>
      importOf({ From: 'https://h/x', To: 'x', Credentials }).credentials;
    assert.deepEqual(read({ Username: 'u', Password: 'p' }), {
      kind: 'basic',
      username: 'u',
      password: 'p',
    });
    assert.deepEqual(read({ BearerToken: 't' }), { kind: 'bearer', token: 't' });
    assert.deepEqual(read({ Token: 't' }), { kind: 'token', token: 't' });
    const { parameters, readOnly } = importOf({
      ...{ From: 's3://bucket/x', To: 'x', ReadOnly: 'true' },
      ExtraParameters: { pathStyle: true, endpoint: 'https://h' },
    });
    assert.deepEqual([parameters, readOnly], [{ pathStyle: 'true', endpoint: 'https://h' }, true]);
  });

  it('are offered by these schemes, in any case', () => {
    for (const From of [
      ...['https://h/x', 'HTTP://h/x', 'file:///x', 'link:/x', 's3://bucket/x', 'git:https://h/x'],
      ...['git+https://h/x', 'BFT:https://h/S/rest/core/storages/HOME/files/a?.dat'],
    ])
      assert.equal(importOf({ From, To: 'x' }).from, From);
    for (const To of [
      'https://h/x',
      'file:///x',
      's3://bucket/x',
      'bft:https://h/rest/core/storages/X/files/',
    ])
      assert.equal(exportOf({ From: 'x', To }).to, To);
  });

  const refused: [string, object, RegExp][] = [
    [
      'UFTP',
      { Exports: [{ From: 'x', To: 'UFTP:https://h/x' }] },
      /Exports\.0.*To: exports by "UFTP" are not offered/,
    ],
    [
      'git as a target',
      { Exports: [{ From: 'x', To: 'git:https://h/x' }] },
      /Exports\.0.*"git" are not offered/,
    ],
    ['an import without target', { Imports: [{ Data: 'x' }] }, /Imports\.0.*To/],
    ['no URL', { Imports: [{ From: 'x y', To: 'x' }] }, /Imports\.0.*must be a URL/],
    ['wrong permissions', { Imports: [{ To: 'x', Data: '', Permissions: '755' }] }, /Permissions/],
    [
      'a wrong mode',
      { Imports: [{ To: 'x', Data: '', Mode: 'maybe' }] },
      /Mode: must be overwrite, append/,
    ],
    [
      'a wrong flag',
      { Imports: [{ To: 'x', Data: '', FailOnError: 'maybe' }] },
      /FailOnError: must be true/,
    ],
    [
      'a sweep over files',
      { Imports: [{ From: ['https://h/a'], To: 'x' }] },
      /From: parameter sweeps/,
    ],
    [
      'half a checksum',
      { Imports: [{ From: 'https://h/x', To: 'x', ExtraParameters: { checksum: 'md5:ab' } }] },
      /checksum: must be an algorithm/,
    ],
    [
      'no credentials',
      { Imports: [{ From: 'https://h/x', To: 'x', Credentials: {} }] },
      /Credentials: must have/,
    ],
    [
      'a token that is not kept',
      { Imports: [{ From: 'https://h/x', To: 'x', Credentials: { BearerToken: '' } }] },
      /BearerToken: must not be empty/,
    ],
  ];
  for (const [what, description, message] of refused)
    it(`refuse ${what}`, () => {
      assert.throws(() => parseDescription({ ...description }), { code: 'JOB_INVALID', message });
    });

  it('are shown without credentials', () => {
    const shown = withoutCredentials({
      Imports: [
        { To: 'x', Data: 'data' },
        {
          To: 'y',
          From: 'https://u:secret@h/y',
          Credentials: { Username: 'u', Password: 'secret' },
        },
      ],
      Exports: { z: { To: 'https://secret@h/z', Credentials: { Token: 'secret' } } },
    });
    assert.doesNotMatch(JSON.stringify(shown), /secret/);
    assert.equal(withoutSecrets('https://u:p@h/x?X-Amz-Signature=1#f'), 'https://h/x');
    assert.equal(withoutSecrets('git:https://u:p@h/x?t=1'), 'git:https://h/x');
    const pattern = 'https://h/S/rest/core/storages/HOME/files/a?.dat';
    assert.equal(withoutSecrets(pattern), pattern);
  });
});
