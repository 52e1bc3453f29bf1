import type { MachineSetup, SetupReport } from '#tsi/protocol/machine-setup.js';
import { parameterVariables } from '../image-parameters.js';
import type { TargetSystem } from '../target-system.js';

/** What a machine is told to do for its owner before jobs run there (ADR 040); `undefined`: nothing. */
export function setupOf(record: TargetSystem): MachineSetup | undefined {
  const variables = parameterVariables(record.imageParameters);
  if (Object.keys(variables).length === 0) return undefined;
  return { variables, login: record.image.metadata.tsi.login, volumes: [] };
}

/** Of the environment of all jobs there. */
export function jobVariables(record: TargetSystem): Readonly<Record<string, string>> {
  return parameterVariables(record.imageParameters);
}

export const olderAgent = 'its agent is an older one, which does not know how';

/** None of it was done, as far as is known. */
export function failedSetup({ volumes }: MachineSetup, problem: string): SetupReport {
  return { volumes: volumes.map(({ serial }) => ({ serial, problem })), problem };
}

export function hasProblem({ problem, volumes }: SetupReport): boolean {
  return problem !== undefined || volumes.some((volume) => volume.problem !== undefined);
}
