import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { MachineSpec, TargetSystem } from '../target-system.js';
import { runTool, whole } from '../whole-files.js';
import { volumesOf, type MachineVolume } from '../volumes/volume.js';
import { agentScript } from './agent-script.js';
import type { MachineContext } from './machine-context.js';
import { deviceOf } from './machine-setup.js';

/** The smallest that `mkfs.fat` makes well, and more than the longest user data and parameters. */
const seedBytes = 1_048_576;

/** Of this machine of a target system; the next one gets another. */
export function seedName(machine: Pick<TargetSystem, 'id' | 'generation'>): string {
  return `seed.${machine.generation ?? 1}.img`;
}

/**
 * The disk that cloud-init's data source NoCloud reads: a FAT file system labelled `CIDATA`. It holds the
 * token: only we and the hypervisor can read it.
 * @returns its path
 */
export async function makeSeedDisk(
  directory: string,
  system: MachineSpec,
  context: MachineContext,
): Promise<string> {
  const generation = Number(context.name.split('.').at(-1));
  const target = join(directory, seedName({ id: system.id, generation }));
  return await whole(target, async (draft) => {
    const work = `${draft}.files`;
    await rm(work, { recursive: true, force: true });
    await mkdir(work, { mode: 0o700 });
    try {
      const files = seedFiles(system, context);
      const paths = Object.keys(files).map((name) => join(work, name));
      for (const [name, text] of Object.entries(files)) await writeFile(join(work, name), text);
      await writeFile(draft, '', { mode: 0o600 });
      await truncate(draft, seedBytes);
      await runTool('mkfs.fat', ['-n', 'CIDATA', draft]);
      await runTool('mcopy', ['-i', draft, ...paths, '::/']);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  });
}

/** By name, as NoCloud wants them. */
export function seedFiles(
  system: Pick<MachineSpec, 'image' | 'generation' | 'setup'>,
  { name, hostName, token, own, variables, volumes }: MachineContext,
): Record<'meta-data' | 'user-data' | 'network-config', string> {
  const { tsi, contextualisation } = system.image.metadata;
  const hasNetwork = tsi.transport === 'tcp';
  return {
    'meta-data': stringify({
      'instance-id': name,
      'local-hostname': hostName,
      ...(own?.sshKeys && { 'public-keys': [...own.sshKeys] }),
    }),
    'network-config': stringify({
      version: 2,
      ethernets: hasNetwork
        ? { vsite: { match: { driver: 'virtio_net' }, dhcp4: true, dhcp6: false } }
        : {},
    }),
    'user-data': multipart([
      {
        type: 'text/cloud-boothook',
        text: agentScript({ name, token, tsi, contextualisation, variables }),
      },
      ...(volumes
        ? [
            {
              type: 'text/cloud-config',
              text: mounts(volumesOf({ ...system, volumes }), tsi.login),
            },
          ]
        : []),
      ...(own?.userData === undefined ? [] : [{ type: 'text/plain', text: own.userData }]),
    ]),
  };
}

/**
 * Nothing on a volume gets rights. A file system is made on what nobody has had: cloud-init looks for what it knows,
 * and would make one over data that are their own format.
 */
function mounts(volumes: readonly MachineVolume[], login: string): string {
  const blank = volumes.filter(({ wasUsed }) => wasUsed !== true);
  const config = {
    ...(blank.length > 0 && {
      fs_setup: blank.map(({ name }) => ({
        ...{ device: deviceOf(name), filesystem: 'ext4', overwrite: false },
      })),
    }),
    mounts: volumes.map(({ name, path }) => [
      ...[deviceOf(name), path, 'auto', 'nosuid,nodev,nofail', '0', '0'],
    ]),
    runcmd: volumes.map(({ path }) => ['chown', `${login}:`, path]),
  };
  return `#cloud-config\n${stringify(config)}`;
}

/**
 * MIME, as cloud-init reads several parts (RFC 2046). Of `text/plain` it finds out by the first line what it
 * is. Each is base64: no line of the owner's ends his part early.
 */
function multipart(parts: readonly { readonly type: string; readonly text: string }[]): string {
  const boundary = '==vsite==';
  const body = parts.map(({ type, text }, at) =>
    [
      `--${boundary}`,
      `Content-Type: ${type}; charset="utf-8"`,
      'MIME-Version: 1.0',
      'Content-Transfer-Encoding: base64',
      `Content-Disposition: attachment; filename="part-${at + 1}"`,
      '',
      Buffer.from(text).toString('base64').replace(/.{76}/g, '$&\n'),
    ].join('\n'),
  );
  return [
    `Content-Type: multipart/mixed; boundary="${boundary}"`,
    'MIME-Version: 1.0',
    '',
    ...body,
    `--${boundary}--`,
    '',
  ].join('\n');
}
