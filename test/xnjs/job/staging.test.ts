import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';
import type { Staging } from '#xnjs/staging/staging.js';
import { scratch, until } from './rig.js';
import { held, ScriptedTsi, start } from './scripted.js';

describe('the staging of a job', { timeout: 30_000 }, () => {
  /** A staging whose every call waits to be let go. */
  function gatedStaging() {
    const calls: { direction: string; signal: AbortSignal }[] = [];
    const gate = held();
    const staging: Staging = {
      async stage(_job, direction, _site, signal) {
        calls.push({ direction, signal });
        await Promise.race([
          gate.promise,
          new Promise((_, no) => signal.addEventListener('abort', () => no(new Error('cut')))),
        ]);
        return { log: [`[${direction}] done.`] };
      },
    };
    return { calls, gate, staging };
  }
  const stages = { Executable: 'x', Imports: [{ To: 'f', Data: 'd' }] };

  it('is cut short when its job is aborted', async () => {
    await using scope = new Scope();
    const { calls, staging } = gatedStaging();
    const { engine, submit, reaches } = await start(scope, new ScriptedTsi(), undefined, {
      staging,
    });
    const id = await submit(stages);
    await until('staging', () => calls.length === 1);
    await engine.abort(id);
    await reaches(id, 'DONE');
    assert.equal(calls[0]!.signal.aborted, true);
  });

  it('is done again after a crash, and the log says what it says', async () => {
    await using scope = new Scope();
    const { calls, gate, staging } = gatedStaging();
    const directory = scratch(scope);
    const first = new Scope();
    const one = await start(first, new ScriptedTsi(), directory, { staging });
    const id = await one.submit(stages);
    await until('staging', () => calls.length === 1);
    await one.engine.close();
    gate.release();
    await using second = new Scope();
    const { engine, reaches } = await start(second, new ScriptedTsi(), directory, { staging });
    await reaches(id, 'DONE');
    assert.equal(calls.length, 2);
    assert.match((await engine.get(id)).log.join('\n'), /: \[in\] done\./);
  });

  it('waits for a target that does not answer', async () => {
    await using scope = new Scope();
    let tries = 0;
    const staging: Staging = {
      stage: () =>
        ++tries < 3
          ? Promise.reject(new GridError('TSI_UNAVAILABLE', 'away'))
          : Promise.resolve({ log: [] }),
    };
    const { submit, reaches } = await start(scope, new ScriptedTsi(), undefined, { staging });
    await reaches(await submit(stages), 'DONE');
    assert.equal(tries, 3);
  });

  it('that failed ends the job with the reason', async () => {
    await using scope = new Scope();
    const staging: Staging = {
      stage: () => Promise.reject(new GridError('PEER_FAILED', 'no such file there')),
    };
    const { engine, submit, reaches } = await start(scope, new ScriptedTsi(), undefined, {
      staging,
    });
    const id = await submit(stages);
    await reaches(id, 'DONE');
    assert.equal(
      (await engine.get(id)).run.result?.message,
      'Staging in failed: no such file there',
    );
  });
});
