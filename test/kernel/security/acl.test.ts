import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { anonymous, type Caller } from '#kernel/http/caller.js';
import { isAllowed, isOwner, parseAcl } from '#kernel/security/acl.js';

const alice: Caller = { dn: 'CN=Alice,O=Grid', role: 'user', login: 'alice' };
const stranger: Caller = { dn: 'CN=Alice,O=Grid', role: 'anonymous' };

describe('the ACL of a resource', () => {
  const cases: [string, boolean, boolean][] = [
    ['read:DN:cn=alice, o=Grid', true, false],
    ['write:DN:CN=Alice,O=Grid', true, true],
    ['modify:UID:alice', true, true],
    ['read:ROLE:user', true, false],
    ['read:GROUP:users', false, false],
    ['write:VO:anything', false, false],
    ['read:DN:O=Grid,CN=Alice', false, false],
  ];
  for (const [entry, reads, writes] of cases)
    it(`${entry}: ${reads ? 'reads' : '-'} ${writes ? 'writes' : '-'}`, () => {
      const storage = { ownerDn: 'CN=Bob', acl: parseAcl(entry) };
      assert.equal(isAllowed(storage, alice, 'read'), reads);
      assert.equal(isAllowed(storage, alice, 'write'), writes);
      for (const caller of [stranger, anonymous]) assert.ok(!isAllowed(storage, caller, 'read'));
    });

  it('is none of a group that the caller does not belong to', () => {
    const member = {
      ...alice,
      attributes: { groups: ['physics'], vos: ['/grid/astro'] },
    } as Caller;
    const storage = { ownerDn: 'CN=Bob', acl: ['read:GROUP:physics'] };
    assert.ok(isAllowed(storage, member, 'read'));
    assert.ok(!isAllowed(storage, alice, 'read'));
    const astro = { ...storage, acl: ['write:VO:/grid/astro'] };
    assert.ok(isAllowed(astro, member, 'write') && !isAllowed(astro, alice, 'read'));
  });

  it('leaves owner and administrators their rights, strangers with the owner’s name none', () => {
    const storage = { ownerDn: alice.dn, acl: [] };
    assert.ok(isAllowed(storage, alice, 'modify') && isOwner(storage, alice));
    assert.ok(isAllowed({ acl: [] }, { dn: 'CN=Admin', role: 'admin' }, 'modify'));
    assert.ok(!isAllowed(storage, stranger, 'read') && !isOwner(storage, stranger));
    assert.ok(!isAllowed(storage, { ...alice, role: 'banned' }, 'read'));
    assert.ok(!isOwner({}, alice), 'nobody owns what is the server’s');
  });

  for (const wrong of [
    'read',
    'own:DN:CN=A',
    'read:NAME:a',
    'read:DN:',
    'read:DN:no name',
    'read:UID:a\nb',
    7,
  ])
    it(`${JSON.stringify(wrong)} is refused`, () => {
      assert.throws(() => parseAcl(wrong), { code: 'BAD_REQUEST' });
    });
});
