// Services of vigie as processes of their own, for tests that start several and end them.

import { spawn } from 'node:child_process';
import path from 'node:path';

const ROOT = path.join(import.meta.dirname, '../..');
const BINARY = process.env.VIGIE_BINARY ?? path.join(ROOT, 'target/release/vigie');

/** Starts a service, waits until it is ready, and knows where. */
export class Service {
  /** @type {Set<Service>} */ static #running = new Set();
  /** @type {import('node:child_process').ChildProcess} */ child;
  /** `host:port` @type {string} */ address = '';

  /**
   * @param {string[]} args
   * @param {object} [options]
   * @param {string} [options.namespace] of the network that it runs in
   * @param {Record<string, string>} [options.env]
   */
  static async start(args, { namespace, env = {} } = {}) {
    const service = new Service();
    const prefix = namespace ? ['ip', 'netns', 'exec', namespace] : [];
    const [command, ...rest] = [...prefix, BINARY, ...args];
    service.child = spawn(command, rest, {
      cwd: ROOT,
      env: { ...process.env, VIGIE_CLUSTER_TOKEN: 'the-cluster-of-this-test', ...env },
      stdio: ['ignore', 'pipe', process.env.VIGIE_TEST_LOG ? 'inherit' : 'ignore'],
    });
    Service.#running.add(service);
    service.child.once('exit', () => Service.#running.delete(service));
    service.address = await new Promise((resolve, reject) => {
      service.child.once('exit', (code) => reject(new Error(`vigie ${args[0]} ended with ${code}`)));
      service.child.stdout?.on('data', (chunk) => {
        const address = /is ready: http:\/\/(\S+)/.exec(String(chunk));
        if (address) resolve(address[1]);
      });
    });
    return service;
  }

  get url() {
    return `http://${this.address}/`;
  }

  /** Sends a signal and waits for the end; resolves to the exit code, or null when the signal was the end. @param {NodeJS.Signals} signal */
  async end(signal) {
    const { child } = this;
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    return /** @type {Promise<number | null>} */ (ended);
  }

  /** The value of a metric; one with labels begins to be told of when it first counts. @param {string} name */
  async metric(name) {
    const text = await (await fetch(`${this.url}metrics`)).text();
    const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
    if (!line && name.includes('{')) return 0;
    if (!line) throw new Error(`no metric ${name}`);
    return Number(line.slice(name.length));
  }

  static async endAll() {
    await Promise.all([...Service.#running].map((service) => service.end('SIGKILL')));
  }
}
