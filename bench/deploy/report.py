"""Runs into a table: medians over the repetitions, and the target with what was reached."""

import math
import statistics

DATABASES = {None: "-", "sqlite": "SQLite", "postgres": "PostgreSQL"}
TIMES_THE_SIMPLE_WAY = 20


def failures(result):
    return result["missing"] + result["repeated"]


def rate(result):
    return result["tokens"] / result["seconds"]


def fewest_blocks(result):
    """How many blocks this much gas needs."""
    return math.ceil(result["gas"] / result["block_gas"])


def line(result):
    wrong = f"  FAILED: missing {result['missing']}, repeated {result['repeated']}" if failures(result) else ""
    return (f"{result['chain']:11} {result['way']:8} {DATABASES[result['database']]:10} {result['waiting']:5} waiting"
            f"  {rate(result):8.1f} tokens/s  {result['blocks']} blocks{wrong}")


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * part) - 1)]


def groups(results):
    found = {}
    for result in results:
        found.setdefault((result["chain"], result["way"], result["database"], result["waiting"]), []).append(result)
    return found


def table(head, rows):
    marks = ["---" if index < 3 else "--:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows]) + "\n"


def median(runs, of):
    return statistics.median(of(run) for run in runs)


def row(key, runs):
    chain, way, database, waiting = key
    cpu = "" if runs[0]["cpu_s"] is None else f"{median(runs, lambda run: run['cpu_s'] / run['tokens'] * 1e3):.1f}"
    rates = [rate(run) for run in runs]
    return [
        chain, way, DATABASES[database], f"{waiting:,}", f"{statistics.median(rates):,.1f}", f"{min(rates):,.1f}-{max(rates):,.1f}",
        *(f"{median(runs, lambda run, part=part: percentile(run['latency_ms'], part)):,.0f}" for part in (0.5, 0.99)),
        f"{median(runs, lambda run: run['gas'] / run['tokens']):,.0f}", f"{median(runs, lambda run: run['calls'] / run['tokens']):.2f}",
        f"{median(runs, lambda run: run['transactions']):.0f}", f"{median(runs, lambda run: run['blocks']):.0f}",
        f"{median(runs, fewest_blocks):.0f}", cpu, f"{median(runs, lambda run: run['machine_cores']):.2f}",
    ]


def targets(found):
    """With the most waiting, on 1 s blocks: the gas limit alone bounds, and twenty times the simple way at least."""
    chain = "1 s blocks"
    most = max((key[3] for key in found if key[0] == chain), default=None)
    simple = found.get((chain, "simple", None, most))
    rows = []
    for database in ("sqlite", "postgres"):
        runs = found.get((chain, "hokusai", database, most))
        if not runs or not simple:
            continue
        times = statistics.median(rate(run) for run in runs) / statistics.median(rate(run) for run in simple)
        more = median(runs, lambda run: run["blocks"] - fewest_blocks(run))
        where = f"{DATABASES[database]}, {most:,} waiting, {chain}"
        rows.append([f"{where}: times the simple way", f"at least {TIMES_THE_SIMPLE_WAY}", f"{times:.1f}", "yes" if times >= TIMES_THE_SIMPLE_WAY else "NO"])
        rows.append([f"{where}: blocks more than the gas needs", "at most 1", f"{more:.0f}", "yes" if more <= 1 else "NO"])
    return rows


def document(results, facts):
    found = groups(results)
    head = ["chain", "way", "ledger", "waiting", "tokens/s", "min-max", "to final p50 ms", "p99 ms", "gas/token", "calls/token", "transactions",
            "blocks", "fewest blocks", "worker CPU ms/token", "busy cores"]
    goals = targets(found)
    text = f"Measured on {facts['cores']} cores ({facts['machine']}), blocks of {facts['block_gas']:,} gas, {facts['reps']} repetitions.\n\n"
    if goals:
        text += table(["what", "target", "reached", "met"], goals) + "\n"
    return text + table(head, [row(key, runs) for key, runs in found.items()])
