import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { dnKey, equalDns, formatDn, normalizeDn, parseDn } from '#kernel/security/dn.js';

describe('distinguished names', () => {
  const vectors = [
    ['CN=Demo User,O=VSite,C=EU', 'CN=Demo User,O=VSite,C=EU'],
    [' cn = Demo User ; o=VSite ,C= EU ', 'CN=Demo User,O=VSite,C=EU'],
    ['CN="Demo, the User",C=EU', 'CN=Demo\\, the User,C=EU'],
    ['CN=J\\C3\\B6rg', 'CN=Jörg'],
    ['CN=a\\ ,C=EU', 'CN=a\\ ,C=EU'],
    ['CN=\\#1,UID=x+OU=y', 'CN=\\#1,UID=x+OU=y'],
    ['OID.2.5.4.3=x,1.2.3.4=y', 'CN=x,1.2.3.4=y'],
    ['E=a@b.eu', 'EMAILADDRESS=a@b.eu'],
    ['CN=a\\0Ab', 'CN=a\\0Ab'],
  ] as const;
  for (const [text, written] of vectors)
    it(`${text} is written ${written}`, () => assert.equal(normalizeDn(text), written));

  for (const text of [
    '',
    'CN',
    '=x',
    'CN=a,',
    'CN=a,,C=b',
    'CN="a"b',
    'CN=a"b',
    'CN=a\\',
    'x'.repeat(5000),
  ])
    it(`refuses ${text.slice(0, 20)}`, () =>
      assert.throws(() => parseDn(text), { code: 'BAD_REQUEST' }));

  it('takes case, blanks and the order inside a relative name for no difference', () => {
    assert.ok(equalDns('CN=Demo  User,C=EU', 'cn=demo user, c=eu'));
    assert.ok(equalDns('CN=a+OU=b', 'OU=b+CN=a'));
  });
  it('takes the order of relative names, and what looks alike, for a difference', () => {
    assert.ok(!equalDns('CN=a,C=b', 'C=b,CN=a'));
    assert.ok(!equalDns('CN=a\\,C=b', 'CN=a,C=b'));
    assert.ok(!equalDns('CN=a\\+OU=b', 'CN=a+OU=b'));
  });

  const attribute = fc.record(
    {
      type: fc.constantFrom('CN', 'O', 'OU', 'C', 'UID', '1.2.3'),
      value: fc.string({ unit: 'grapheme', maxLength: 20 }),
    },
    { noNullPrototype: true },
  );
  const dn = fc.array(fc.array(attribute, { minLength: 1, maxLength: 2 }), {
    minLength: 1,
    maxLength: 4,
  });
  it('reads what it writes, in ASCII too', () => {
    fc.assert(
      fc.property(dn, (value) => {
        const ascii = formatDn(value, { ascii: true });
        assert.match(ascii, /^[\x20-\x7e]*$/);
        assert.deepEqual(parseDn(formatDn(value)), value);
        assert.deepEqual(parseDn(ascii), value);
      }),
    );
  });
  it('has a key that does not depend on the spelling', () => {
    fc.assert(fc.property(dn, (value) => assert.equal(dnKey(formatDn(value)), dnKey(value))));
  });
});
