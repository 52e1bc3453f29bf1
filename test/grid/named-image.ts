import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/* Images that were made of a machine: they hold what only one machine may be. */

const ofTheImage = 'f'.repeat(32);
const hostKey = '/etc/ssh/ssh_host_ed25519_key';
const store = '/var/lib/systemd/random-seed';

/** @param recipe folder of an image's recipe, which is changed */
export function giveIdentity(recipe: string): void {
  const file = join(recipe, 'recipe.yaml');
  const text = readFileSync(file, 'utf8');
  assert.ok(text.includes('programs: [bash,'));
  writeFileSync(file, text.replace('programs: [bash,', 'programs: [bash, ssh-keygen,'));
  const files = { '/etc/machine-id': ofTheImage, [hostKey]: 'key', [store]: 'seed' };
  for (const [path, content] of Object.entries({ ...files, [`${hostKey}.pub`]: ofTheImage })) {
    mkdirSync(join(recipe, 'root', path, '..'), { recursive: true });
    writeFileSync(join(recipe, 'root', path), `${content}\n`);
  }
}

/** Prints who the machine is that it runs in, as everybody there can read it. */
export const identityScript = `hostname; cat /etc/hostname /etc/machine-id ${hostKey}.pub; ls ${store} 2>&1; true`;

/** Of what machines of such an image have printed: none is the image, and no two are one. */
export function assertApart(names: readonly string[], printed: readonly string[]): void {
  const all = printed.map((text) => text.trim().split('\n'));
  all.forEach(([host, stored, machineId, key, seed], at) => {
    assert.deepEqual([host, stored], [names[at], names[at]]);
    assert.match(machineId ?? '', /^[0-9a-f]{32}$/);
    assert.match(key ?? '', /^ssh-ed25519 \S+/);
    assert.match(seed ?? '', /No such file/);
  });
  for (const field of [2, 3]) {
    const values = new Set([...all.map((lines) => lines[field]?.split(' ')[1] ?? lines[field])]);
    assert.equal(values.size, printed.length, `they share ${[...values].join(', ')}`);
    assert.ok(!values.has(ofTheImage));
  }
}
