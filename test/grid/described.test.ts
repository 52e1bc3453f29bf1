import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { imageOperations } from '#imagerepo/operations.js';
import { changesOperations } from '#imagerepo/operations-changes.js';
import { describeApi } from '#kernel/http/openapi/document.js';
import { mount } from '#kernel/http/router.js';
import { restOperations } from '#targetsystem/rest/operations.js';

const services = {
  'the target systems': Object.entries(restOperations).map(([prefix, each]) =>
    mount(prefix, each, undefined as never),
  ),
  'the image repository': [
    mount('/rest/images', changesOperations, undefined as never),
    mount('/rest/images', imageOperations, undefined as never),
  ],
};

for (const [name, mounts] of Object.entries(services))
  describe(`the operations of ${name}`, () => {
    const all = mounts.flatMap(({ prefix, operations }) =>
      operations.map((each) => ({ key: `${each.method} ${prefix}${each.path}`, ...each })),
    );
    const keys = (wrong: (each: (typeof all)[number]) => boolean): string[] =>
      all.filter(wrong).map(({ key }) => key);

    it('all say by what name they are known and how they answer', () => {
      assert.deepEqual(
        keys(({ id, saysAnswers }) => id === undefined || !saysAnswers),
        [],
      );
    });

    it('say what is in each JSON answer', () => {
      const isBare = ({ answers }: (typeof all)[number]): boolean =>
        Object.values(answers).some(
          ({ body, types = [] }) => body === undefined && types.includes('application/json'),
        );
      assert.deepEqual(keys(isBare), []);
    });

    it('are known by names of their own, each in a group', () => {
      const { paths } = describeApi(mounts, { title: 't', version: '1', description: 'd' });
      const described = Object.values(paths).flatMap((methods) => Object.values(methods));
      const names = described.map(({ operationId }) => operationId);
      assert.deepEqual(
        names.filter((each, at) => names.indexOf(each) !== at),
        [],
      );
      assert.deepEqual(
        described.filter(({ tags }) => !/^[a-z][a-z-]+$/.test(tags[0] ?? '')),
        [],
      );
    });
  });
