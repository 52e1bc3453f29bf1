import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Scope } from '#kernel/scope.js';
import { pythonWith } from '../../grid/clients/python.js';
import { until } from '../job/rig.js';

export type S3Server = {
  readonly endpoint: string;
  readonly accessKey: string;
  readonly secretKey: string;
};

const policy = {
  Version: '2012-10-17',
  Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }],
};

/** moto as a process of its own: speaks S3, and checks signatures once a user has been made. */
export async function startS3(scope: Scope): Promise<S3Server> {
  const python = await pythonWith(['moto[s3,iam,server]']);
  const child = spawn(python, ['-m', 'moto.server', '-H', '127.0.0.1', '-p', '0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { PATH: process.env['PATH'], INITIAL_NO_AUTH_ACTION_COUNT: '3' },
  });
  scope.defer(async () => {
    if (child.exitCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  let said = '';
  child.stderr
    .setEncoding('utf8')
    .on('data', (text: string) => (said = (said + text).slice(-10_000)));
  const address = /Running on (http:\/\/127\.0\.0\.1:\d+)/;
  await until('moto listens', () => address.test(said), 60_000);
  const endpoint = address.exec(said)![1]!;
  const iam = async (parameters: Record<string, string>): Promise<string> => {
    const answer = await fetch(endpoint, {
      method: 'POST',
      headers: {
        authorization:
          'AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0',
      },
      body: new URLSearchParams({ Version: '2010-05-08', UserName: 'u', ...parameters }),
    });
    assert.ok(answer.ok, `${parameters['Action'] ?? ''} answers ${answer.status}`);
    return await answer.text();
  };
  await iam({ Action: 'CreateUser' });
  const made = await iam({ Action: 'CreateAccessKey' });
  await iam({ Action: 'PutUserPolicy', PolicyName: 'p', PolicyDocument: JSON.stringify(policy) });
  const value = (name: string): string => new RegExp(`<${name}>([^<]+)<`).exec(made)![1]!;
  return { endpoint, accessKey: value('AccessKeyId'), secretKey: value('SecretAccessKey') };
}
