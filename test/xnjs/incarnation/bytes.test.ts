import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { idbOf } from '#xnjs/idb/idb.js';
import { incarnate } from '#xnjs/incarnation/incarnate.js';
import { parseDescription } from '#xnjs/job/description.js';

/** Every character that one byte of Latin-1 stands for, but NUL, each between two others. */
const every = Array.from({ length: 255 }, (_, index) => `x${String.fromCodePoint(index + 1)}`);
const allBytes = `${every.join('')}x`;
/** What may stand in a name that a TSI is given in a header: no line ends, no substitutions. */
const forName = (text: string): string => text.replace(/[\r\n`/]/g, '');

describe('every byte', () => {
  let directory = '';
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), `vsite ${forName(allBytes).slice(0, 80)}`));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  function run(description: Record<string, unknown>, userDn = 'CN=A'): string {
    const target = { applications: [], limits: { cpus: 1, memoryBytes: 1024 ** 3 } };
    const { submission } = incarnate(parseDescription(description), idbOf(target), {
      workingDirectory: directory,
      userDn,
      defaultUmask: '077',
      environment: {},
    });
    const { stdout, stderr } = spawnSync('/bin/bash', ['-c', submission!.script], { cwd: '/' });
    assert.equal(stderr.toString(), '');
    return stdout.toString();
  }

  it('reaches the program in its environment', () => {
    const Environment = Object.fromEntries(every.map((text, index) => [`V${index}`, `${text}x`]));
    const printed = run({ Executable: 'env -0', Environment });
    const seen = new Map(
      printed.split('\0').map((entry) => {
        const at = entry.indexOf('=');
        return [entry.slice(0, at), entry.slice(at + 1)] as const;
      }),
    );
    for (const [name, value] of Object.entries(Environment)) assert.equal(seen.get(name), value);
  });

  it('reaches the program as an argument, alone and with others', () => {
    const Arguments = [...every, allBytes].map((text) => text.replaceAll('$', '\\$'));
    assert.equal(
      run({ Executable: String.raw`printf '%s\0'`, Arguments }),
      [...every, allBytes, ''].join('\0'),
    );
  });

  it('reaches the program in the DN of its user and the name of its directory', () => {
    assert.equal(
      run({ Executable: 'printf "%s\\0%s" "$UC_USERDN" "$PWD"' }, `CN=${allBytes}`),
      `CN=${allBytes}\0${directory}`,
    );
  });

  it('may be in the name of a file that is read', () => {
    const names = forName(allBytes).match(/[^]{1,100}/g) ?? [];
    assert.equal(names.length, 6);
    for (const name of names) {
      writeFileSync(join(directory, name), `text of ${name}`);
      assert.equal(run({ Executable: 'cat', Stdin: name }), `text of ${name}`);
    }
  });

  it('but NUL, which no program can be given, is refused by its field', () => {
    const nul = 'a\0b';
    for (const [field, description] of Object.entries({
      'Arguments.0': { Arguments: [nul] },
      'Environment.A': { Environment: { A: nul } },
      'Parameters.A': { Parameters: { A: nul } },
      Stdin: { Stdin: nul },
      Executable: { Executable: nul },
      'User precommand': { 'User precommand': nul },
      'Resources.QoS': { Resources: { QoS: nul } },
    }))
      assert.throws(
        () => parseDescription(description),
        (error: Error & { code?: string }) => {
          assert.equal(error.code, 'JOB_INVALID');
          assert.ok(error.message.includes(`${field}: must not contain NUL`), error.message);
          return true;
        },
      );
  });
});
