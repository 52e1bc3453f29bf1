import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseLenientJson } from '#kernel/http/body.js';
import { readLenientJson } from '#kernel/http/lenient-json.js';

describe('JSON of requests', () => {
  const accepted: readonly (readonly [string, string, object])[] = [
    ['single quotes', `{'tags': 'test123', "it's": 'say "x"'}`, { tags: 'test123', "it's": 'say "x"' }],
    ['keys without quotes', '{Executable: "date", Job type: "BATCH"}', { Executable: 'date', 'Job type': 'BATCH' }],
    ['values without quotes', '{Executable: date, Name: my job , Arguments: [-l, a.b]}', { Executable: 'date', Name: 'my job', Arguments: ['-l', 'a.b'] }],
    ['numbers and literals without quotes, and what only looks like them', '{a: 1, b: -2.5e3, c: True, d: NULL, e: 10m, f: 007, g: .5, h: 0x1F}', { a: 1, b: -2500, c: true, d: null, e: '10m', f: '007', g: '.5', h: '0x1F' }],
    ['semicolons', '{a: 1; "b": [1; 2;]; c: {d: x;}}', { a: 1, b: [1, 2], c: { d: 'x' } }],
    ['a comma at the end', '{"a": [1, 2,], }', { a: [1, 2] }],
    ['text behind the end', '{"a": 1} and "more": }{', { a: 1 }],
    ['comments', '// first\n{"a": /* one */ 1, // rest\n b: x /* , c: y */}', { a: 1, b: 'x' }],
    ['escapes', String.raw`{'a': '\'\u00e9\n\/', "b": "tab	"}`, { a: "'é\n/", b: 'tab\t' }],
    ['nothing', '\ufeff { } ', {}],
  ]; // prettier-ignore
  for (const [what, text, expected] of accepted)
    it(`may have ${what}`, () => assert.deepEqual(parseLenientJson(text), expected));

  const refused: readonly (readonly [string, string, RegExp])[] = [
    ['a key twice', '{"a": 1, "b": {"c": 1,\n "c": 2}}', /key "c" is there twice \(line 2, column 2\)/],
    ['a key twice, leniently', "{'a': 1; a: 2}", /key "a" is there twice \(line 1, column 10\)/],
    ['a key twice behind an escape', String.raw`{"\u0061\"": 1, "a\"": 2}`, /is there twice/],
    ['nothing behind a key', '{"a": }', /expected a value \(line 1, column 7\)/],
    ['no colon', '{"a" 1}', /expected ":" after "a" \(line 1, column 6\)/],
    ['no comma', '{"a": "b" "c": 1}', /expected "," or "}" \(line 1, column 11\)/],
    ['two commas', '{"a": 1,, "b": 2}', /expected a key \(line 1, column 9\)/],
    ['the wrong bracket', '{"a": [1}', /expected "," or "]" \(line 1, column 9\)/],
    ['no end', '{"a": 1, "b": [1, 2', /column 20, where the text ends/],
    ['a text without its end', `{"a": 'x"}`, /text without its end .* where the text ends/],
    ['a text over two lines', '{"a": "x\ny"}', /text without its end \(line 1, column 9\)/],
    ['an escape that is none', String.raw`{"a": "\x41"}`, /unknown escape "\\\\x" \(line 1, column 9\)/],
    ['an escape cut off', String.raw`{"a": "\u00"}`, /unknown escape/],
    ['a comment without its end', '{"a": 1 /* x', /expected "," or "}"/],
    ['no object', "'x'", /expected a JSON object/],
    ['a list', '[{"a": 1}]', /expected a JSON object/],
    ['a number too large', '{a: 1e400}', /out of range/],
    ['a number that loses digits', '{a: 9007199254740993}', /out of range/],
    ['65 levels', `{"a": ${'['.repeat(64)}${']'.repeat(64)}}`, /deeper than 64 levels/],
    ['65 levels, leniently', `{a: ${'['.repeat(64)}`, /deeper than 64 levels/],
    ['a million levels', `{a: ${'['.repeat(1e6)}`, /deeper than 64 levels/],
  ]; // prettier-ignore
  for (const [what, text, message] of refused)
    it(`must not have ${what}`, () =>
      assert.throws(() => parseLenientJson(text), { code: 'BAD_REQUEST', message }));

  it('changes nothing of what all objects have', () => {
    for (const text of [
      '{"__proto__": {"x": 1}}',
      '{__proto__: {x: 1}, constructor: {prototype: {x: 1}}}',
    ]) {
      const value = parseLenientJson(text);
      assert.equal(Object.getPrototypeOf(value), Object.prototype);
      assert.equal((value as { x?: number }).x, undefined);
      assert.ok(Object.hasOwn(value, '__proto__'));
    }
  });

  it('is read as any parser reads it where it is JSON', () => {
    const key = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('__proto__', 'a":', ''));
    const value = fc.letrec((tie) => ({
      any: fc.oneof(
        { maxDepth: 4 },
        fc.string({ unit: 'binary' }),
        fc.double({ noNaN: true, noDefaultInfinity: true, max: 1e15, min: -1e15 }),
        fc.constantFrom(true, false, null, '":', '\\'),
        fc.array(tie('any')),
        fc.dictionary(key, tie('any')),
      ),
    })).any;
    fc.assert(
      fc.property(fc.dictionary(key, value), fc.constantFrom(0, 2), (object, indent) => {
        const text = JSON.stringify(object, undefined, indent);
        const expected: unknown = JSON.parse(text);
        assert.deepEqual(readLenientJson(text, 64), expected);
        assert.deepEqual(parseLenientJson(text), expected);
      }),
    );
  });

  it('of any kind ends in an object or a refusal', () => {
    const piece = fc.constantFrom('{', '}', '[', ']', ',', ';', ':', '"', "'", 'a', '1', ' ', '\\', '/', '*', '\n', 'u0041'); // prettier-ignore
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
        try {
          assert.equal(typeof parseLenientJson(`{${pieces.join('')}`), 'object');
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'BAD_REQUEST');
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
