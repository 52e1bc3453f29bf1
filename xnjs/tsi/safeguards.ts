import type { Clock } from '#kernel/clock.js';
import { TsiError } from '#tsi/protocol/error.js';
import { quote } from '../incarnation/quote.js';
import type { Tsi } from './tsi.js';

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
      const { uspaceDir, attemptId } = submission;
      const written = await tsi.execute(identity, findAttempt(uspaceDir, attemptId), options);
      const [, id] = /UNICORE_Job_(\S+)\s*$/.exec(written) ?? [];
      if (id === undefined) return await tsi.submit(identity, submission, options);
      // without a batch system the id; with one, six random characters
      if (/^\d{9,}$/.test(id)) return id;
      const text =
        'this attempt was submitted before, and its answer was lost: ' +
        'the batch system may run it under an id that nobody knows';
      throw new TsiError('TSI_FAILED', text, { attemptId, file: `UNICORE_Job_${id}` });
    },
    async runOnLoginNode(identity, run, options) {
      const script = findAttempt(run.uspaceDir, run.attemptId);
      if ((await tsi.execute(identity, script, options)).trim() === '')
        return await tsi.runOnLoginNode(identity, run, options);
      const text =
        'this attempt was started before, and its answer was lost: ' +
        'it may run as a process that nobody knows';
      throw new TsiError('TSI_FAILED', text, { attemptId: run.attemptId });
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

/** Names the file that holds the message of the attempt. */
function findAttempt(uspaceDir: string, attemptId: string): string {
  const header = quote(`#TSI_SUBMIT_ID ${attemptId}`);
  return `cd -- ${quote(uspaceDir)} && grep -lx -e ${header} -- UNICORE_Job_* 2> /dev/null; true`;
}

/** The brackets keep the script from finding itself. */
function killSession(bssId: string): string {
  const pattern = quote(`[U]NICORE_Job_${bssId}$|[U]NICORE_Job_${bssId} `);
  return (
    `for sid in $(ps -e -o sid=,args= | grep -E ${pattern} | awk '{ print $1 }' | sort -u); do ` +
    'pkill -KILL -s "$sid"; done; true'
  );
}
