import { isMap, type JobDescription, type RawDescription } from './description.js';

const secretName =
  /token|passw|passphrase|secret|credential|api_?key|access_?key|private_?key|auth/i;
const masked = '***';
/** Shorter ones would mask half of every text. */
const shortestSecret = 4;

/** The description with the values of variables masked whose names tell that they are secret. */
export function withoutSecrets(job: JobDescription): JobDescription {
  return {
    ...job,
    Environment: maskValues(job.Environment),
    Parameters: maskValues(job.Parameters),
  };
}

/** A script as it may be shown; `job` says what must not be in it. */
export function maskScript(script: string, job: JobDescription): string {
  const values = [...Object.entries(job.Environment), ...Object.entries(job.Parameters)]
    .filter(([name, value]) => secretName.test(name) && value.length >= shortestSecret)
    .map(([, value]) => value);
  const shown = values.reduce((text, value) => text.replaceAll(value, masked), script);
  return shown.replace(/^export (\w+)=.*$/gm, (line, name: string) =>
    secretName.test(name) ? `export ${name}=${masked}` : line,
  );
}

/** Credentials of transfers stay between the user and the servers they are for. */
export function withoutCredentials(raw: RawDescription): RawDescription {
  const mask = (entry: unknown): unknown =>
    isMap(entry) && entry['Credentials'] !== undefined ? { ...entry, Credentials: 'n/a' } : entry;
  const members = ['Imports', 'Exports'].flatMap((key): [string, unknown][] => {
    const entries = raw[key];
    if (Array.isArray(entries)) return [[key, entries.map(mask)]];
    if (!isMap(entries)) return [];
    const shown = Object.entries(entries).map(([name, entry]) => [name, mask(entry)] as const);
    return [[key, Object.fromEntries(shown)]];
  });
  return { ...raw, ...Object.fromEntries(members) };
}

function maskValues(variables: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(variables).map(([name, value]) => [
      name,
      secretName.test(name) ? masked : value,
    ]),
  );
}
