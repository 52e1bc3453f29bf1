import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createBinding } from '../create-binding.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { awaitAgent } from './await-agent.js';
import type { MemoryFiles } from './memory-files.js';
import type { Template } from './template.js';

/**
 * Puts the memory of a machine that was saved into a file that its copies map, and starts the machine from it once, until
 * its agent answers: QEMU may have no right to it there (it writes nothing, but opens it so), or be of a version that
 * saves otherwise. Then all stays in libvirt's file.
 * @returns how large it is; `undefined`: it is read there
 */
export async function tryMapped(
  template: Template,
  { split }: MemoryFiles,
  options: TargetSystemsOptions,
  signal: AbortSignal,
): Promise<number | undefined> {
  if (!split) return undefined;
  const { hosts, lease, log } = options;
  const { id, driver } = template;
  try {
    const from = await split.begin(template);
    signal.throwIfAborted();
    await lease?.require();
    await hosts.of(template).restoreMemory(driver, id, from);
    await requireAgent(template, options, signal);
    await hosts.of(template).remove(driver, id);
    await split.keep(template);
    return from.mapped.sizeBytes;
  } catch (error) {
    signal.throwIfAborted();
    tell(log, template, error);
    await hosts.of(template).remove(driver, id);
    await split.drop(template);
    return undefined;
  }
}

async function requireAgent(
  template: Template,
  options: TargetSystemsOptions,
  signal: AbortSignal,
): Promise<void> {
  const { clock, bootTimeoutMs } = options;
  await using binding = createBinding(template, options, () => undefined);
  if (!(await awaitAgent(binding, clock, bootTimeoutMs, signal)))
    throw new Error('its agent says nothing sensible');
}

function tell(log: Log, { id, host }: Template, error: unknown): void {
  const about = { part: 'xnjs.vm.templates', vmId: id, host, reason: errorText(error) };
  log.warn(about, 'saved memory cannot be mapped here, and is read at each start');
}
