import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { imageOperations } from '#imagerepo/operations.js';
import { changesOperations } from '#imagerepo/operations-changes.js';
import { imageRoutes } from '#imagerepo/contract.js';
import { Agent, request } from 'undici';
import { bzImage, gzipped, metadata } from './samples.js';
import { Service } from './service.js';

/** By the name that the service is told; `creator` has made the images. */
const callers = {
  nobody: '',
  banned: 'creator/banned',
  user: 'user',
  otherCreator: 'other',
  creator: 'creator',
  admin: 'admin/admin',
} as const;
type CallerName = keyof typeof callers;

/** Who may; of the others the known get 404 where they may not even see the image, else 403. */
type Row = { readonly public: readonly CallerName[]; readonly private: readonly CallerName[] };
const known = ['user', 'otherCreator', 'creator', 'admin'] as const;
const owners = ['creator', 'admin'] as const;
const look: Row = { public: known, private: owners };
const change: Row = { public: owners, private: owners };

/** Written by hand, compared with what the server does. */
const access: Readonly<Record<string, Row>> = {
  'POST ': { public: known, private: known },
  'GET ': { public: known, private: known },
  'GET /changes': { public: ['admin'], private: ['admin'] },
  'GET /:imageId': look,
  'GET /:imageId/parts/:part': look,
  'PUT /:imageId/parts/:part': change,
  'PUT /:imageId': change,
  'POST /:imageId/actions/publish': change,
  'DELETE /:imageId': change,
};
const bodies: Readonly<Record<string, () => object | Buffer>> = {
  'POST ': () => metadata({ name: 'made' }),
  'PUT /:imageId/parts/:part': () => bzImage('changed'),
  'PUT /:imageId': () => ({ description: 'changed' }),
  'POST /:imageId/actions/publish': () => ({}),
};

describe('who may do what with images', { timeout: 60_000 }, () => {
  let service: Service;
  const images: Record<'public' | 'private', string> = { public: '', private: '' };
  before(async () => {
    service = await Service.start();
    const creator = service.as(callers.creator);
    for (const visibility of ['public', 'private'] as const) {
      const id = await creator.create({ name: visibility, visibility });
      await creator.put(id, 'kernel', bzImage(visibility));
      await creator.put(id, 'initrd', gzipped(visibility));
      await creator.publish(id);
      images[visibility] = id;
    }
  });
  after(() => service.scope.close());

  async function ask(name: CallerName, key: string, id: string): Promise<number> {
    const [method = '', path = ''] = key.split(' ');
    const body = bodies[key]?.();
    const isBytes = Buffer.isBuffer(body);
    const dispatcher = new Agent({ connect: { socketPath: service.socketPath } });
    try {
      const filled = path.replace(':imageId', id).replace(':part', 'kernel');
      const answer = await request(`http://service${imageRoutes.images}${filled}`, {
        dispatcher,
        method: method as 'GET',
        headers: {
          'x-test-user': callers[name],
          'content-type': isBytes ? 'application/octet-stream' : 'application/json',
        },
        body: isBytes || body === undefined ? (body ?? null) : JSON.stringify(body),
      });
      await answer.body.dump();
      return answer.statusCode;
    } finally {
      await dispatcher.close();
    }
  }

  it('is in the table for every operation', () => {
    const keys = [...imageOperations, ...changesOperations].map(
      ({ method, path }) => `${method} ${path}`,
    );
    assert.deepEqual(keys.sort(), Object.keys(access).sort());
  });

  for (const [key, row] of Object.entries(access))
    it(key === 'GET ' ? 'GET the list' : key, async () => {
      for (const visibility of ['public', 'private'] as const) {
        const allowed = row[visibility];
        // those who may not first: the others may leave nothing
        const order = (Object.keys(callers) as CallerName[]).sort(
          (a, b) => Number(allowed.includes(a)) - Number(allowed.includes(b)),
        );
        for (const name of order) {
          const status = await ask(name, key, images[visibility]);
          const what = `${key} of the ${visibility} image by ${name}: ${status}`;
          // 409: what is published stays as it is; 404: whoever came before has deleted it
          if (allowed.includes(name)) assert.ok(status < 500 && ![401, 403].includes(status), what);
          else assert.equal(status, expected(key, visibility, name), what);
        }
        const left = await ask('creator', 'GET /:imageId', images[visibility]);
        assert.equal(left, key.startsWith('DELETE') ? 404 : 200, `${visibility} after ${key}`);
      }
    });

  function expected(key: string, visibility: string, name: CallerName): number {
    // who may not see an image does not learn that there is one
    const isHidden = key.includes(':imageId') && visibility === 'private';
    if (!isHidden || name === 'banned') return 403;
    // reading asks first who it is, changing asks for the image
    return name === 'nobody' && access[key] === look ? 403 : 404;
  }

  it('lists what one may see', async () => {
    const creator = service.as(callers.creator);
    const id = await creator.create({ name: 'hidden', visibility: 'private' });
    for (const name of ['user', 'otherCreator'] as const)
      assert.ok(!(await service.as(callers[name]).list()).includes(id), name);
    for (const name of owners) assert.ok((await service.as(callers[name]).list()).includes(id));
  });
});
