import { quote } from '../incarnation/quote.js';
import { parseDescription, passingFiles } from './description.js';
import { jobDirectory } from './runs.js';
import type { Task } from './work.js';

/** Removes what a job wants to be gone at its end. @returns what its log says of it */
export async function deletePassing({ job, call }: Task): Promise<string[]> {
  const paths = passingFiles(parseDescription(job.description));
  const files = paths.filter((path) => !/[*?]/.test(path) && isBelow(path));
  if (files.length === 0) return [];
  await call((tsi, target) => {
    const directory = quote(jobDirectory(target, job));
    const words = files.map((path) => quote(`./${path}`)).join(' ');
    return tsi.execute(target.identity, `cd -- ${directory} && rm -rf -- ${words}`);
  });
  return [`Deleted files: ${files.join(', ')}`];
}

/** Neither the job's directory itself nor anything beside it. */
function isBelow(path: string): boolean {
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  return names.length > 0 && !names.includes('..');
}
