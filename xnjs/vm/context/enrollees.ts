import type { SystemRecords } from '../system-records.js';
import type { TargetSystem } from '../target-system.js';
import { needsIdentity } from '../tiers/identity.js';
import type { SparePool } from '../tiers/spare-pool.js';
import { meansOf, type Enrollee, type Enrollees } from './enrolments.js';

/** Machines that prove themselves: those of target systems, and spares, which keep what they have got by that. */
export function enrolleesOf(
  records: Pick<SystemRecords, 'find' | 'queue' | 'save' | 'get' | 'applyNow'>,
  spares: () => Pick<SparePool, 'enrollee' | 'saveEnrolment'> | undefined,
): Enrollees {
  return {
    find(id) {
      const record = records.find(id);
      return record ? toEnrollee(record) : spares()?.enrollee(id);
    },
    queue: (id, work) => records.queue(id, work),
    async save(id, enrolment) {
      if (records.find(id)) await records.save({ ...records.get(id), enrolment });
      else await spares()?.saveEnrolment(id, enrolment);
    },
    async refused(id, evidence) {
      if (records.find(id)) await records.applyNow(id, { type: 'refused', evidence });
    },
  };
}

export function toEnrollee(record: TargetSystem): Enrollee {
  const { id, generation, enrolment, ownerDn, image } = record;
  return {
    id,
    ...(generation !== undefined && { generation }),
    ...(enrolment && { enrolment }),
    dn: ownerDn,
    means: meansOf(record),
    isRequired: isRequiredBy(image),
    // one that has proved itself before it was claimed does so on each connection
    isToChange: needsIdentity(record) && enrolment?.keyHash === undefined,
  };
}

export function isRequiredBy({ metadata }: TargetSystem['image']): boolean {
  return metadata.contextualisation?.enrolment === 'required';
}
