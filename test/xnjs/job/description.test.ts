import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  jobName,
  jobTags,
  notificationWish,
  parseDescription,
  withoutInlineData,
} from '#xnjs/job/description.js';

describe('job descriptions', () => {
  it('takes null for absent, also in lists and maps', () => {
    const parsed = parseDescription({
      Executable: 'date',
      Name: null,
      'Login node': null,
      Environment: { A: '1', B: null },
      Imports: [{ From: null, To: 'x', Data: 'd', Permissions: null }],
    });
    assert.deepEqual([parsed.Name, parsed.Environment], [undefined, { A: '1' }]);
    assert.equal(parsed.Imports[0]?.data, 'd');
  });

  it('ignores keys that it does not know', () => {
    assert.equal(parseDescription({ Site: 'X', 'Preferred protocol': 7 }).Executable, undefined);
  });

  const flags: [unknown, boolean][] = [
    [true, true],
    ['true', true],
    ['TRUE', true],
    ['false', false],
    [false, false],
    [undefined, false],
  ];
  for (const [value, meaning] of flags)
    it(`reads ${JSON.stringify(value)} as ${meaning}`, () => {
      assert.equal(parseDescription({ haveClientStageIn: value }).haveClientStageIn, meaning);
    });

  it('reads the environment as map or as list, numbers and booleans as text', () => {
    const map = { A: 'x=y', B: 7, C: true };
    const text = { A: 'x=y', B: '7', C: 'true' };
    assert.deepEqual(parseDescription({ Environment: map }).Environment, text);
    assert.deepEqual(
      parseDescription({ Environment: ['A=x=y', 'B=7', 'C=true'] }).Environment,
      text,
    );
  });

  it('reads of what the client wants to be told, in all forms', () => {
    const wish = (description: Record<string, unknown>) =>
      notificationWish(parseDescription(description));
    const url = 'https://h/x';
    const status = ['RUNNING', 'SUCCESSFUL', 'FAILED'];
    assert.deepEqual(wish({ Notification: url }), { url, status, bssStatus: [] });
    assert.deepEqual(wish({ Notification: [url] }), { url, status, bssStatus: [] });
    assert.deepEqual(
      wish({ Notification: url, NotificationSettings: { status: ['queued'], bssStatus: ['P.*'] } }),
      { url, status: ['QUEUED'], bssStatus: ['P.*'] },
    );
    assert.equal(wish({ NotificationSettings: { status: ['QUEUED'] } }), undefined);
  });

  it('has a name and tags in every case', () => {
    assert.equal(jobName(parseDescription({})), 'UNICORE_Job');
    assert.equal(jobName(parseDescription({ ApplicationName: 'Date' })), 'Date');
    assert.deepEqual(jobTags(parseDescription({ tags: ['a', 'b', 'a'] })), ['a', 'b']);
  });

  it('cuts inline data out of what is shown, and nothing else', () => {
    const Imports = [
      { To: 'x', Data: 'secret' },
      { To: 'y', From: 'https://h' },
    ];
    assert.deepEqual(withoutInlineData({ Name: 'n', Imports }), {
      Name: 'n',
      Imports: [
        { To: 'x', Data: 'n/a' },
        { To: 'y', From: 'https://h' },
      ],
    });
    assert.deepEqual(withoutInlineData({ Imports: { x: { Data: 's' } } }), {
      Imports: { x: { Data: 'n/a' } },
    });
  });

  const refused: [string, Record<string, unknown>, RegExp][] = [
    ['arguments that are no strings', { Arguments: ['a', 1] }, /Arguments\.1: must be a string/],
    ['a value with NUL', { Executable: 'a\0b' }, /Executable: must not contain NUL/],
    ['a name of two lines', { Name: 'a\nb' }, /Name: must be one line/],
    ['a wrong variable name', { Environment: { 'A B': 'x' } }, /Environment.*A B/],
    [
      'a parameter that is a list',
      { Parameters: { X: ['1'] } },
      /Parameters\.X: must be a string, or the values of a sweep/,
    ],
    ['output files that are commands', { Stdout: '$(id)' }, /Stdout: must not contain/],
    [
      'a flag that is none',
      { IgnoreNonZeroExitCode: 'maybe' },
      /IgnoreNonZeroExitCode: must be true or false/,
    ],
    ['a umask that is none', { Umask: '9' }, /Umask: must be octal/],
    ['a tag as long as a text', { Tags: ['x'.repeat(129)] }, /Tags\.0: must have 1 to 128/],
    ['a raw job without directives', { 'Job type': 'raw' }, /BSS file: must name the file/],
    ['a job type that there is not', { 'Job type': 'later' }, /Job type: there are no later jobs/],
    ['a time that is none', { 'Not before': 'tomorrow' }, /Not before: must be a time: HH:mm/],
    ['a receiver by another scheme', { Notification: 'ftp://h/x' }, /Notification: must be a URL/],
    ['two receivers', { Notification: ['https://h/1', 'https://h/2'] }, /Notification/],
    [
      'a pattern that takes for ever, or is none',
      { NotificationSettings: { URL: 'https://h/', bssStatus: ['(?=x)', '('] } },
      /NotificationSettings\.bssStatus\.0: must be a regular.*bssStatus\.1/,
    ],
    [
      'a pattern without end',
      { NotificationSettings: { bssStatus: ['x'.repeat(257)] } },
      /must have at most 256/,
    ],
    ['scp imports', { Imports: [{ From: 'scp://h/x', To: 'x' }] }, /Imports\.0.*"scp"/],
    ['exports', { Exports: [{ From: 'x', To: 'UFTP:https://h/x' }] }, /Exports\.0.*"UFTP"/],
    ['an import without target', { Imports: [{ Data: 'x' }] }, /Imports\.0.*To/],
    ['an import by no URL', { Imports: [{ From: 'x y', To: 'x' }] }, /Imports\.0.*must be a URL/],
    ['wrong permissions', { Imports: [{ To: 'x', Data: '', Permissions: '755' }] }, /Permissions/],
  ];
  for (const [what, description, message] of refused)
    it(`refuses ${what}, naming the field`, () => {
      assert.throws(() => parseDescription(description), { code: 'JOB_INVALID', message });
    });
});
