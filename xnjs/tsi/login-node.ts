import { createHash } from 'node:crypto';
import { TsiError } from '#tsi/protocol/error.js';
import type { LoginNodeRun } from './tsi.js';

/** Below this RUN_ON_LOGIN_NODE is not there. */
export const runOnLoginNodeSince = '10.2';

function quote(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function marker({ outcomeDir, attemptId }: LoginNodeRun): string {
  const name = createHash('sha256').update(attemptId).digest('hex').slice(0, 32);
  return quote(`${outcomeDir}/.UNICORE_RUN_${name}`);
}

/**
 * For TSIs without RUN_ON_LOGIN_NODE: the script in the background of one whose output is discarded, which
 * gives it a session of its own (§4.5). The marker makes an attempt run once, whoever repeats it.
 */
export function backgroundScript(run: LoginNodeRun): string {
  const mark = marker(run);
  const output = [run.stdout, run.stderr].map((name) => quote(`${run.outcomeDir}/${name}`));
  return [
    `cd ${quote(run.uspaceDir)} && mkdir -p ${quote(run.outcomeDir)} || exit 1`,
    `(set -C; : > ${mark}) 2>/dev/null || exit 0`,
    '(',
    run.script,
    `) > ${output[0]} 2> ${output[1]} < /dev/null &`,
    `echo $! > ${mark}.new && mv ${mark}.new ${mark}.pid`,
  ].join('\n');
}

/** Prints the pid as soon as it is known. */
export function pidScript(run: LoginNodeRun): string {
  const file = `${marker(run)}.pid`;
  return `cd ${quote(run.uspaceDir)} || exit 1
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
[ -s ${file} ] && cat ${file} && exit 0
sleep 0.5 2>/dev/null || sleep 1
done
echo 'the script does not start'; exit 1`;
}

/** @throws `TSI_PROTOCOL` for what cannot be the number of a user's process */
export function checkPid(text: string): string {
  const pid = text.trim();
  if (/^[1-9]\d{0,9}$/.test(pid) && pid !== '1') return pid;
  throw new TsiError('TSI_PROTOCOL', 'this is not the number of a process', {
    pid: text.slice(0, 200),
  });
}

/**
 * Ends the session of a process: SIGTERM, after 5 s SIGKILL. Needs a shell and `/proc` only: images need not
 * have `ps`. The session that the TSI itself is in is never touched; then it is the process alone.
 */
export function killScript(text: string): string {
  const pid = checkPid(text);
  return `look() {
  { IFS= read -r line < "/proc/$1/stat"; } 2>/dev/null || return 1
  rest=\${line##*) }
  set -- $rest
  state=$1 session=$4
}
living() {
  found=
  for entry in /proc/[0-9]*; do
    look "\${entry#/proc/}" || continue
    [ "$session" = "$target" ] && [ "$state" != Z ] && found="$found \${entry#/proc/}"
  done
  [ -n "$found" ]
}
look $$; own=$session
look ${pid} || session=${pid}
target=$session
if [ "$target" = "$own" ] || [ "$target" -le 1 ]; then kill ${pid}; exit; fi
living || exit 0
kill -TERM $found 2>/dev/null; kill -CONT $found 2>/dev/null
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
  living || exit 0
  sleep 0.2 2>/dev/null || sleep 1
done
kill -KILL $found 2>/dev/null
for round in 1 2 3 4 5 6 7 8 9 10; do
  living || exit 0
  sleep 0.2 2>/dev/null || sleep 1
done
echo "processes$found do not end"; exit 1`;
}
