import { normalisePath } from '../files/path.js';
import { quote } from '../incarnation/quote.js';
import { runInBackground } from './background.js';
import { StagingError } from './errors.js';
import { GitRepository, type Submodule } from './git-repository.js';
import { absolute, partOf } from './on-target.js';
import { receive } from './receive.js';
import { authorizationOf, type ImportTransfer, type Protocol } from './transfer.js';

/** The repository and those in it. */
const maxRepositories = 10;

type Wanted = { readonly url: URL; readonly reference: string | undefined; readonly to: string };

/** `git:https://…`, `git+https://…`: the files of a commit, without their history. */
export const git: Protocol = {
  async import(transfer) {
    const { entry, say } = transfer;
    const { branch, commit } = entry.parameters;
    const url = parseGitUrl(entry.from);
    const queue: Wanted[] = [{ url, reference: commit ?? branch, to: normalisePath(entry.to) }];
    for (let count = 0; count < queue.length; count++) {
      if (count === maxRepositories)
        throw new StagingError(
          'BAD_REQUEST',
          `there are more than ${maxRepositories} repositories`,
        );
      const wanted = queue[count];
      if (wanted) queue.push(...(await fetchOne(transfer, wanted, url.origin)));
    }
    say(`fetched ${queue.length === 1 ? 'the repository' : `${queue.length} repositories`}`);
  },
};

function parseGitUrl(text: string): URL {
  const address = text.replace(/^git(?::|\+)(?=https?:)/i, '');
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (url && (url.protocol === 'https:' || url.protocol === 'http:')) return url;
  throw new StagingError(
    'BAD_REQUEST',
    'From must be git:https://host/path or git+https://host/path',
  );
}

/** @returns the sub-modules */
async function fetchOne(
  transfer: ImportTransfer,
  { url, reference, to }: Wanted,
  credentialsFor: string,
): Promise<Wanted[]> {
  const authorization = url.origin === credentialsFor ? authorizationOf(transfer.entry) : undefined;
  await using repository = await GitRepository.open(transfer);
  const commit = await repository.fetch(url, reference, authorization);
  await unpack(transfer, repository, commit, to);
  const modules = await repository.submodules(commit);
  return modules.map((module) => toWanted(module, url, to));
}

function toWanted({ path, url, commit }: Submodule, parent: URL, to: string): Wanted {
  // relative ones are from the repository, which is a directory in that
  const base = new URL(parent);
  base.pathname = `${base.pathname.replace(/\/+$/, '')}/`;
  const found = /^\.{1,2}\//.test(url) ? new URL(url, base).href : url;
  if (!/^https?:\/\//.test(found))
    throw new StagingError('BAD_REQUEST', `the sub-module ${path} is not to be had by https`);
  return {
    url: new URL(found),
    reference: commit,
    to: normalisePath(`${to}${normalisePath(path)}`),
  };
}

/** As one archive, which the target system unpacks with the rights of the user. */
async function unpack(
  transfer: ImportTransfer,
  repository: GitRepository,
  commit: string,
  to: string,
): Promise<void> {
  const { entry, clock } = transfer;
  const archive = `/.UNICORE_${transfer.id}.tar`;
  const plain = {
    ...transfer,
    entry: { ...entry, mode: 'overwrite' as const, permissions: undefined, parameters: {} },
  };
  await receive(plain, archive, {
    open: () => Promise.resolve({ offset: 0, body: repository.archive(commit, transfer.signal) }),
  });
  const [tar, place] = [await absolute(transfer, archive), await absolute(transfer, to)].map(quote);
  const draft = quote(`${await partOf(transfer)}.d`);
  // what is there stays: so it is put beside first
  const script =
    entry.mode === 'nooverwrite'
      ? [
          `rm -rf -- ${draft}; mkdir -p -- ${draft} ${place} || exit 1`,
          `tar -xf ${tar} -C ${draft} && cp -RPnT -- ${draft} ${place} || exit 1`,
          `rm -rf -- ${draft} ${tar}`,
        ]
      : [`mkdir -p -- ${place} && tar -xf ${tar} -C ${place} && rm -f -- ${tar}`];
  await runInBackground(transfer, script.join('\n'), clock);
}
