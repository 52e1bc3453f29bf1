import type { Clock } from '#kernel/clock.js';
import { quote } from '../incarnation/quote.js';
import { StagingError } from './errors.js';
import { run } from './on-target.js';
import type { Transfer } from './transfer.js';

const firstPollMs = 100;
const lastPollMs = 5_000;
const stopMs = 10_000;

/**
 * Runs shell text on the target system for as long as it takes: in the background, since a script that is
 * waited for keeps a worker of the TSI and has a deadline (tsi-xnjs 4.5). One that a former try has begun is
 * found again by its files and not begun twice.
 * @throws {@link StagingError} with what it printed
 */
export async function runInBackground(
  transfer: Pick<Transfer<unknown>, 'site' | 'id' | 'signal'>,
  script: string,
  clock: Clock,
): Promise<void> {
  const { site, id, signal } = transfer;
  const state = quote(`${await site.files.mountPoint()}.UNICORE_${id}.run`);
  try {
    let answer = await run(transfer, start(state, script));
    for (let ms = firstPollMs; answer.trim() === 'RUNNING'; ms = Math.min(ms * 2, lastPollMs)) {
      await clock.sleep(ms, signal);
      answer = await run(transfer, look(state));
    }
    await run(transfer, `rm -rf -- ${state}`); // it has ended
    const [, code, output = ''] = /^EXIT (\d+)\n([^]*)$/.exec(answer) ?? [];
    if (code === '0') return;
    throw new StagingError(
      'PEER_FAILED',
      code === undefined
        ? 'it was ended on the target system'
        : output.trim() || `exit code ${code}`,
    );
  } catch (error) {
    if (signal.aborted)
      await run({ site, signal: AbortSignal.timeout(stopMs) }, stop(state)).catch(() => undefined);
    throw error;
  }
}

/** A process group of its own, so that all of it can be ended; its files tell what became of it. */
function start(state: string, script: string): string {
  return [
    `mkdir -p -- ${state} && cd -- ${state} || exit 1`,
    'if [ ! -e pid ]; then (', // in a shell whose news about jobs nobody reads
    'set -m',
    `( ( ${script}\n) > output 2>&1; echo $? > exit.new; mv exit.new exit ) < /dev/null > /dev/null 2>&1 &`,
    'echo $! > pid.new; mv pid.new pid',
    ') 2> /dev/null; fi',
    'for i in 1 2 3 4 5; do [ -e exit ] && break; sleep 0.05; done',
    look(state),
  ].join('\n');
}

function look(state: string): string {
  return [
    `cd -- ${state} || exit 1`,
    'running=$(kill -0 -- "-$(cat pid)" 2> /dev/null && echo RUNNING)',
    'if [ -e exit ]; then echo "EXIT $(cat exit)"; head -c 1000 output; else echo "$running"; fi',
  ].join('\n');
}

function stop(state: string): string {
  return `kill -KILL -- "-$(cat ${state}/pid)"; rm -rf -- ${state}`;
}
