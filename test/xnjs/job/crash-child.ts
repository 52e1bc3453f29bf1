/** An engine in a process of its own, to be killed. Arguments: directory, socket, jobs to submit. */
import { Scope } from '#kernel/scope.js';
import { startEngine } from './rig.js';

const [directory = '', socket = '', count = '0'] = process.argv.slice(2);
const { engine, submit } = await startEngine(new Scope(), directory, socket);
engine.onChange(({ id, state }) => {
  if (state === 'DONE') process.stdout.write(`done ${id}\n`);
});
for (let n = 0; n < Number(count); n++) {
  const id = await submit({ Executable: `basename "$PWD" >> ${directory}/jobs/counts; sleep 0.3` });
  process.stdout.write(`accepted ${id}\n`);
}
