import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { pageParameters, renderPage, slicePage } from '#kernel/http/page.js';
import { contentRange, parseRange } from '#kernel/http/range.js';

describe('fields', () => {
  const resource = { status: 'READY', tags: [], _links: {} };
  const cases = [
    [undefined, ['status', 'tags', '_links']],
    ['status', ['status']],
    ['status,tags', ['status', 'tags']],
    ['status+tags', ['status', 'tags']],
    ['status%2Ctags', ['status', 'tags']],
    ['!_links', ['status', 'tags']],
    ['status !status', []],
    ['unknown', []],
  ] as const;
  for (const [text, names] of cases)
    it(`${text ?? 'absent'} shows ${names.join(', ') || 'nothing'}`, () => {
      assert.deepEqual(Object.keys(selectFields(resource, fieldsParameter.parse(text))), names);
    });

  it('that are no URL encoded text are refused', () => {
    assert.equal(fieldsParameter.safeParse('%zz').success, false);
  });
});

describe('pages', () => {
  const parameters = z.object(pageParameters(3));
  const url = 'https://h/S/rest/core/jobs';

  it('are named by the address and lead to their neighbours', () => {
    const page = parameters.parse({ offset: '2', num: '2' });
    const entries = slicePage(['a', 'b', 'c', 'd', 'e'], page);
    assert.deepEqual(renderPage(url, page, entries, 5, { tags: 'x', filter: undefined }), {
      jobs: ['c', 'd'],
      _links: {
        self: { href: `${url}/?offset=2&num=2&tags=x` },
        next: { href: `${url}/?offset=4&num=2&tags=x` },
        previous: { href: `${url}/?offset=0&num=2&tags=x` },
      },
    });
  });

  it('have no neighbours where there are none', () => {
    const page = parameters.parse({});
    const { _links } = renderPage(url, page, ['a'], 1);
    assert.deepEqual(Object.keys(_links as object), ['self']);
  });

  it('refuse what is no number of things, and have a limit', () => {
    for (const bad of [{ offset: '-1' }, { num: '0' }, { num: 'x' }, { offset: '1.5' }])
      assert.equal(parameters.safeParse(bad).success, false);
    assert.equal(parameters.parse({ num: '999999' }).num, 10_000);
  });
});

describe('ranges', () => {
  const cases = [
    ['bytes=0-0', { offset: 0, length: 1 }],
    ['bytes=2-', { offset: 2, length: 8 }],
    ['bytes=2-99', { offset: 2, length: 8 }],
    ['bytes=-3', { offset: 7, length: 3 }],
    ['bytes=-99', { offset: 0, length: 10 }],
    [undefined, undefined],
    ['lines=1-2', undefined],
    ['bytes=0-1,4-5', undefined],
  ] as const;
  for (const [header, range] of cases)
    it(`${header ?? 'none'} of ten bytes`, () => assert.deepEqual(parseRange(header, 10), range));

  for (const header of ['bytes=0-9', 'bytes=3-', 'bytes=-1'])
    it(`${header} of nothing is all of it`, () => assert.equal(parseRange(header, 0), undefined));
  it('that make no sense are refused of nothing, too', () => {
    assert.throws(() => parseRange('bytes=a-b', 0), { code: 'RANGE_NOT_SATISFIABLE' });
  });

  for (const header of ['bytes=10-', 'bytes=5-4', 'bytes=-0', 'bytes=-', 'bytes=a-b'])
    it(`${header} of ten bytes is refused`, () => {
      assert.throws(() => parseRange(header, 10), { code: 'RANGE_NOT_SATISFIABLE' });
    });

  it('say what they are', () => {
    assert.equal(contentRange({ offset: 2, length: 3 }, 10), 'bytes 2-4/10');
  });
});
