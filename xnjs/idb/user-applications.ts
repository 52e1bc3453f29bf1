import { text } from 'node:stream/consumers';
import type { IdbApplication } from '#imagerepo/contract.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Target } from '../target.js';
import { parseApplications, parseIdbText } from './site-idb.js';

/** What a user's own files say. A wrong file is left out, and told of. */
export type UserApplications = {
  readonly applications: readonly IdbApplication[];
  readonly problems: readonly string[];
};

const mostFiles = 50;
const largestFileBytes = 256 * 1024;

/**
 * Reads the files that `patterns` name on a target system, as its user.
 * @throws `TSI_UNAVAILABLE`
 */
export async function readUserApplications(
  target: Target,
  patterns: readonly string[],
): Promise<UserApplications> {
  const applications: IdbApplication[] = [];
  const problems: string[] = [];
  try {
    for (const path of await findFiles(target, patterns)) {
      try {
        applications.push(...parseApplications(path, await readFile(target, path)));
      } catch (error) {
        if (isAway(error)) throw error;
        problems.push(errorText(error));
      }
    }
  } catch (error) {
    if (isAway(error)) throw error;
    problems.push(`the user's application files: ${errorText(error)}`);
  }
  return { applications, problems };
}

/** The patterns are the site's and hold nothing that a shell would run. */
async function findFiles(target: Target, patterns: readonly string[]): Promise<string[]> {
  const script = `for f in ${patterns.join(' ')}; do if [ -f "$f" ]; then printf '%s\\n' "$f"; fi; done`;
  const printed = await target.tsi().execute(target.identity, script);
  const paths = printed.split('\n').filter((line) => line.startsWith('/'));
  return [...new Set(paths)].slice(0, mostFiles);
}

async function readFile(target: Target, path: string): Promise<unknown> {
  const { identity } = target;
  const tsi = target.tsi();
  const [file] = await tsi.list(identity, path, 'A');
  if (!file || file.isDirectory) throw new Error(`${path}: is no file`);
  if (file.sizeBytes > largestFileBytes)
    throw new Error(`${path}: is larger than ${largestFileBytes} bytes`);
  const content = await text(tsi.read(identity, path, { length: largestFileBytes }));
  return parseIdbText(path, content);
}

function isAway(error: unknown): boolean {
  return asGridError(error)?.code === 'TSI_UNAVAILABLE';
}
