import { z } from 'zod';

const most = 4_096;
const form = /^\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*$/;

/** Cores of a host by number, in libvirt's form: `0-3,8`. */
const CoreSet = z.string().transform((text, context): readonly number[] => {
  const cores = form.test(text) ? text.split(',').flatMap(toCores) : [];
  if (cores.length > 0 && cores.every((core) => core < most)) return [...new Set(cores)];
  context.addIssue(`must be numbers of cores below ${most}, such as 0-3,8`);
  return z.NEVER;
});

/** Member of a host. */
export const PinningConfig = z
  .strictObject({
    /** Those that machines may have for themselves. */
    own: CoreSet,
    /** Those that all other machines share, and what QEMU does beside its guests. */
    others: CoreSet,
  })
  .refine(({ own, others }) => !own.some((core) => others.includes(core)), {
    path: ['others'],
    message: 'must be other cores than own',
  });
/** Which cores of a host are for whom. */
export type Pinning = z.output<typeof PinningConfig>;

/** A range that runs backwards has none. */
function toCores(range: string): number[] {
  const [first = 0, last = first] = range.split('-').map(Number);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => first + at);
}

/** In libvirt's form. */
export function coreSet(cores: readonly number[]): string {
  return cores.join(',');
}
