import type { IdbParameter } from '#imagerepo/contract.js';
import { JobError } from '../job/errors.js';

type Parameters = Readonly<Record<string, string>>;

/**
 * Checks what a job gives for the options that the application describes. An option that is given
 * without a value is only set, whatever its type; names that are not described are the user's own.
 * @throws {@link JobError} `JOB_INVALID` naming option, value and what is allowed
 */
export function checkParameters(
  given: Parameters,
  described: Readonly<Record<string, IdbParameter>>,
): void {
  for (const [name, parameter] of Object.entries(described)) {
    if (!Object.hasOwn(given, name)) continue;
    const reason = fault(given[name] ?? '', parameter) ?? conflict(name, parameter, given);
    if (reason !== undefined)
      throw new JobError('JOB_INVALID', `Parameters.${name}: ${reason}`, { parameter: name });
  }
}

function fault(value: string, { Type, ValidValues }: IdbParameter): string | undefined {
  if (value === '') return undefined;
  switch (Type) {
    case 'INT':
      return /^[+-]?\d+$/.test(value) ? undefined : `"${value}" is not a whole number`;
    case 'DOUBLE':
      return value.trim() !== '' && Number.isFinite(Number(value))
        ? undefined
        : `"${value}" is not a number`;
    case 'BOOLEAN':
      return /^(true|false)$/i.test(value) ? undefined : `"${value}" is neither true nor false`;
    case 'CHOICE':
      return ValidValues === undefined || ValidValues.includes(value)
        ? undefined
        : `"${value}" is not one of ${ValidValues.join(', ')}`;
    case 'STRING':
    case 'FILENAME':
    case 'FILESET':
      return undefined;
  }
}

function conflict(
  name: string,
  { DependsOn = [], Excludes = [] }: IdbParameter,
  given: Parameters,
): string | undefined {
  const missing = DependsOn.find((other) => !Object.hasOwn(given, other));
  if (missing !== undefined) return `needs ${missing} too`;
  const excluded = Excludes.find((other) => other !== name && Object.hasOwn(given, other));
  return excluded === undefined ? undefined : `cannot be given together with ${excluded}`;
}
