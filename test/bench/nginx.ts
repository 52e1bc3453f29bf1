import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Scope } from '#kernel/scope.js';
import { freePort } from '../grid/grid.js';
import { until } from '../tsi/agent-process.js';

/** nginx of the system, as a process of its own, with the certificate of our gateway. */
export type Nginx = { readonly url: string; readonly pid: number };

export type NginxOptions = {
  readonly directory: string;
  readonly keyFile: string;
  readonly certFile: string;
  /** What a static location behind a proxying one answers: `/job`. */
  readonly answer: string;
};

/**
 * `/job`: proxied by kept connections to a static answer. `/files/…`: read from and, by PUT, written to a
 * directory (module dav).
 */
export async function startNginx(scope: Scope, options: NginxOptions): Promise<Nginx> {
  const { directory, keyFile, certFile, answer } = options;
  const port = await freePort();
  const file = join(directory, 'nginx.conf');
  await writeFile(join(directory, 'answer.json'), answer, { mode: 0o644 });
  await writeFile(
    file,
    `daemon off; worker_processes 2; pid ${directory}/nginx.pid; error_log stderr error;
${process.getuid?.() === 0 ? 'user root;' : ''}
events { worker_connections 1024; }
http {
  access_log off; default_type application/json; client_max_body_size 0; keepalive_requests 1000000;
  client_body_temp_path ${directory}; proxy_temp_path ${directory}; sendfile on;
  upstream behind { server unix:${directory}/behind.sock; keepalive 32; }
  server {
    listen unix:${directory}/behind.sock;
    location = /job { alias ${directory}/answer.json; }
  }
  server {
    listen 127.0.0.1:${port} ssl;
    ssl_certificate ${certFile}; ssl_certificate_key ${keyFile};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers on;
    location = /job { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ''; }
    location /files/ { alias ${directory}/; dav_methods PUT; }
  }
}
`,
  );
  const child = spawn('nginx', ['-c', file, '-p', directory], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  scope.defer(async () => {
    if (child.exitCode !== null) return;
    child.kill('SIGTERM');
    await once(child, 'exit');
  });
  await until('nginx listens', () => {
    if (child.exitCode !== null) throw new Error(`nginx ended with ${child.exitCode}`);
    return new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
      socket.once('connect', () => socket.destroy());
    });
  });
  return { url: `https://127.0.0.1:${port}`, pid: child.pid ?? 0 };
}
