import { ImageMetadata } from '#imagerepo/contract.js';
import type { Snapshot } from '#xnjs/vm/snapshots/snapshot.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';

export const anImageMetadata = (changes: object = {}): ImageMetadata =>
  ImageMetadata.parse({
    name: 'Debian',
    version: '12',
    format: 'kernel',
    os: { distribution: 'Debian', version: '12' },
    requirements: {
      cpus: { min: 1, default: 1, max: 4 },
      memoryMiB: { min: 320, default: 384, max: 4096 },
    },
    tsi: { login: 'grid', jobsDirectory: '/home/grid/jobs' },
    ...changes,
  });

export const aTargetSystem = (changes: Partial<TargetSystem> = {}): TargetSystem => ({
  id: '5b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c',
  ownerDn: 'CN=Demo User,O=VSite,C=EU',
  image: { id: '0d9a7f0e-6a0c-4f3b-8a52-2f7d0a1b2c3d', metadata: anImageMetadata(), parts: {} },
  parameters: { cpus: 2, memoryMiB: 384 },
  driver: 'qemu',
  host: 'local',
  state: 'INITIALIZING',
  evidence: { source: 'user', fact: 'requested', atMs: 0 },
  boot: {},
  tags: [],
  createdMs: 0,
  ...changes,
});

/** Of a host with machines, without any wish of its operator. */
export const plainHost = {
  drivers: ['qemu' as const],
  ...{ labels: [], drain: false, capacity: {}, reserved: {} },
};

export const aSnapshot = (changes: Partial<Snapshot> = {}): Snapshot => ({
  ...{ id: '6c1d2e3f-0a1b-4c2d-8e3f-4a5b6c7d8e9f', name: 'before', state: 'READY' },
  ...{ createdMs: 40, atMs: 50, host: 'h', parameters: aTargetSystem().parameters, sizeMiB: 400 },
  ...changes,
});
