import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ImageMetadata, readParameter, type ParameterDeclaration } from '#imagerepo/contract.js';
import { describeIssues } from '#kernel/config.js';
import { metadata } from './samples.js';

const read = (parameters: unknown) => ImageMetadata.safeParse({ ...metadata(), parameters });
const declared = (parameter: object): ParameterDeclaration => {
  const result = read({ p: parameter });
  assert.ok(result.success, result.error && describeIssues(result.error));
  return result.data.parameters!['p']!;
};

describe('the parameters that an image declares', () => {
  const refusals: [string, object, RegExp][] = [
    ['a name that is none of a variable', { 'a-b': { type: 'string' } }, /parameters.*must be a letter/],
    ['an unknown type', { p: { type: 'date' } }, /^parameters\.p\.type: /],
    ['an unknown member', { p: { type: 'string', size: 3 } }, /^parameters\.p: .*"size"/],
    ['a choice without values', { p: { type: 'choice', values: [] } }, /^parameters\.p\.values: must name/],
    ['a value twice', { p: { type: 'choice', values: ['a', 'a'] } }, /^parameters\.p\.values: .*twice/],
    ['a pattern that takes long', { p: { type: 'string', pattern: '(a?){1000}'.repeat(25) } }, /^parameters\.p\.pattern: is too large/],
    ['many of them', Object.fromEntries(['p', 'q', 'r', 's'].map((name) => [name, { type: 'string', pattern: '(a?){30}' }])), /^parameters\.s\.pattern: is too large/],
    ['no regular expression', { p: { type: 'string', pattern: '(' } }, /^parameters\.p\.pattern: /],
    ['bounds the wrong way round', { p: { type: 'integer', min: 4, max: 3 } }, /^parameters\.p\.max: must not be below 4/],
    ['a default outside its bounds', { p: { type: 'integer', max: 3, default: 4 } }, /^parameters\.p\.default: 4 is above 3/],
    ['a default that does not match', { p: { type: 'string', pattern: 'a+', default: 'b' } }, /^parameters\.p\.default: must match a\+/],
    ['a default of another type', { p: { type: 'boolean', default: 'yes' } }, /^parameters\.p\.default: /],
    ['a default that nobody can use', { p: { type: 'number', default: 1, required: true } }, /^parameters\.p\.required: /],
    ['more than can be kept', Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`p${i}`, { type: 'string' }])), /^parameters: must not be more than 64/],
  ]; // prettier-ignore
  for (const [what, parameters, text] of refusals)
    it(`refuses ${what}, by the name of the field`, () => {
      const result = read(parameters);
      assert.ok(!result.success);
      assert.match(describeIssues(result.error), text);
    });

  const values: [object, unknown, unknown][] = [
    [{ type: 'integer', min: 1, max: 8 }, '8', 8],
    [{ type: 'integer' }, 1.5, /must be a whole number/],
    [{ type: 'integer' }, '', /must be a whole number/],
    [{ type: 'integer', min: 1 }, 0, /0 is below 1/],
    [{ type: 'number' }, '-.5e1', -5],
    [{ type: 'number' }, 'NaN', /must be a number/],
    [{ type: 'number' }, [1], /must be a number/],
    [{ type: 'boolean' }, 'TRUE', true],
    [{ type: 'boolean' }, 'on', /must be true or false/],
    [{ type: 'choice', values: ['fast', 'safe'] }, 'safe', 'safe'],
    [{ type: 'choice', values: ['fast', 'safe'] }, 'slow', /must be one of fast, safe/],
    [{ type: 'choice', values: ['1', '2'] }, 2, '2'],
    [{ type: 'string', minLength: 2 }, 'a', /its length is below 2/],
    [{ type: 'string', maxLength: 2 }, '😀😀', '😀😀'],
    [{ type: 'string' }, 'two\nlines', /must be one line/],
    [{ type: 'string' }, { a: 1 }, /must be a text/],
    [{ type: 'string', pattern: '[a-z]+' }, 'abc1', /must match \[a-z\]\+/],
    // the whole text, and in no more time than its length takes
    [{ type: 'string', pattern: '(a+)+b' }, 'a'.repeat(256), /must match/],
    [{ type: 'string', pattern: 'a+' }, 'a'.repeat(257), /its length is above 256/],
  ];
  for (const [declaration, given, expected] of values)
    it(`reads ${JSON.stringify(given)} as ${JSON.stringify(declaration)} wants it`, () => {
      const result = readParameter(declared(declaration), given);
      if ('reason' in result) assert.match(result.reason, expected as RegExp);
      else assert.equal(result.value, expected);
    });
});
