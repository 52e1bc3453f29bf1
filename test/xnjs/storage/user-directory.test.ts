import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { userDirectory } from '#xnjs/storage/host-storages.js';

describe('the directory of a user on the host', () => {
  it('is one for all spellings of a name, and another for each other name', () => {
    const directory = userDirectory('CN=Demo User,O=Grid');
    assert.match(directory, /^demo-user-[0-9a-f]{16}$/);
    assert.equal(userDirectory('cn=demo  user , o=grid'), directory);
    assert.notEqual(userDirectory('CN=Demo-User,O=Grid'), directory);
    for (const odd of ['CN=..', 'CN=../../etc', 'O=x', 'CN=/', 'CN=ünï'])
      assert.match(userDirectory(odd), /^[a-z0-9][a-z0-9-]*-[0-9a-f]{16}$/);
  });
});
