import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { Scope } from '#kernel/scope.js';
import { findReason } from '../../grid/grid.js';
import { freePort } from './daemon.js';

/** Why a real sshd cannot be tried here, or false. */
export const withoutSsh = findReason([
  ['ssh', '-V'],
  ['/usr/sbin/sshd', '-V'],
  ['nc', '-h'],
]);

/** An sshd of this user's own, who may come in with a key. */
export async function startSshd(directory: string, scope: Scope) {
  const at = (name: string): string => join(directory, name);
  for (const name of ['host', 'user'])
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', at(name)]);
  await copyFile(at('user.pub'), at('authorized'));
  const port = await freePort();
  const lines = [
    `Port ${port}`,
    'ListenAddress 127.0.0.1',
    `HostKey ${at('host')}`,
    `AuthorizedKeysFile ${at('authorized')}`,
    'StrictModes no',
    'UsePAM no',
    'PidFile none',
  ];
  await writeFile(at('config'), `${lines.join('\n')}\n`);
  const [type, key] = (await readFile(at('host.pub'), 'utf8')).split(' ');
  await writeFile(at('known'), `[127.0.0.1]:${port} ${type} ${key}\n`);
  // sshd of root wants it, for the process that has no rights yet
  if (userInfo().uid === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 });
  const child = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', at('config')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  scope.defer(async () => {
    const exit = once(child, 'exit');
    child.kill();
    await exit;
  });
  let said = '';
  for await (const chunk of child.stderr.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    said += String(chunk);
    if (said.includes('listening')) break;
  }
  child.stderr.resume();
  if (!said.includes('listening')) throw new Error(said);
  return { user: userInfo().username, port, keyFile: at('user'), knownHosts: at('known') };
}
