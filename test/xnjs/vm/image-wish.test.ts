import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseDescription } from '#xnjs/job/description.js';
import { readImageWish } from '#xnjs/vm/image-wish.js';

describe('the image that a job asks for', () => {
  const any = {};
  const cases: readonly (readonly [string, Record<string, unknown>, object | undefined])[] = [
    ['none', { Executable: 'x' }, undefined],
    ['none by an empty name', { Image: '', Resources: { Image: null } }, undefined],
    ['none by a system alone', { Resources: { OperatingSystem: 'LINUX' } }, undefined],
    ['one by its name', { Image: 'demo:1' }, { reference: 'demo:1', requirements: any }],
    ['any', { Image: '*' }, { requirements: any }],
    ['one by requirements', { Image: { OperatingSystem: 'Debian', format: 'qcow2' } }, { requirements: { os: 'Debian', format: 'qcow2' } }],
    ['a kind of system', { Image: { os: 'linux', CPUArchitecture: 'arm' } }, { requirements: { osType: 'LINUX', architecture: 'aarch64' } }],
    ['what stands beside it', { Image: '*', Resources: { OperatingSystem: 'LINUX', OperatingSystemVersion: 12, CPUArchitecture: 'x86_64' } }, { requirements: { osType: 'LINUX', osVersion: '12', architecture: 'x86_64' } }],
    ['what itself says rather', { Resources: { Image: { architecture: 'x86_64' }, CPUArchitecture: 'aarch64' } }, { requirements: { architecture: 'x86_64' } }],
  ]; // prettier-ignore
  for (const [what, description, expected] of cases)
    it(`is ${what}`, () => assert.deepEqual(readImageWish(description), expected));

  it('is the only reason to look at system and processor, which are unknown resources else', () => {
    const Resources = { OperatingSystem: 'LINUX', Runtime: '60' };
    assert.deepEqual(parseDescription({ Image: 'demo', Resources }).Resources, { Runtime: '60' });
    assert.deepEqual(parseDescription({ Resources }).Resources, Resources);
  });

  it('names the field that is wrong', () => {
    for (const [field, description] of [
      ['Resources.CPUArchitecture', { Image: 'x', Resources: { CPUArchitecture: 'sparc' } }],
      ['Resources.OperatingSystem', { Image: 'x', Resources: { OperatingSystem: ['a'] } }],
      ['Image: architecture', { Image: { architecture: 'sparc' } }],
      ['Resources.Image: ', { Resources: { Image: { colour: 1 } } }],
    ] as const)
      assert.throws(
        () => readImageWish(description),
        ({ code, message }: { code: string; message: string }) =>
          code === 'BAD_REQUEST' && message.startsWith(field),
        field,
      );
  });
});
