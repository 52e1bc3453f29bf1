import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { sshCommand } from '#kernel/libvirt/ssh.js';
import { parseUri } from '#kernel/libvirt/uri.js';

const systemPki = {
  ca: '/etc/pki/CA/cacert.pem',
  cert: '/etc/pki/libvirt/clientcert.pem',
  key: '/etc/pki/libvirt/private/clientkey.pem',
};
const ownPki = { ca: '/p/cacert.pem', cert: '/p/clientcert.pem', key: '/p/clientkey.pem' };

const cases = [
  ['qemu:///system', 'qemu:///system', { kind: 'unix', path: '/run/libvirt/libvirt-sock' }],
  ['lxc+unix:///system?socket=/r/a+b%20c', 'lxc:///system', { kind: 'unix', path: '/r/a+b c' }],
  ['test+unix:///default?socket=/s', 'test:///default', { kind: 'unix', path: '/s' }],
  ['qemu+tcp://h/system', 'qemu:///system', { kind: 'tcp', host: 'h', port: 16_509 }],
  ['qemu+tcp://[::1]:7/system', 'qemu:///system', { kind: 'tcp', host: '::1', port: 7 }],
  ['qemu://h/system', 'qemu:///system', { kind: 'tls', host: 'h', port: 16_514, pki: systemPki }],
  [
    'qemu+tls://h:7/system?pkipath=/p',
    'qemu:///system',
    { kind: 'tls', host: 'h', port: 7, pki: ownPki },
  ],
  ['qemu+ssh://u@h/system', 'qemu:///system', { kind: 'ssh', host: 'h', user: 'u' }],
  [
    'qemu+ssh://h:22/system?socket=/s&keyfile=/k&known_hosts=/n',
    'qemu:///system',
    { kind: 'ssh', host: 'h', port: 22, socket: '/s', keyFile: '/k', knownHostsFile: '/n' },
  ],
] as const;

const refused = [
  ['no URI', 'qemu'],
  ['no path', 'qemu+tcp://h'],
  ['an unknown transport', 'qemu+ext://h/system'],
  ['a transport that every object has', 'qemu+constructor://h/system'],
  ['an unknown parameter', 'qemu+unix:///system?sokket=/s'],
  ['a parameter of another transport', 'qemu+tcp://h/system?socket=/s'],
  ['switching off verification', 'qemu+tls://h/system?no_verify=1'],
  ['a host for a unix socket', 'qemu+unix://h/system'],
  ['no host for TCP', 'qemu+tcp:///system'],
  ['a port that cannot be', 'qemu+tcp://h:65536/system'],
  ['a user for TCP', 'qemu+tcp://u@h/system'],
  ['a password', 'qemu+ssh://u:secret@h/system'],
  ['a host that ssh takes for an option', 'qemu+ssh://-oProxyCommand=x/system'],
  ['a user that ssh takes for an option', 'qemu+ssh://-F@h/system'],
  ['a broken %-sequence', 'qemu+unix:///system?socket=%zz'],
  ['a session without its socket', 'qemu:///session'],
] as const;

describe('libvirt URIs', () => {
  for (const [uri, driverUri, address] of cases)
    it(`reads ${uri}`, () => assert.deepEqual(parseUri(uri), { driverUri, address }));
  for (const [what, uri] of refused)
    it(`refuses ${what}`, () => assert.throws(() => parseUri(uri), { code: 'CONFIG_INVALID' }));
});

describe('the ssh command', () => {
  it('tells ssh where the keys of hosts are', () => {
    const address = { kind: 'ssh', host: 'h', knownHostsFile: '/a b%h' } as const;
    assert.ok(sshCommand(address, 'x').includes('UserKnownHostsFile="/a b%%h"'));
    const bad = { ...address, knownHostsFile: '/a" -o x' };
    assert.throws(() => sshCommand(bad, 'x'), { code: 'CONFIG_INVALID' });
  });

  it('lets the host choose the daemon by default', () => {
    const command = sshCommand({ kind: 'ssh', host: 'h', user: 'u', port: 2 }, 'qemu:///system');
    assert.deepEqual(command.slice(-3), ['--', 'h', "exec virt-ssh-helper 'qemu:///system'"]);
    assert.equal(command.slice(0, -3).join(' '), 'ssh -T -e none -o BatchMode=yes -p 2 -l u');
  });

  it('quotes what the shell over there would interpret', () => {
    const address = { kind: 'ssh', host: 'h', socket: "/s'; reboot #" } as const;
    assert.equal(sshCommand(address, 'x').at(-1), `exec nc -U '/s'\\''; reboot #'`);
  });
});
