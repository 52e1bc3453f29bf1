import type { Clock } from '#kernel/clock.js';
import { TsiError } from '#tsi/protocol/error.js';
import { quote } from '../incarnation/quote.js';
import type { CallOptions, LoginNodeRun, Tsi, TsiIdentity } from './tsi.js';

const pollMs = 200;
/** After so long of asking a job to end, its processes are killed. */
const graceMs = 5_000;

/**
 * What a TSI of the original lacks, and our agent does by itself:
 *
 * - It does not know attempts by their id, so a submission whose answer was lost, by a broken wire or by
 *   a crash of ours, would run the job twice. But it writes down what it was sent before it starts it.
 * - Without a batch system it asks a job to end, and leaves one that does not.
 */
export function withSafeguards(tsi: Tsi, clock: Clock): Tsi {
  return {
    ...tsi,
    async submit(identity, submission, options) {
      const before = await findAttempt(tsi, identity, submission, 'job', options);
      if (!before) return await tsi.submit(identity, submission, options);
      // without a batch system the id; with one, six random characters
      if (/^\d{9,}$/.test(before.name)) return before.name;
      const { attemptId } = submission;
      const text =
        'this attempt was submitted before, and its answer was lost: ' +
        'the batch system may run it under an id that nobody knows';
      throw new TsiError('TSI_FAILED', text, { attemptId, file: `UNICORE_Job_${before.name}` });
    },
    async runOnLoginNode(identity, run, options) {
      const before = await findAttempt(tsi, identity, run, 'run', options);
      return before ? before.pid : await tsi.runOnLoginNode(identity, run, options);
    },
    async abort(identity, bssId, options) {
      await tsi.abort(identity, bssId, options);
      for (const until = clock.now() + graceMs; ;) {
        const entry = (await tsi.status(options)).get(bssId);
        if (entry?.queue !== 'NOBATCH') return;
        if (clock.now() > until) break;
        await clock.sleep(pollMs, options?.signal);
      }
      await tsi.execute(identity, killSession(bssId), options);
    },
  };
}

/** `name`: what stands behind `UNICORE_Job_`. `pid`: its session, or one that lives no more. */
type Attempt = { readonly name: string; readonly pid: string };

async function findAttempt(
  tsi: Tsi,
  identity: TsiIdentity,
  run: LoginNodeRun,
  kind: 'job' | 'run',
  options?: CallOptions,
): Promise<Attempt | undefined> {
  const printed = await tsi.execute(identity, attemptScript(run, kind), options);
  const [, name, pid] = /UNICORE_Job_(\S+) (\d+)\s*$/.exec(printed) ?? [];
  return name === undefined || pid === undefined ? undefined : { name, pid };
}

/**
 * Finds the message of the attempt, and what became of it. It was started when its session lives, or the
 * shell has opened its output since: the TSI writes the message just before. A message that is not started
 * after some seconds is of a worker that was killed in between; it is removed, and the attempt may be made
 * again. With a batch system nothing can be told from that, and every message counts.
 */
function attemptScript(
  { uspaceDir, outcomeDir, stdout, attemptId }: LoginNodeRun,
  kind: 'job' | 'run',
): string {
  const header = quote(`#TSI_SUBMIT_ID ${attemptId}`);
  const batch = kind === 'job' ? '*[!0-9]*) echo "$f $$"; exit;;' : '';
  return `cd -- ${quote(uspaceDir)} || exit
f=$(grep -lx -e ${header} -- UNICORE_Job_* 2> /dev/null | head -n 1)
[ -n "$f" ] || exit 0
case "\${f#UNICORE_Job_}" in ${batch} esac
out=${quote(`${outcomeDir}/${stdout}`)}
for round in 1 2 3 4 5 6; do
pid=$(ps -e -o pid=,sid=,args= | awk -v "f=./$f" '$1 == $2 && index($0, f) { print $1; exit }')
if [ -n "$pid" ] || { [ -e "$out" ] && ! [ "$f" -nt "$out" ]; }; then echo "$f \${pid:-$$}"; exit; fi
sleep 0.5
done
rm -f -- "$f"`;
}

/** The brackets keep the script from finding itself. */
function killSession(bssId: string): string {
  const pattern = quote(`[U]NICORE_Job_${bssId}$|[U]NICORE_Job_${bssId} `);
  return (
    `for sid in $(ps -e -o sid=,args= | grep -E ${pattern} | awk '{ print $1 }' | sort -u); do ` +
    'pkill -KILL -s "$sid"; done; true'
  );
}
