/**
 * Staging in a process of its own, to be killed or measured. Arguments: directory, socket, description,
 * direction, id of a job that there is already.
 */
import { Scope } from '#kernel/scope.js';
import { attachStaging } from './rig.js';

const [directory = '', socket = '', description = '{}', direction = 'in', known = ''] =
  process.argv.slice(2);
const rig = await attachStaging(new Scope(), directory, socket);
const job =
  known === ''
    ? await rig.makeJob(JSON.parse(description) as object)
    : (await rig.jobs.find(known))!;
process.stdout.write(`job ${job.id}\n`);
await rig.stage(job, direction === 'out' ? 'out' : 'in');
process.stdout.write(`staged ${Math.round(process.resourceUsage().maxRSS / 1024)}\n`);
process.kill(process.pid, 'SIGKILL'); // before anybody learns of it
