import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { quote, quoteExpanding } from '#xnjs/incarnation/quote.js';

/** What a process can be given: no NUL, no half of a surrogate pair. */
function wellFormed(text: string): string {
  return Buffer.from(text.replaceAll('\0', '')).toString();
}

/** What bash makes of the words, each followed by NUL. */
function bash(words: readonly string[], environment: Record<string, string> = {}): string[] {
  const script = words.map((word) => `printf '%s\\0' ${word}\n`).join('');
  const output = execFileSync('/bin/bash', ['--norc', '-s'], {
    input: script,
    env: { PATH: '/usr/bin:/bin', ...environment },
    encoding: 'utf8',
  });
  return output.split('\0').slice(0, -1);
}

const nasty = [
  '',
  "it's",
  '$HOME',
  '`id`',
  '$(id)',
  '"; rm -rf /',
  'a\nb',
  'a\r\nb',
  '\\',
  "\\'",
  "$'x'",
  '#TSI_PING',
  'x\n#TSI_IDENTITY root NONE\n',
  'ENDOFMESSAGE',
  '\nENDOFMESSAGE\n',
  '\x01\x7f\x1b[31m',
  'ünïcödé \u2028 😀',
  '-n',
  '!history',
  '*?[a]{b,c}~',
];
const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.array(fc.constantFrom(...nasty, '$', "'", '\\', '{', '}', 'X')).map((parts) => parts.join('')),
);
const words = fc.array(
  text.map((value) => wellFormed(value)),
  { minLength: 1, maxLength: 40 },
);

describe('shell words', () => {
  it('mean exactly the text that was quoted, whatever is in it', () => {
    assert.deepEqual(bash(nasty.map(quote)), nasty);
    fc.assert(
      fc.property(words, (values) => assert.deepEqual(bash(values.map(quote)), values)),
      { numRuns: 60 },
    );
  });

  it('hold nothing that a TSI would take for its own', () => {
    fc.assert(
      fc.property(words, (values) => {
        for (const word of values.map(quote))
          assert.doesNotMatch(word, /#TSI_|ENDOFMESSAGE|\$(HOME|USER|LOGNAME)|\r|\0/);
      }),
    );
  });

  it('refuse NUL', () => {
    assert.throws(() => quote('a\0b'), TypeError);
  });

  const expansions = [
    ['$X', 'a  *'],
    ['${X}y', 'a  *y'],
    ['pre$X-$Y.post', 'pre a  *-.post'.replace('pre ', 'pre')],
    ['\\$X', '$X'],
    ['$(id)`id`$((1+1))', '$(id)`id`$((1+1))'],
    ['${X:-default}', '${X:-default}'],
    ['$1$$$?', '$1$$$?'],
    ['"$X"', '"a  *"'],
    ["it's ${X}", "it's a  *"],
    ['', ''],
  ] as const;
  for (const [argument, meaning] of expansions)
    it(`${argument || '(nothing)'} expands to ${meaning || '(nothing)'}`, () => {
      assert.deepEqual(bash([quoteExpanding(argument)], { X: 'a  *' }), [meaning]);
    });

  it('expand variables only: text without a dollar sign stays as it is', () => {
    const plain = words.map((values) => values.map((value) => value.replaceAll('$', '')));
    fc.assert(
      fc.property(plain, (values) => assert.deepEqual(bash(values.map(quoteExpanding)), values)),
      { numRuns: 40 },
    );
  });
});
