import { join } from 'node:path';
import type { Audit } from '#kernel/security/audit.js';
import type { XnjsConfig } from '../../config.js';
import type { EnrolmentConfig } from './enrolments.js';
import { MachineAuthority } from './machine-authority.js';

/** By the configuration; the authority is made where there is none yet. */
export async function openEnrolment(
  { stateDirectory, targetSystems }: XnjsConfig,
  installationId: string,
  audit: Audit | undefined,
): Promise<EnrolmentConfig> {
  const { tokenSeconds, certificateHours } = targetSystems.enrolment;
  const path = join(stateDirectory, 'machine-authority.pem');
  const authority = await MachineAuthority.open(path, installationId, certificateHours / 24);
  return { authority, tokenMs: tokenSeconds * 1_000, ...(audit && { audit }) };
}
