import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { JobEvent } from '#xnjs/job/events.js';
import type { Plan } from '#xnjs/job/job.js';
import { step } from '#xnjs/job/state.js';
import { inProject } from '../../program.js';
import { aJob, aPlan } from './samples.js';

const folder = inProject('test/xnjs/job/scenarios');

/** Events that belong to no run. */
const runless = new Set(['lost', 'start', 'restart', 'abort', 'destroy', 'pause', 'resume']);

/** Two blanks or more part the columns: event, state, effects, `= result`; `#` begins a remark. */
describe('scenarios of a job', () => {
  for (const file of readdirSync(folder)) {
    const lines = readFileSync(join(folder, file), 'utf8').trim().split('\n');
    it(`${file}: ${lines[0]!.slice(2)}`, () => {
      let job = aJob();
      let run = 1;
      for (const [at, line] of lines.entries()) {
        if (line.startsWith('#')) continue;
        const [told = '', state, effects, result] = line.replace(/\s+#.*/, '').split(/\s{2,}/);
        const next = step(
          job,
          toEvent(told, told === 'gone' && state === 'CREATED' ? run - 1 : run, at),
        );
        ({ job } = next);
        run = job.run.number;
        const asked = next.effects.map((effect) => effect.do).join(',') || '-';
        assert.deepEqual([job.state, asked], [state, effects], `${file}:${at + 1}`);
        const { result: found } = job.run;
        if (result)
          assert.equal(found?.successful ? 'successful' : found?.message, result.slice(2));
      }
    });
  }
});

function toEvent(told: string, run: number, atMs: number): JobEvent {
  const [type = '', ...words] = told.split(' ');
  const argument = words.join(' ');
  const has = (word: string): boolean => argument.split(',').includes(word);
  const command = { ignoreNonZeroExitCode: false };
  const plan: Plan = {
    ...aPlan,
    executes: has('executes'),
    stagesIn: has('stagesIn'),
    stagesOut: has('stagesOut'),
    waitsForClient: has('waitsForClient'),
    ...(has('preCommand') && { preCommand: command }),
    ...(has('postCommand') && { postCommand: command }),
    ...(has('delayed') && { notBeforeMs: 8e15 }),
    ...(has('onLoginNode') && { onLoginNode: true }),
    ...(has('allocates') && { allocates: true }),
    ...(has('sweep') && { executes: true, sweep: 2 }),
  };
  const facts = { name: 'n', jobType: 'BATCH', directory: '/j/' };
  const more = {
    bssId: argument,
    pid: argument,
    exitCode: Number(argument),
    reason: argument,
    plan,
    facts,
  };
  return { type, atMs, ...(runless.has(type) ? {} : { run }), ...more } as unknown as JobEvent; // the file is ours
}
