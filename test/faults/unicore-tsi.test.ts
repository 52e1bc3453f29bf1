import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Scope } from '#kernel/scope.js';
import { findSources, sourcesVariable, UnicoreTsi } from '../real-tsi/unicore-tsi.js';
import { scratch } from '../xnjs/job/rig.js';
import { Server, settle, states } from './rig.js';
import { FaultTable } from './table.js';

/** What happens to a TSI whose workers are processes. */
const faults: readonly { name: string; strike: (tsi: UnicoreTsi) => Promise<void> | void }[] = [
  { name: 'kill -9 of all workers', strike: (tsi) => void tsi.killWorkers() },
  {
    name: 'kill -9 of the main, which is started again; workers live on',
    strike: async (tsi) => {
      await tsi.killMain();
      await tsi.start();
    },
  },
  {
    name: 'kill -9 of main and workers, started again',
    strike: async (tsi) => {
      await tsi.kill();
      await tsi.start();
    },
  },
];
const sources = findSources();
if (sources.length === 0)
  it('what a job survives on a UNICORE TSI', {
    skip: `${sourcesVariable} names no checkout of github.com/UNICORE-EU/tsi`,
  });

for (const source of sources)
  describe(
    `what a job survives on the UNICORE TSI ${source.version}, in each of its states`,
    { timeout: 1_200_000 },
    () => {
      const table = new FaultTable();
      after(() => table.print());
      for (const { name, strike } of faults)
        it(name, async () => {
          await using scope = new Scope();
          const directory = scratch(scope);
          const tsi = await UnicoreTsi.start(scope, source);
          const address = `tcp:${tsi.port}`;
          const server = await Server.start(scope, directory, address);
          for (const state of states) {
            await server.pass(state, { hold: true });
            await strike(tsi); // nothing is being done
            server.release();
            await sleep(150 * Math.random());
            await strike(tsi); // whatever follows on the state is being done
          }
          await server.idle();
          await server.kill();
          const jobs = await settle(directory, address, server.accepted);
          table.survived(name, 'each state', jobs);
        });
    },
  );
