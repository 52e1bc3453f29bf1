import { resolve } from 'node:path';
import { GridError } from '#kernel/errors.js';
import { writeConfiguration, writeIdentities } from './quickstart/configuration.js';
import { layoutOf } from './quickstart/layout.js';
import { stat } from 'node:fs/promises';

export type InitOptions = {
  readonly stateDir: string;
  readonly host: string;
  readonly port: number;
  readonly machines: string;
  readonly containers?: string;
  readonly kvm?: true;
  readonly force?: true;
};

/** Writes configuration, certificates and a first user for an installation that an operator runs. */
export async function init(options: InitOptions): Promise<string> {
  const layout = layoutOf(resolve(options.stateDir));
  const exists = await stat(layout.config).then(
    () => true,
    () => false,
  );
  if (exists && !options.force)
    throw new GridError('CONFLICT', `${layout.config} exists; --force writes it anew`);
  const { machines, containers, kvm } = options;
  await writeIdentities(layout);
  await writeConfiguration(layout, options, {
    machines,
    containers,
    acceleration: kvm ? 'kvm' : 'qemu',
  });
  return layout.config;
}
