import { InvalidArgumentError } from 'commander';

/** `name=value` by name. @param option that they were given by: for messages */
export function assignments(option: string, entries: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    entries.map((entry) => {
      const at = entry.indexOf('=');
      if (at < 1) throw new InvalidArgumentError(`${option} ${entry}: must be name=value`);
      return [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
}
