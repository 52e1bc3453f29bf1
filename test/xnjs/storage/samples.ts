import type { CreatedStorage } from '#xnjs/storage/storage.js';

export const aStorage = (changes: Partial<CreatedStorage> = {}): CreatedStorage => ({
  id: '6a3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c',
  ownerDn: 'CN=Alice,O=Grid',
  type: 'DEFAULT',
  place: { on: 'host', base: '/nowhere' },
  cleanup: true,
  metadata: true,
  state: 'INITIALIZING',
  reason: 'requested',
  settings: { umask: '077', description: 'd', tags: [] },
  createdMs: 1,
  ...changes,
});
