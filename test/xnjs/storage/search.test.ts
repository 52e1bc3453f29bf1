import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseQuery, type SearchDocument } from '#xnjs/storage/search.js';

const document: SearchDocument = {
  path: '/data/Run 7/result-01.CSV',
  metadata: { author: 'Ada Lovelace', size: '12', 'Content-Type': 'text/csv' },
};
const matching = [
  'result-01.csv',
  'result*',
  '*01.???',
  'RESULT',
  'lovelace',
  'author:ada',
  'author:"ada love"',
  'Content-Type:"text/csv"',
  '"Content-Type":text*',
  'resourceName:*.csv',
  'resourceName:?data*',
  'name:result-01.csv',
  'size:>10 AND size:<=12',
  'size:[10 TO 20]',
  'ada lovelace',
  'nobody OR ada',
  '(nobody OR ada) AND NOT grace',
  '-grace',
  'run',
  '*',
];
const others = [
  'love',
  'resul',
  'author:csv',
  'title:ada',
  'size:>12',
  'size:{12 TO 20}',
  'ada AND nobody',
  'ada nobody',
  'NOT ada',
  '"lovelace ada"',
  'toString:*',
  '??????x',
];
const refused = [
  '',
  ' ',
  '(',
  'a AND',
  'a:/b+/',
  'Content-Type:text/csv',
  '"open',
  'x'.repeat(257),
];

describe('a search query', () => {
  for (const query of matching)
    it(`${query} matches`, () => assert.ok(parseQuery(query)(document)));
  for (const query of others)
    it(`${query} does not match`, () => assert.ok(!parseQuery(query)(document)));
  for (const query of refused)
    it(`${JSON.stringify(query.slice(0, 20))} is refused`, () =>
      assert.throws(() => parseQuery(query), { code: 'BAD_REQUEST' }));

  it('cannot be made to take long', () => {
    const began = performance.now();
    const matches = parseQuery('*a'.repeat(120) + 'b');
    assert.ok(!matches({ path: `/${'a'.repeat(4_000)}`, metadata: {} }));
    assert.ok(performance.now() - began < 2_000);
  });
});
