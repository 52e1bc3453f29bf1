import type { JobDescription } from './description.js';

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

function maskValues(variables: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(variables).map(([name, value]) => [
      name,
      secretName.test(name) ? masked : value,
    ]),
  );
}
