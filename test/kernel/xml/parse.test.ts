import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { element, toXml } from '#kernel/xml/build.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, childOf, childrenOf, findBelow, textOf } from '#kernel/xml/read.js';

const manyTimes = (text: string, times: number): string => text.repeat(times);
/** More than any of these may take on a busy machine, and far less than they would without limits. */
const quickMs = 20_000;

const lots = Array.from({ length: 60 }, (_, i) => `xmlns:a${i}="u${i}"`).join(' ');
const refused: [string, string, RegExp][] = [
  ['nothing', '', /malformed/],
  ['blanks', ' \n', /no element/],
  ['text only', 'hello', /outside of the root/],
  ['text before', 'x<a/>', /outside of the root/],
  ['text after', '<a/>x', /outside of the root/],
  ['two roots', '<a/><b/>', /malformed/],
  ['an element that does not end', '<a><b></a>', /malformed/],
  ['an end without a start', '</a>', /malformed/],
  ['an attribute without quotes', '<a x=1/>', /malformed/],
  ['an attribute without value', '<a x/>', /malformed/],
  ['an attribute twice', '<a x="1" x="2"/>', /redefined/],
  ['an attribute with <', '<a x="<"/>', /attribute with </],
  ['a prefix of no namespace', '<p:a/>', /p:a stands for no namespace/],
  ['an attribute prefix of no namespace', '<a p:b=""/>', /p:b stands for no namespace/],
  ['a document type', '<!DOCTYPE a><a/>', /document type/],
  [
    'a billion laughs',
    '<!DOCTYPE l [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;">]><l>&m;</l>',
    /document type/,
  ],
  [
    'an external entity',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    /type/,
  ],
  ['an unknown entity', '<a>&x;</a>', /known reference/],
  ['an unknown entity of an attribute', '<a b="&x;"/>', /known reference/],
  ['a lonely &', '<a>a & b</a>', /known reference/],
  ['NUL', '<a>&#0;</a>', /&#0; is no character/],
  ['half a surrogate pair', '<a>&#xD800;</a>', /no character/],
  ['a control character', '<a>\x01</a>', /control character/],
  ['deep nesting', manyTimes('<a>', 100_000), /more than 64 levels/],
  ['many elements', `<a>${manyTimes('<b/>', 30_000)}</a>`, /more than 20000 elements/],
  ['many attributes', `<a ${lots} ${lots.replaceAll('a', 'b')}/>`, /more than 64 attributes/],
  ['a tag that does not end', manyTimes('<', 1_000_000), /does not end/],
  ['quotes that do not end', manyTimes('<a "', 200_001), /malformed/],
];

describe('XML', () => {
  for (const [what, text, message] of refused)
    it(`with ${what} is refused`, () => {
      const start = performance.now();
      assert.throws(() => parseXml(text), { code: 'BAD_REQUEST', message });
      assert.ok(performance.now() - start < quickMs);
    });

  it('that is too large is refused before it is looked at', () => {
    assert.throws(() => parseXml(`<a>${manyTimes('x', 1_100_000)}</a>`), { code: 'TOO_LARGE' });
    assert.throws(() => parseXml('<a>ü</a>', { bytes: 8 }), { code: 'TOO_LARGE' });
  });

  it('within its limits takes no long time, however odd it is', () => {
    for (const text of [
      `<a ${lots}>${manyTimes('<b xmlns:q="r"/>', 15_000)}</a>`,
      `<a>${manyTimes('<!---->', 140_000)}</a>`,
      `<a>${manyTimes('<![CDATA[x]]>y', 70_000)}</a>`,
      `<a>${manyTimes('&amp;', 200_000)}</a>`,
      `<a x="${manyTimes('&#10;', 200_000)}"/>`,
    ]) {
      const start = performance.now();
      parseXml(text);
      assert.ok(performance.now() - start < quickMs, text.slice(0, 40));
    }
  });

  it('is read by namespace, whatever the prefixes', () => {
    const root = parseXml(
      '\uFEFF<?xml version="1.0" encoding="UTF-8"?><!-- c --><x:a xmlns:x="urn:1" xmlns="urn:2" i="1" x:i="2">' +
        't&lt;<b/><![CDATA[<raw>&]]><x:b>1</x:b><x:c><x:d>deep</x:d></x:c>u</x:a>',
    ).documentElement;
    assert.equal(textOf(root), 't<<raw>&u');
    assert.equal(childrenOf(root).length, 3);
    assert.equal(textOf(childOf(root, 'urn:1', 'b')!), '1');
    assert.equal(childOf(root, 'urn:3', 'b'), undefined);
    assert.deepEqual([attributeOf(root, 'i'), attributeOf(root, 'i', 'urn:1')], ['1', '2']);
    assert.equal(attributeOf(root, 'none'), undefined);
    assert.equal(textOf(findBelow(root, ({ localName }) => localName === 'd')!), 'deep');
  });

  it('that was built from any text is read as that text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (raw) => {
        // what XML can hold at all, with line ends as it has them
        const text = Buffer.from(raw)
          .toString()
          // eslint-disable-next-line no-control-regex -- what XML does not have
          .replace(/[\x00-\x08\x0b-\x1f\x85\u2028\ufffe\uffff]/g, '');
        const root = parseXml(toXml(element('a', { b: 'x' }, text))).documentElement;
        assert.equal(textOf(root), text);
      }),
    );
  });
});
