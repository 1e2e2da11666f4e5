// BullMQ, with attempts as ours has them. bullmq.js PORT publish COUNT CALLERS BATCH | consume COUNT CONCURRENCY | send RATE SECONDS
const { readFileSync } = require('node:fs');
const { Queue, Worker } = require('bullmq');

const [port, verb, ...rest] = process.argv.slice(2);
const numbers = rest.map(Number);
const connection = { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null };
const options = { removeOnComplete: true, attempts: 3 };
const now = () => process.hrtime.bigint();

// The same 600 bytes as in src/message.rs.
function build(number, publishedNs = 0n) {
  const scattered = BigInt.asUintN(64, (BigInt(number) + 1n) * 0x9e3779b97f4a7c15n).toString(16).padStart(16, '0');
  return {
    message_id: `${scattered.slice(0, 8)}-0000-4000-a000-${number.toString(16).padStart(12, '0')}`,
    message_type: 'model_ready_to_deploy', timestamp: '2026-11-20T10:00:00.123456+00:00',
    payload: {
      model_id: 'msg-clf-' + String(number).padStart(9, '0'), token_symbol: 'MSGAI', metric_name: 'reply_rate',
      baseline_value: 0.134, current_value: 0.1523, improvement_percentage: 13.66, model_name: 'msg-clf-v3', model_version: '12',
      mlflow_run_id: scattered + number.toString(16).padStart(16, '0'), contributor_address: '0x742d35cc6634c0532925a3b844bc9e7595f62341',
      tags: { dataset: 's4-contrib-v3', environment: 'bench', note: 'x', t: publishedNs.toString().padStart(19, '0') },
    },
    retry_count: 0, max_retries: 3,
  };
}

function spread(latenciesNs) {
  if (!latenciesNs.length) return null;
  const ordered = latenciesNs.sort((a, b) => a - b);
  const at = (hundredths) => ordered[Math.max(Math.ceil((ordered.length * hundredths) / 100), 1) - 1] / 1e3;
  return { p50_us: at(50), p99_us: at(99), max_us: at(100) };
}

function peakRssMib() {
  return Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024;
}

function stretch() {
  const began = now();
  const cpu = process.cpuUsage();
  return (count, latenciesNs = [], more = {}) => {
    const secs = Number(now() - began) / 1e9;
    const used = process.cpuUsage(cpu);
    const cpuS = (used.user + used.system) / 1e6;
    return { count, secs, per_s: count / secs, cpu_s: cpuS, missing: 0, repeated: 0, latency: spread(latenciesNs), peak_rss_mib: peakRssMib(), ...more };
  };
}

async function publish(count, callers, batch) {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  const report = stretch();
  let next = 0;
  await Promise.all(Array.from({ length: callers }, async () => {
    while (next < count) {
      const first = next;
      next += batch;
      if (batch === 1) await queue.add('handle', build(first), options);
      else {
        const size = Math.min(batch, count - first);
        await queue.addBulk(Array.from({ length: size }, (_, at) => ({ name: 'handle', data: build(first + at), opts: options })));
      }
    }
  }));
  return report(count);
}

async function send(rate, seconds) {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  const [report, began, latencies, sent] = [stretch(), now(), [], []];
  for (let number = 0; number < rate * seconds; number++) {
    const due = began + BigInt(Math.floor((number * 1e9) / rate));
    // A timer counts whole milliseconds, so several may be due; none waits for the one before.
    while (now() < due) await new Promise((resolve) => setTimeout(resolve, 1));
    const published = now();
    sent.push(queue.add('handle', build(number, published), options).then(() => latencies.push(Number(now() - published))));
  }
  await Promise.all(sent);
  return report(rate * seconds, latencies);
}

function consume(count, concurrency) {
  return new Promise((resolve, reject) => {
    let report, handled = 0, completed = 0;
    const [seen, latencies] = [new Set(), []];
    const worker = new Worker('bench', async (job) => {
      report ??= stretch();
      const envelope = job.data;
      if (envelope.message_type !== 'model_ready_to_deploy') throw new Error('type');
      const published = BigInt(envelope.payload.tags.t);
      if (published) latencies.push(Number(now() - published));
      seen.add(parseInt(envelope.message_id.slice(24), 16));
      handled += 1;
    }, { connection, concurrency });
    worker.on('error', reject);
    worker.on('completed', () => {
      completed += 1;
      if (completed === count) resolve(report(count, latencies, { missing: count - seen.size, repeated: handled - seen.size }));
    });
  });
}

({ publish, send, consume })[verb](...numbers).then(
  (report) => { console.log(JSON.stringify(report)); process.exit(0); },
  (error) => { console.error(error); process.exit(1); },
);
