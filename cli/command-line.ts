import { join } from 'node:path';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import tab from '@bomb.sh/tab/commander';
import { asGridError, errorText } from '#kernel/errors.js';
import { createLog, takeConsole } from '#kernel/log.js';
import { addClientCommands } from './client/commands.js';
import { isJson, printJson, printResult, tell } from './client/print.js';
import { defaultCacheDirectory, defaultStateDirectory, layoutOf } from './quickstart/layout.js';
import type { InitOptions } from './init.js';
import type { QuickstartOptions } from './quickstart/quickstart.js';
import { serve, serviceNames, type ServiceName } from './serve.js';
import { untilSignal } from './signal.js';
import { addUserCommands } from './user-commands.js';

function toPort(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port;
  throw new InvalidArgumentError('must be a port, 1 to 65535');
}

const stateDir = new Option('--state-dir <path>', 'everything of the installation').default(
  defaultStateDirectory(),
);
const cacheDir = new Option('--cache-dir <path>', 'kept between installations').default(
  defaultCacheDirectory(),
);

type BuildInto = { readonly cacheDir: string; readonly out: string };

const examples = `
Examples:
  vsite image list --application Transform
  vsite run Transform --input words.txt --param INPUT=words.txt --image vsite-demo
  vsite forward <job> 8080:80
  vsite events --types job
  source <(vsite completion bash)

Exit codes: 0 done, 1 failed, 2 makes no sense, 3 refused, 4 there is no such thing, 5 does not
answer; those of "run" and "job wait" are the job's.`;

function program(): Command {
  const vsite = new Command('vsite')
    .description('Virtual machine images as UNICORE target systems')
    .option('--profile <file>', 'says where the installation is and who you are')
    .option('--json', 'results for programs')
    .configureHelp({ showGlobalOptions: true })
    .addHelpText('after', examples)
    .showHelpAfterError('(--help says more)')
    .exitOverride();
  addQuickstart(vsite);
  addInit(vsite);
  addServe(vsite);
  addDoctor(vsite);
  const image = vsite.command('image').description('virtual machine images');
  addClientCommands(vsite, image);
  addImage(image);
  addUserCommands(vsite.command('user').description('who may come in'));
  tab(vsite, { completionCommandName: 'completion' });
  return vsite;
}

function addQuickstart(vsite: Command): void {
  vsite
    .command('quickstart')
    .description('from nothing to the output of a job that ran inside a virtual machine')
    .addOption(stateDir)
    .addOption(cacheDir)
    .option('--once', 'take all down again at the end; uses a state folder of its own')
    .option('--stop', 'take down what an earlier quickstart has left running')
    .option('--port <port>', 'of the gateway', toPort, 8443)
    .option('--host <address>', 'that the gateway listens on', '127.0.0.1')
    .action(async (options: QuickstartOptions & { stop?: true }) => {
      const { quickstart, stop } = await import('./quickstart/quickstart.js');
      await (options.stop ? stop(options) : quickstart(options, untilSignal()));
    });
}

function addInit(vsite: Command): void {
  vsite
    .command('init')
    .description('write configuration, certificates and first users of an installation')
    .addOption(stateDir)
    .option('--port <port>', 'of the gateway', toPort, 8443)
    .option('--host <address>', 'that the gateway listens on', '127.0.0.1')
    .option('--machines <uri>', 'libvirt for virtual machines', 'qemu:///system')
    .option('--containers <uri>', 'libvirt for containers, such as lxc:///system')
    .option('--kvm', 'guests run under KVM; vsite doctor finds out whether they can')
    .option('--force', 'write the configuration anew; certificates and users stay')
    .action(async (options: InitOptions) => {
      const { init } = await import('./init.js');
      const config = await init(options);
      printResult({ config }, `vsite serve --config ${config}`, isJson(vsite));
    });
}

function addDoctor(vsite: Command): void {
  vsite
    .command('doctor')
    .description('look at everything an installation needs, and say how to mend what is wrong')
    .option('--config <directory>', 'of the installation', layoutOf(defaultStateDirectory()).config)
    .addOption(cacheDir)
    .action(async (options: { config: string; cacheDir: string }) => {
      const { doctor } = await import('./doctor/doctor.js');
      const context = { configDirectory: options.config, cacheDirectory: options.cacheDir };
      process.exitCode = await doctor(context, isJson(vsite));
    });
}

function addServe(vsite: Command): void {
  vsite
    .command('serve')
    .description('run the services, all in one process or some of them')
    .requiredOption('--config <directory>', 'holds gateway.yaml, imagerepo.yaml, targetsystem.yaml')
    .addOption(
      new Option('--only <service...>', 'run these only')
        .choices(serviceNames)
        .default(serviceNames),
    )
    .addOption(
      new Option('--log-level <level>').choices(['debug', 'info', 'warn', 'error']).default('info'),
    )
    .action(async (options: { config: string; only: ServiceName[]; logLevel: string }) => {
      const log = createLog({ level: options.logLevel });
      takeConsole(log);
      try {
        await serve(options.config, options.only, log, untilSignal());
      } catch (error) {
        log.fatal({ err: error }, 'the server cannot run');
        throw error;
      }
    });
}

function addImage(image: Command): void {
  image
    .command('build-demo')
    .description('build the demo images, or find them in the cache')
    .addOption(cacheDir)
    .action(async (options: { cacheDir: string }, command: Command) => {
      const { buildDemoContainer, buildDemoVm } = await import('./image/build.js');
      const build = {
        cacheDir: join(options.cacheDir, 'images'),
        log: createLog({ level: 'warn' }),
        progress: (step: string) => tell(`  ${step}`),
      };
      const images = [await buildDemoVm(build), await buildDemoContainer(build)];
      if (isJson(command)) {
        printJson(images.map(({ metadata: { name }, parts }) => ({ name, parts })));
        return;
      }
      for (const built of images)
        for (const [part, path] of Object.entries(built.parts))
          process.stdout.write(`${built.metadata.name} ${part}: ${path}\n`);
    });
  image
    .command('build <recipe>')
    .description('build an image from the folder of its recipe, such as config/images/demo-network')
    .addOption(cacheDir)
    .requiredOption(
      '--out <directory>',
      'for metadata.yaml and the parts, as image publish wants them',
    )
    .action(async (recipe: string, options: BuildInto, command: Command) => {
      const { buildImageInto } = await import('./image/build-into.js');
      const build = {
        cacheDir: join(options.cacheDir, 'images'),
        log: createLog({ level: 'warn' }),
        progress: (step: string) => tell(`  ${step}`),
      };
      const files = await buildImageInto(recipe, options.out, build);
      printResult({ files }, files.join('\n'), isJson(command));
    });
  image
    .command('agent')
    .description('write the TSI agent, one file for Node, to standard output')
    .action(async () => {
      const { bundleAgent } = await import('./image/agent.js');
      process.stdout.write(await bundleAgent());
    });
  image
    .command('agent-disk <file>')
    .description('make the disk with Node and the agent, for images without a TSI')
    .action(async (file: string) => {
      const { makeAgentDisk } = await import('./image/agent-disk.js');
      await makeAgentDisk(file);
    });
}

/** What went wrong, for scripts (docs/command-line.md); 1 for everything else. */
const exitCodes: Readonly<Record<number, number>> = { 400: 2, 403: 3, 404: 4, 503: 5 };

/** Runs the command that the arguments name; a failure is told in one line and by the exit code. */
export async function parseArgs(argv: readonly string[]): Promise<void> {
  try {
    await program().parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2; // it has told what is wrong
      return;
    }
    process.stderr.write(`vsite: ${errorText(error)}\n`);
    process.exitCode = exitCodes[asGridError(error)?.row.http ?? 0] ?? 1;
  }
}
