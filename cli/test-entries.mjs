// What `npm test` starts: processes that run one test file, or several. To load what it tests costs a file up to
// a second of CPU, and most files take less than that for their tests.
import { mkdirSync, writeFileSync } from 'fs';
import { join } from 'path';
import { pathToFileURL } from 'url';

/** Folders whose files share processes, with others of the same folder. */
const sharing = ['imagerepo/', 'kernel/', 'targetsystem/', 'xnjs/'];
/** Not these: they take long, or look at the memory or the environment of their process. */
const alone = [
  'imagerepo/trouble',
  'kernel/libvirt/frame',
  'kernel/libvirt/transports',
  'kernel/net/let-go',
  'kernel/security/credentials',
  'kernel/security/password-upgrade',
  'targetsystem/large-files',
  'targetsystem/security-paths',
  'targetsystem/shares',
  'xnjs/files/large-directory',
  'xnjs/incarnation/script',
  'xnjs/job/agent-end-to-end',
  'xnjs/job/crash',
  'xnjs/staging/',
  'xnjs/tsi/callback-transport',
  'xnjs/tsi/raw-channels',
  'xnjs/vm/classic-binding',
  'xnjs/vm/enrolment.',
  'xnjs/vm/isolation',
  'xnjs/vm/look',
  'xnjs/vm/network.',
  'xnjs/vm/resource-controls',
];
/** They take longest beside those of `grid/`: at the end they would run alone. */
const first = ['xnjs/vm/isolation', 'xnjs/vm/network.', 'tsi/slurm.'];
const atMost = 8;

/**
 * @param {string[]} names of test files, sorted, with slashes, below `test/`
 * @returns {string[][]} those of each process, in the order in which they are to start
 */
export function groupTests(names) {
  const isOf = (list, name) => list.some((part) => name.startsWith(part));
  const groups = [];
  for (const name of names) {
    const folder = name.slice(0, name.lastIndexOf('/'));
    const isSharing = isOf(sharing, name) && !isOf(alone, name);
    const last = groups.find((group) => group.folder === folder && group.names.length < atMost);
    if (isSharing && last) last.names.push(name);
    else groups.push({ folder: isSharing ? folder : undefined, names: [name] });
  }
  const rank = ({ names: [name] }) => (isOf(first, name) ? 0 : 1);
  return groups.sort((one, other) => rank(one) - rank(other)).map((group) => group.names);
}

/**
 * Node's runner starts files by their names.
 * @param compiled folder of the compiled tests
 * @returns paths of modules that import the files of a process each
 */
export function writeTestEntries(names, compiled, folder) {
  mkdirSync(folder, { recursive: true });
  return groupTests(names).map((group, at) => {
    const [head] = group;
    const label =
      group.length > 1 ? head.slice(0, head.lastIndexOf('/')) : head.replace(/\..*/, '');
    const path = join(folder, `${String(at).padStart(3, '0')}-${label.replaceAll('/', '.')}.mjs`);
    const urls = group.map((name) => pathToFileURL(join(compiled, name.replace(/ts$/, 'js'))));
    writeFileSync(path, urls.map((url) => `await import('${url}');\n`).join(''));
    return path;
  });
}
