import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import type { AclEntry } from '#xnjs/tsi/tsi.js';
import {
  alice,
  clientOf,
  isRoot,
  nobodyId,
  scratch,
  startAgent,
  type AgentProcess,
} from './agent-process.js';
import { end, identity, openWorker } from './raw-worker.js';

const scope = new Scope();
let dir: string;
let agent: AgentProcess;
let tsi: TsiClient;

/** Whether lists can be kept here at all: neither every system nor every file system can. */
function aclsWork(path: string): boolean {
  try {
    execFileSync('setfacl', ['-m', 'u:daemon:r', path], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

before(async () => {
  dir = scratch(scope, nobodyId);
  const keys = `printf '%s\\\\n' '# a comment' 'ssh-ed25519 AAAA of-'$(id -un) ''`;
  agent = await startAgent(scope, {
    properties: [
      ...['tsi.getfacl=getfacl', 'tsi.setfacl=/usr/bin/setfacl'],
      ...[`tsi.acl.${dir}=POSIX`, `tsi.acl.${dir}/never=NONE`, `tsi.acl.${dir}/nfs=NFS`],
      `tsi.get_userkeys_cmd=${keys.replaceAll('\\\\', '\\')}`,
      'tsi.get_userinfo_cmd=echo role=user; echo "url=https://x:1/?a=b"; echo nonsense',
    ],
  });
  tsi = await clientOf(scope, agent);
});
after(() => scope.close());

function file(name: string): string {
  const path = join(dir, name);
  writeFileSync(path, 'x', { mode: 0o640 });
  if (isRoot) chownSync(path, nobodyId, nobodyId);
  return path;
}

describe('access control lists', () => {
  it('are supported by the longest prefix of whole components', async () => {
    const expected = [
      [dir, true],
      [`${dir}/a/b`, true],
      [`${dir}/never`, false],
      [`${dir}/never/x`, false],
      [`${dir}/nevermore`, true],
      [`${dir}2`, false],
      [`${dir}/a/../never`, false],
      [`${dir}/../etc`, false],
      [`${dir}/nfs`, false],
      ['/', false],
    ] as const;
    const found = await Promise.all(
      expected.map(async ([path]) => [path, await tsi.aclSupport(alice, path)] as const),
    );
    assert.deepEqual(found, expected);
  });

  it('are read and changed, whatever is in the name of the file', async (t) => {
    const path = file("-R a'b $(id) $HOME");
    if (!aclsWork(path)) {
      t.skip('no access control lists here');
      return;
    }
    const named = (acl: readonly AclEntry[]) =>
      acl
        .filter(({ subject }) => subject !== '')
        .map(({ subject, permissions }) => [subject, permissions]);
    assert.deepEqual(named(await tsi.getAcl(alice, path)), [['daemon', 'r--']]);
    const entry = {
      isDefault: false,
      type: 'group',
      subject: 'games',
      permissions: 'rw-',
    } as const;
    await tsi.setAcl(alice, path, { operation: 'MODIFY', entry });
    assert.deepEqual(named(await tsi.getAcl(alice, path)), [
      ['daemon', 'r--'],
      ['games', 'rw-'],
    ]);
    const daemon = {
      ...entry,
      type: 'user',
      subject: 'daemon',
    } as const;
    await tsi.setAcl(alice, path, { operation: 'RM', entry: daemon });
    assert.deepEqual(named(await tsi.getAcl(alice, path)), [['games', 'rw-']]);
    await tsi.setAcl(alice, path, { operation: 'RM_ALL' });
    assert.deepEqual(await tsi.getAcl(alice, path), []);
  });

  it('are inherited and set below a directory', async (t) => {
    const root = join(dir, 'tree');
    mkdirSync(join(root, 'sub'), { recursive: true });
    if (!aclsWork(root)) {
      t.skip('no access control lists here');
      return;
    }
    if (isRoot) execFileSync('chown', ['-R', `${nobodyId}:${nobodyId}`, root]);
    const entry = { isDefault: true, type: 'user', subject: 'daemon', permissions: 'r-x' } as const;
    await tsi.setAcl(alice, root, { operation: 'MODIFY', recursive: true, entry });
    const inherited = (await tsi.getAcl(alice, join(root, 'sub'))).filter((one) => one.isDefault);
    assert.ok(
      inherited.some(({ subject, permissions }) => subject === 'daemon' && permissions === 'r-x'),
    );
  });

  it('are changed with the rights of the user only', { skip: !isRoot }, async () => {
    const path = file('of-root');
    chownSync(path, 0, 0);
    const entry = {
      isDefault: false,
      type: 'user',
      subject: 'nobody',
      permissions: 'rwx',
    } as const;
    await assert.rejects(tsi.setAcl(alice, path, { operation: 'MODIFY', entry }), {
      code: 'TSI_FAILED',
    });
  });

  it('are not changed where they are not supported', async () => {
    const entry = {
      isDefault: false,
      type: 'user',
      subject: 'daemon',
      permissions: 'r--',
    } as const;
    await assert.rejects(tsi.getAcl(alice, '/etc/passwd'), { code: 'TSI_FAILED' });
    await assert.rejects(tsi.setAcl(alice, '/etc/passwd', { operation: 'MODIFY', entry }), {
      code: 'TSI_FAILED',
    });
  });

  for (const [what, change, spec] of [
    ['a second entry behind a comma', 'MODIFY', 'U daemon,user:nobody rwx'],
    ['an option for a name', 'MODIFY', 'U --restore=x rwx'],
    ['rights that are none', 'MODIFY', 'U daemon rwx,g:games:rwx'],
    ['a change that is none', 'DESTROY', 'U daemon rwx'],
    ['an option behind the change', 'MODIFY --restore', 'U daemon rwx'],
    ['no entry', 'MODIFY', 'NONE'],
  ] as const)
    it(`are not changed by ${what}`, async () => {
      const worker = await openWorker(scope, agent);
      worker.send(
        ...['#TSI_FILE_ACL', '#TSI_ACL_OPERATION SETFACL', `#TSI_ACL_PATH ${file('guarded')}`],
        ...[`#TSI_ACL_COMMAND ${change}`, `#TSI_ACL_COMMAND_SPEC ${spec}`, identity, ''],
      );
      assert.equal(await worker.reply(10), 'TSI_FAILED');
    });

  it('are answered as stock TSIs do, byte for byte', async () => {
    const worker = await openWorker(scope, agent);
    const ask = async (operation: string, expected: string): Promise<void> => {
      const lines = [`#TSI_ACL_OPERATION ${operation}`, `#TSI_ACL_PATH ${dir}`, identity, ''];
      assert.equal((await worker.ask(['#TSI_FILE_ACL', ...lines], expected))[0], expected);
    };
    await ask('CHECK_SUPPORT', `TSI_OK\ntrue\n${end}`);
    await ask('SETFACL', `TSI_FAILED: #TSI_ACL_COMMAND is missing\n${end}`);
  });
});

describe('information', () => {
  it('has the keys and attributes that the commands of the site print', async () => {
    const info = await tsi.userInfo(alice);
    assert.deepEqual(info.acceptedKeys, [`ssh-ed25519 AAAA of-${alice.login}`]);
    assert.deepEqual(info.attributes, { role: 'user', url: 'https://x:1/?a=b' });
    assert.equal(info.status, 'OK');
  });

  it('has the keys of the user’s file, read as the user', { skip: !isRoot }, async () => {
    const login = `tsikeys${process.pid}`;
    const home = scratch(scope);
    execFileSync('useradd', ['-M', '-d', home, login]);
    scope.defer(() => void execFileSync('userdel', [login]));
    mkdirSync(join(home, '.ssh'));
    writeFileSync(join(home, '.ssh', 'authorized_keys'), '# mine\n\nssh-rsa BBBB me\n', {
      mode: 0o644,
    });
    const own = { login, groups: 'NONE' };
    assert.ok((await tsi.userInfo(own)).acceptedKeys.includes('ssh-rsa BBBB me'));
    execFileSync('rm', [join(home, '.ssh', 'authorized_keys')]);
    symlinkSync('/etc/shadow', join(home, '.ssh', 'authorized_keys'));
    const { acceptedKeys } = await tsi.userInfo(own);
    assert.deepEqual(
      acceptedKeys.filter((key) => !key.startsWith('ssh-ed25519')),
      [],
    );
  });

  it('says which command failed and keeps what others have said', async () => {
    const broken = await startAgent(scope, {
      properties: ['tsi.get_userkeys_cmd=echo no; exit 3', 'tsi.get_userinfo_cmd=echo a=b'],
    });
    const info = await (await clientOf(scope, broken)).userInfo(alice);
    assert.match(info.status, /key_cmd.*code 3/);
    assert.deepEqual([info.acceptedKeys, info.attributes], [[], { a: 'b' }]);
  });

  it('knows no partitions and no limits without a batch system', async () => {
    assert.deepEqual(await tsi.partitions(alice), {});
    assert.deepEqual(await tsi.budget(alice), [
      { project: 'USER', remaining: -1, percent: -1, units: 'core-h' },
    ]);
  });

  it('answers for reservations as stock TSIs do', async () => {
    const worker = await openWorker(scope, agent);
    const expected = `TSI_FAILED: Reservation not supported!\n${end}`;
    for (const lines of [
      [
        '#TSI_MAKE_RESERVATION',
        '#TSI_RESERVATION_OWNER a',
        '#TSI_STARTTIME 2030-01-01T00:00:00+0100',
      ],
      ['#TSI_QUERY_RESERVATION', '#TSI_RESERVATION_REFERENCE 1'],
      ['#TSI_CANCEL_RESERVATION', '#TSI_RESERVATION_REFERENCE 1'],
    ])
      assert.equal((await worker.ask([...lines, identity, ''], expected))[0], expected);
  });

  it('is not given by a batch system that nobody knows', async () => {
    await assert.rejects(startAgent(scope, { properties: ['tsi.bss=none'] }), /tsi\.bss/);
    assert.ok(existsSync(dir));
  });
});
