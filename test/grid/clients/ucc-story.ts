import { echoService } from './curl-story.js';
import type { Typed } from './ucc.js';

const rest = (what: string, body: object, url: string, out: RegExp, keep?: string): Typed => ({
  ...{ what, args: ['rest', 'POST', JSON.stringify(body), url], out },
  ...(keep !== undefined && { keep }),
});

/** Chapters of the story. Names that are known from the start: core, registry, and files of the client's folder. */
export const chapters: Record<string, readonly Typed[]> = {
  'what there is': [
    {
      what: 'endpoints of all kinds',
      args: ['system-info', '-l'],
      out: /default_target_system_factory[^]*authenticated as: 'CN=Demo User,O=VSite,C=EU' role='user' uid='demouser'[^]*Workflow submission[^]*no endpoints available/,
    },
    { what: 'the registry', args: ['system-info', '-R'], out: /Service type: +CoreServices/ },
    { what: 'no target system yet', args: ['list-sites'], out: /^$/ },
    {
      what: 'connect, which makes one of the default image',
      args: ['connect'],
      out: /You can access 1 target system/,
    },
    {
      what: 'another by name, for two days',
      args: ['create-tss', '-l', '2', 'image=vsite-demo-container', 'memoryMiB=256'],
      out: /^(https:\S+\/sites\/\S+)$/m,
      keep: 'site',
    },
    {
      what: 'its life',
      args: ['rest', 'GET', '$site?fields=terminationTime,parameters'],
      out: /"memoryMiB": 256[^]*"terminationTime"|"terminationTime"[^]*"memoryMiB": 256/,
    },
    { what: 'both', args: ['list-sites', '-l'], out: /Transform 1\.0, Wordcount 1\.0/ },
    {
      what: 'by a filter',
      args: ['list-sites', '-f', 'numberOfJobs', 'eq', '0'],
      out: /^(https:\S+\s+){2}$/,
    },
    { what: 'none elsewhere', args: ['list-sites', '-s', 'ELSEWHERE'], out: /^$/ },
    { what: 'the other is not needed', args: ['rest', 'DELETE', '$site'], out: /^$/ },
    {
      what: 'the first',
      args: ['list-sites', '-F', 'numberOfJobs'],
      out: /(https:\S+)\s+\{"numberOfJobs": 0\}/,
      keep: 'site',
    },
  ],
  jobs: [
    {
      what: 'an example of a job',
      args: ['run', '-H'],
      out: /Imports/,
    },
    {
      what: 'where it would go',
      args: ['run', '-d', 'job.u'],
      out: /Candidate site: https:\S+[^]*"ApplicationName": "Transform"/,
    },
    {
      what: 'with files of the client, before and after',
      args: ['run', '-s', 'VSITE', '-b', '-T', 'story', '--', 'job.u'],
      out: /^SUCCESSFUL, exit code: 0$/m,
      file: ['result.txt', /GRID MIDDLEWARE/],
    },
    {
      what: 'an application that no site has',
      args: ['run', 'nowhere.u'],
      exit: 1,
      out: /No suitable endpoint found/,
    },
    {
      what: 'only submit',
      args: ['run', '-a', '-b', 'job.u'],
      out: /^(https:\S+\/jobs\/\S+)$/m,
      keep: 'job',
    },
    {
      what: 'wait for it',
      args: ['job-status', '-w', 'SUCCESSFUL', '$job'],
      out: /SUCCESSFUL exit code: 0/,
    },
    {
      what: 'all that is known of it',
      args: ['job-status', '-a', '$job'],
      out: /Working directory: \S+-uspace\n Job type: BATCH, queue[^]*Log: .*SUCCESSFUL/,
    },
    {
      what: 'its output',
      args: ['get-output', '-b', '-q', '-o', 'fetched', '$job'],
      file: ['fetched/stdout', /GRID MIDDLEWARE/],
    },
    {
      what: 'a command, whose output is shown, and whose job is deleted',
      args: ['exec', 'whoami'],
      out: /SUCCESSFUL, exit code: 0[^]*Command output:\s+grid\s/,
    },
    {
      what: 'on the login node',
      args: ['exec', '-L', '', 'hostname'],
      out: /Command output:\s+vsite-/,
    },
    {
      what: 'one that fails',
      args: ['exec', 'false'],
      out: /FAILED, exit code: 1/,
    },
    {
      what: 'a file for the server',
      args: ['cp', 'of-server', 'unicore://VSITE/DATA/of-server'],
    },
    {
      what: 'a job with what the server fetches',
      args: ['run', '-b', '-o', 'fetched', 'server.u'],
      out: /SUCCESSFUL/,
      file: ['fetched/stdout', /^inline of server\n$/],
    },
    {
      what: 'one that goes on',
      args: ['run', '-a', 'long.u'],
      out: /^(https:\S+\/jobs\/\S+)$/m,
      keep: 'long',
    },
    {
      what: 'it runs, in a queue',
      args: ['job-status', '-w', 'RUNNING', '-l', '$long'],
      out: / RUNNING\n[^]*Job type: BATCH, queue: 'NOBATCH'/,
    },
    { what: 'abort', args: ['job-abort', '$long'], out: /Job aborted/ },
    {
      what: 'aborted',
      args: ['job-status', '-w', 'SUCCESSFUL', '-l', '$long'],
      out: / FAILED\n Error message: Job aborted/,
    },
    { what: 'restart', args: ['job-restart', '$long'], out: /^$/ },
    {
      what: 'it runs again',
      args: ['job-status', '-w', 'RUNNING', '$long'],
      out: / RUNNING$/m,
    },
    { what: 'list', args: ['list-jobs', '-l'], out: /RUNNING \| https/ },
    {
      what: 'by tag',
      args: ['list-jobs', '-T', 'story', '-F', 'status', 'tags'],
      out: /^https:\S+\s+\{[^]*"story"[^]*\}\s*$/,
    },
    { what: 'many by one command', args: ['batch', '-i', 'in', '-o', 'out'], out: /\| +3\n/ },
    {
      what: 'its output',
      args: ['list-jobs', '-s', 'VSITE'],
      out: /https/,
      file: ['out/2/stdout', /^two\n$/],
    },
    { what: 'delete', args: ['list-jobs', '-e', 'rest', 'DELETE', '{}'], out: /https/ },
    { what: 'none is left', args: ['list-jobs'], out: /^$/ },
  ],
  'an allocation of a batch system': [
    // UCC 11.0.2 and 11.1.1 forget what they were asked for: they would send an empty job
    {
      what: 'where UCC would ask for it',
      args: ['allocate', '-d', 'Runtime=600'],
      out: /Candidate site: https/,
    },
    rest(
      'ask for it',
      { 'Job type': 'ALLOCATE', Resources: { Runtime: '600', Image: 'vsite-test-slurm' } },
      '$core/jobs',
      /^(https:\S+\/jobs\/\S+)$/m,
      'allocation',
    ),
    {
      what: 'it is there',
      args: ['job-status', '-w', 'RUNNING', '$allocation'],
      out: / RUNNING$/m,
    },
    {
      what: 'a command in it',
      args: ['exec', '-A', '$allocation', 'srun', 'printenv', 'SLURM_STEP_ID'],
      out: /Command output:\s+0\s/,
    },
    { what: 'give it back', args: ['job-abort', '$allocation'], out: /Job aborted/ },
    { what: 'forget it', args: ['rest', 'DELETE', '$allocation'], out: /^$/ },
  ],
  storages: [
    {
      what: 'what kinds there are',
      args: ['create-storage', '-i', '-t', 'DEFAULT'],
      out: /Files on the server[^]*description: text/,
    },
    {
      what: 'make one',
      args: ['create-storage', '-t', 'DEFAULT', 'description=of the story'],
      out: /^(https:\S+\/storages\/\S+)$/m,
      keep: 'own',
    },
    {
      what: 'in the target system',
      args: ['create-storage', '-s', 'VSITE', '-t', 'TARGET', 'path=$HOME/made'],
      out: /^(https:\S+\/storages\/\S+)$/m,
      keep: 'inside',
    },
    { what: 'list', args: ['list-storages', '-l'], out: /Description: of the story\n +Free/ },
    { what: 'with those of jobs', args: ['list-storages', '-a'], out: /\/storages\/\S+/ },
    { what: 'what new files may', args: ['umask', '$own'], out: /umask: 77/ },
    { what: 'set it', args: ['umask', '-s', '27', '$own'], out: /^$/ },
    { what: 'it is set', args: ['umask', '$own'], out: /umask: 27/ },
    { what: 'who may', args: ['acl', '$own'], out: /Current ACL/ },
    { what: 'somebody more', args: ['acl', 'read:DN:CN=Bob,O=Grid', '$own'], out: /reply: OK/ },
    {
      what: 'who now',
      args: ['acl', '$own'],
      out: /allow 'read' when 'DN' is 'CN=Bob,O=Grid'/,
    },
    {
      what: 'no longer',
      args: ['acl', '-d', 'read:DN:CN=Bob,O=Grid', '$own'],
      out: /<1> ACL entries were deleted/,
    },
  ],
  files: [
    { what: 'a directory', args: ['mkdir', '$own/files/dir'], out: /^$/ },
    { what: 'up', args: ['cp', 'big.bin', '$own/files/dir/big.bin'] },
    {
      what: 'a program stays one',
      args: ['ls', '-l', '$own/files/dir'],
      out: /-rwx\S+ 3000001 \S+ \/dir\/big\.bin/,
    },
    {
      what: 'stat',
      args: ['stat', '-H', '$own/files/dir/big.bin'],
      out: /Size: 2\.9M\nType: normal file\nPermissions: rwx/,
    },
    { what: 'down', args: ['cp', '$own/files/dir/big.bin', 'back.bin'] },
    { what: 'go on with half a file', args: ['cp', '-X', '$own/files/dir/big.bin', 'half.bin'] },
    { what: 'a tree up', args: ['cp', '-R', 'tree', '$own/files/dir/'], out: /two/ },
    {
      what: 'it is there',
      args: ['ls', '-R', '$own/files/'],
      out: /\/dir\/tree\/a\/two$/m,
    },
    {
      what: 'a tree down',
      args: ['cp', '-R', '$own/files/dir/tree', 'got'],
      file: ['got/a/two', /^2\n$/],
    },
    {
      what: 'by a pattern',
      args: ['cp', '$own/files/dir/tree/o*', 'got'],
      file: ['got/one', /^1\n$/],
    },
    { what: 'copy', args: ['cp', '$own/files/dir/tree/one', '$own/files/copy 1'], out: /^$/ },
    { what: 'rename', args: ['rename', '$own/files/copy 1', 'moved'], out: /^$/ },
    { what: 'cat', args: ['cat', '$own/files/moved'], out: /^1$/m },
    { what: 'remove', args: ['rm', '-q', '$own/files/moved'], out: /^$/ },
    { what: 'it is gone', args: ['ls', '$own/files/moved'], exit: 1, out: /404 Not Found/ },
    {
      what: 'by the name of the site',
      args: ['resolve', '-f', 'unicore://VSITE/DATA/x'],
      out: /^BFT:https:\S+\/storages\/DATA\/files\/x$/m,
    },
    { what: 'up by that name', args: ['cp', 'in.txt', 'unicore://VSITE/DATA/in.txt'] },
    { what: 'and back', args: ['cat', 'unicore://VSITE/DATA/in.txt'], out: /grid middleware/ },
    {
      what: 'a part of it',
      args: ['cat', '-B', '5-10', 'unicore://VSITE/DATA/in.txt'],
      out: /^middle$/m,
    },
  ],
  metadata: [
    {
      what: 'write',
      args: ['metadata', '-C', 'write', '-f', 'meta.json', '$own/files/dir/big.bin'],
      out: /"metadata": "OK"/,
    },
    {
      what: 'read',
      args: ['metadata', '-C', 'read', '-s', '$own', 'dir/big.bin'],
      out: /"topic": "climate"/,
    },
    {
      what: 'search',
      args: ['metadata', '-C', 'search', '-q', 'climate', '-s', '$own'],
      out: /\/files\/dir\/big\.bin/,
    },
    {
      what: 'extract',
      args: ['metadata', '-C', 'start-extract', '-w', '-s', '$own', 'dir'],
      out: /Status: SUCCESSFUL[^]*documentsProcessed/,
    },
    {
      what: 'with a listing',
      args: ['ls', '-m', '$own/files/dir/big.bin'],
      out: /"topic": "climate"/,
    },
    {
      what: 'delete',
      args: ['metadata', '-C', 'delete', '-s', '$own', 'dir/big.bin'],
      out: /"metadata": "OK"/,
    },
  ],
  'transfers by the server': [
    {
      what: 'between storages, and wait',
      args: ['cp', '$own/files/dir/big.bin', '$inside/files/got.bin'],
    },
    { what: 'it is there', args: ['ls', '-l', '$inside'], out: /3000001 \S+ \/got\.bin/ },
    { what: 'without waiting', args: ['cp', '-a', '$inside/files/got.bin', '$own/files/sent'] },
    {
      what: 'list',
      args: ['list-transfers', '-l'],
      out: /\| (https:\S+\/transfers\/\S+)/,
      keep: 'transfer',
    },
    { what: 'status', args: ['copy-file-status', '$transfer'], out: /(DONE|RUNNING), <.*> bytes/ },
    // its option -S has no effect in UCC 11.0.2
    {
      what: 'much later',
      args: [
        ...['cp', '-a', '-E', 'scheduledStartTime=2099-01-01T00:00:00+0000'],
        ...['$own/files/dir/big.bin', '$inside/files/later.bin'],
      ],
    },
    { what: 'it waits', args: ['list-transfers', '-F', 'status'], out: /CREATED/ },
    { what: 'forget them', args: ['list-transfers', '-e', 'rest', 'DELETE', '{}'], out: /https/ },
  ],
  'who one may be': [
    {
      what: 'a token',
      args: ['issue-token', '-l', '600'],
      out: /^(ey\S+)$/m,
      keep: 'token',
    },
    {
      what: 'one that is for this server, and can be renewed',
      args: ['issue-token', '-s', 'VSITE', '-L', '-R', '-I'],
      out: /Subject: +CN=Demo User,O=VSite,C=EU.*\n.*\n.*\nValid for: +CN=.*\nRenewable: +true/,
    },
    {
      what: 'by certificate',
      args: ['system-info', '-l', '-k', 'X509', '-c', 'x509'],
      out: /authenticated as: 'CN=Demo User,O=VSite,C=EU' role='user'/,
    },
    {
      what: 'by SSH key',
      args: ['system-info', '-l', '-k', 'sshkey', '-c', 'sshkey'],
      out: /authenticated as: 'CN=Demo User,O=VSite,C=EU' role='user'/,
    },
    {
      what: 'by nothing',
      args: ['system-info', '-l', '-k', 'none'],
      out: /authenticated as: 'CN=ANONYMOUS,.*role='anonymous'/,
    },
    {
      what: 'by a wrong password',
      args: ['rest', 'GET', '$core', '-c', 'wrong'],
      exit: 1,
      out: /HTTP 40[13]/,
    },
    {
      what: 'a role that one has not',
      args: ['rest', 'GET', '$core', '-Z', 'role:admin'],
      exit: 1,
      out: /role/,
    },
    { what: 'no administrator', args: ['admin-info', '-l'], exit: 1, out: /403 Forbidden/ },
    {
      what: 'an administrator',
      args: ['admin-info', '-l', '-c', 'admin'],
      out: /ToggleJobSubmission|ShowServerUsageOverview/,
    },
    {
      what: 'what one does',
      args: ['admin-runcommand', '-s', 'VSITE', '-c', 'admin', 'ShowServerUsageOverview'],
      out: /SUCCESS, service reply/,
    },
  ],
  'the rest': [
    {
      what: 'headers of an answer',
      args: ['rest', 'GET', '-i', '$core?fields=client'],
      out: /^HTTP\/1\.1 200 OK[^]*X-UNICORE-SecuritySession: \S+/,
    },
    { what: 'PUT', args: ['rest', 'PUT', '{"tags":["x"]}', '$site'], out: /"tags": "OK"/ },
    {
      what: 'commands of a file',
      args: ['shell', '-f', 'commands'],
      out: /\/sites\/[^]*in\.txt[^]*Goodbye/,
    },
    {
      what: 'Groovy',
      args: ['run-groovy', '-e', 'println registry.listEntries("CoreServices")[0].url'],
      out: /^https:\S+\/VSITE\/rest\/core$/m,
    },
    { what: 'no workflows', args: ['list-workflows'], out: /^$/ },
    rest(
      'a service',
      { Executable: echoService(7_778) },
      '$site',
      /^(https:\S+\/jobs\/\S+)$/m,
      'echo',
    ),
  ],
};
