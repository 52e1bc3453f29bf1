import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { tagList } from '#targetsystem/rest/properties.js';

describe('tags in a request', () => {
  it('are a list or one text, each once', () => {
    assert.deepEqual(tagList.parse(['a b', 'c', 'a b']), ['a b', 'c']);
    assert.deepEqual(tagList.parse('a b,c+a'), ['a', 'b', 'c']);
    assert.deepEqual(tagList.parse(''), []);
  });

  it('are texts also where numbers and truth values are given', () => {
    assert.deepEqual(tagList.parse(['a', 1, true, '1']), ['a', '1', 'true']);
    assert.deepEqual(tagList.parse(7), ['7']);
  });

  const refused = [
    ['a list within', [['a']]],
    ['an object', [{ a: 1 }]],
    ['null', [null]],
    ['an empty one', ['']],
    ['a long one', ['x'.repeat(129)]],
    ['a long one within a text', `a ${'x'.repeat(129)}`],
    ['NUL', 'a\0b'],
    ['too many', Array.from({ length: 101 }, (_, n) => `t${n}`)],
  ] as const;
  for (const [what, tags] of refused)
    it(`are refused with ${what}`, () => assert.ok(!tagList.safeParse(tags).success));
});
