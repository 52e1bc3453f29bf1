import type { Command } from 'commander';
import { Volume } from '#targetsystem/rest/answers-data.js';
import type { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import { online, positive, repeated, type Work } from './online.js';
import { printJson, printResult, printRows, tell } from './print.js';
import type { Session } from './profile.js';
import { idOf, listPaths, pathOf } from './resources.js';

type Found = z.output<typeof Volume> & { readonly id: string };
type NewOptions = { readonly tag?: readonly string[]; readonly until?: string };

/** Volumes that outlive target systems. */
export function addVolumes(volume: Command): void {
  online(
    volume.command('ls').alias('list').description('your volumes'),
    (): Work => (session, asJson) => listVolumes(session, asJson),
  );
  online(
    volume.command('show <volume>').description('all about one, by its id or name'),
    (reference: string): Work =>
      async (session) => {
        printJson(await findVolume(session, reference));
      },
  );
  online(
    volume
      .command('create <name> <MiB>')
      .description('make one, for target systems to have: site create --volume volume=<name>')
      .option('--until <time>', 'when it ends: 18:00, 2030-01-31 18:00')
      .option('--tag <word>', 'to find it again; may be repeated', repeated, []),
    (name: string, size: string, options: NewOptions): Work =>
      async (session, asJson) => {
        const id = await createVolume(session, name, positive(size), options);
        printResult({ id }, id, asJson);
      },
  );
  online(
    volume
      .command('rm <volume...>')
      .alias('delete')
      .description('remove volumes and what is on them'),
    (references: readonly string[]): Work =>
      async (session, asJson) => {
        for (const reference of references) await removeVolume(session, reference);
        if (asJson) printJson({ deleted: references });
      },
  );
}

async function* volumesOf({ client, core }: Session): AsyncGenerator<Found> {
  for await (const path of listPaths(client, `${core}/volumes`)) {
    const { body } = await client.json('GET', path);
    yield { id: idOf(path), ...Volume.parse(body) };
  }
}

async function listVolumes(session: Session, asJson: boolean): Promise<void> {
  const rows = [];
  for await (const { id, name, sizeMiB, state, _links } of volumesOf(session))
    rows.push({ id, name, MiB: sizeMiB, state, site: idOf(_links['site']?.href ?? '') });
  printRows(rows, ['id', 'name', 'MiB', 'state', 'site'], asJson);
}

async function createVolume(
  { client, core }: Session,
  name: string,
  sizeMiB: number,
  { tag = [], until }: NewOptions,
): Promise<string> {
  const wish = { name, sizeMiB, tags: tag, ...(until !== undefined && { terminationTime: until }) };
  return idOf(pathOf(await client.json('POST', `${core}/volumes`, wish)));
}

async function removeVolume(session: Session, reference: string): Promise<void> {
  const { id, name } = await findVolume(session, reference);
  await session.client.json('DELETE', `${session.core}/volumes/${id}`);
  tell(`volume ${name} (${id}) is gone`);
}

/** @throws `NOT_FOUND` */
async function findVolume(session: Session, reference: string): Promise<Found> {
  for await (const volume of volumesOf(session))
    if (volume.id === reference || volume.name === reference) return volume;
  throw new GridError('NOT_FOUND', `you have no volume ${reference}`);
}

/** `name=data,size=1024,path=/data,keep` or `volume=data`, as the server takes it. */
export function volumeWish(text: string): Record<string, unknown> {
  const members = text.split(',').map((part): [string, unknown] => {
    const [key = '', value] = part.split(/=(.*)/s, 2);
    if (key === 'size') return ['sizeMiB', positive(value ?? '')];
    return [key, value ?? true];
  });
  return Object.fromEntries(members);
}
