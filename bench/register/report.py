"""Runs into tables: medians over the repetitions, and the targets with what was reached."""

import statistics

DATABASES = {None: "-", "sqlite": "SQLite", "postgres": "PostgreSQL"}
BUSY_CORES = 0.25


def failures(result):
    """How many requests or messages went wrong in any way."""
    return sum(result.get(kind, 0) for kind in ("refused", "unanswered", "missing", "repeated", "undelivered", "surplus"))


def line(result):
    """One run, for someone who watches."""
    place = f"{DATABASES[result['database']]:10} {result['name']:32}"
    kinds = ("refused", "unanswered", "missing", "repeated", "undelivered", "surplus", "first_refusal")
    wrong = "  FAILED: " + ", ".join(f"{kind} {result[kind]}" for kind in kinds if result.get(kind)) if failures(result) else ""
    busy = f"  (others use {result['others_cores']:.2f} cores)" if result["others_cores"] > BUSY_CORES else ""
    if result["part"] == "arrive":
        spread = result["answer_to_message"] or {"p50_us": 0, "p99_us": 0}
        return f"{place} answer to message p50 {spread['p50_us'] / 1e3:.2f} p99 {spread['p99_us'] / 1e3:.2f} ms{busy}{wrong}"
    spread = result["latency"] or {"p50_us": 0, "p99_us": 0}
    return (f"{place} c{result['connections']:<4} {result['per_s']:9,.0f}/s  p50 {spread['p50_us'] / 1e3:.2f}"
            f"  p99 {spread['p99_us'] / 1e3:.2f} ms{busy}{wrong}")


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def number(value, digits=0, scale=1.0):
    return "" if value is None else f"{value * scale:,.{digits}f}"


def of(results, field, inner=None):
    if inner is None:
        return median(result.get(field) for result in results)
    return median((result.get(field) or {}).get(inner) for result in results)


def groups(results, part, *fields):
    """Runs that differ in their repetition alone, in the order they were first made."""
    found = {}
    for result in results:
        if result["part"] == part:
            found.setdefault(tuple(result.get(field) for field in fields), []).append(result)
    return found.items()


def table(head, rows):
    marks = ["---" if text else "" for text in head]
    marks = [mark if index < 2 else "--:" for index, mark in enumerate(marks)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows]) + "\n"


def throughput_table(results):
    head = ["database", "endpoint", "connections", "requests/s", "min-max", "p50 ms", "p99 ms", "server CPU s/10k", "database CPU s/10k",
            "Redis CPU s/10k", "load CPU s/10k", "peak RSS MiB", "settled s", "others' cores"]
    rows = []
    for (database, name, connections), runs in groups(results, "throughput", "database", "name", "connections"):
        rates = [run["per_s"] for run in runs]
        rows.append([DATABASES[database], name, str(connections), number(median(rates)), f"{min(rates):,.0f}-{max(rates):,.0f}",
                     number(of(runs, "latency", "p50_us"), 2, 1e-3), number(of(runs, "latency", "p99_us"), 2, 1e-3),
                     number(of(runs, "server_cpu_s_per_10k"), 2), number(of(runs, "postgres_cpu_s_per_10k"), 2),
                     number(of(runs, "redis_cpu_s_per_10k"), 2), number(of(runs, "load_cpu_s_per_10k"), 2),
                     number(of(runs, "server_peak_rss_mib")), number(of(runs, "settled_s"), 1), number(of(runs, "others_cores"), 2)])
    return table(head, rows) if rows else ""


def arrival_table(results):
    head = ["database", "endpoint", "offered/s", "answered/s", "answer to message p50 ms", "p99 ms", "max ms", "before the answer", "missing", "repeated",
            "HTTP p50 ms", "HTTP p99 ms", "sent late p99 ms", "server CPU s/10k", "others' cores"]
    rows = []
    for (database, name, rate), runs in groups(results, "arrive", "database", "name", "rate"):
        counted = sum((run["answer_to_message"] or {}).get("count", 0) for run in runs)
        spread = [number(of(runs, "answer_to_message", field), 2, 1e-3) for field in ("p50_us", "p99_us", "max_us")]
        rows.append([DATABASES[database], name, number(rate), number(of(runs, "per_s")), *spread,
                     f"{sum(run['early'] for run in runs) / max(counted, 1):.0%}", str(sum(run["missing"] for run in runs)),
                     str(sum(run["repeated"] for run in runs)), number(of(runs, "latency", "p50_us"), 2, 1e-3),
                     number(of(runs, "latency", "p99_us"), 2, 1e-3), number(of(runs, "lateness", "p99_us"), 2, 1e-3),
                     number(of(runs, "server_cpu_s_per_10k"), 2), number(of(runs, "others_cores"), 2)])
    return table(head, rows) if rows else ""


def ratios(results, database, mode, connections=64):
    """hokusai over a bare endpoint, repetition by repetition: both were measured within the same minutes."""
    def rates(program, mode):
        return {run["rep"]: run["per_s"] for run in results
                if (run["part"], run["database"], run["program"], run["case_mode"], run.get("connections"))
                == ("throughput", database, program, mode, connections)}

    ours, bare = rates("hokusai", "redis"), rates("bare", mode)
    return [ours[rep] / bare[rep] for rep in ours if bare.get(rep)]


def targets(results):
    """What was asked for, and what was reached. PostgreSQL itself groups the commits of parallel requests, so the factor five is asked of SQLite."""
    found = []
    for database, text in (("sqlite", "SQLite"), ("postgres", "PostgreSQL")):
        for mode, name, wanted in (("group", "of the bare group commit", 0.5), ("each", "times the bare commit per request", 5.0 if database == "sqlite" else None)):
            if reached := ratios(results, database, mode):
                value = statistics.median(reached)
                found.append({"what": f"{text}, 64 connections: requests/s {name}", "reached": round(value, 2),
                              "range": [round(min(reached), 2), round(max(reached), 2)], "target": wanted and f"at least {wanted:g}",
                              "met": None if wanted is None else value >= wanted})
    for (database,), runs in groups([run for run in results if run["program"] == "hokusai"], "arrive", "database"):
        reached = [run["answer_to_message"]["p99_us"] / 1e3 for run in runs if run["answer_to_message"]]
        if reached:
            value = statistics.median(reached)
            found.append({"what": f"{DATABASES[database]}, {runs[0]['rate']} registrations/s: answer to message in Redis, p99 ms", "reached": round(value, 2),
                          "range": [round(min(reached), 2), round(max(reached), 2)], "target": "under 10", "met": value < 10})
    return found


def target_table(results):
    words = {True: "yes", False: "NO", None: "-"}
    rows = [[found["what"], found["target"] or "-", number(found["reached"], 2), "{}-{}".format(*found["range"]), words[found["met"]]] for found in targets(results)]
    return table(["what", "target", "reached", "min-max", "met"], rows) if rows else ""


def markdown(about, results):
    reps = len({result["rep"] for result in results})
    disturbed = sum(result["others_cores"] > BUSY_CORES for result in results)
    failed = [line(result) for result in results if failures(result)]
    parts = [
        f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['filesystem']}, {about['fdatasync_per_s']:,.0f} fdatasync/s before, "
        f"{about['fdatasync_per_s_after']:,.0f} after; "
        f"commit {about['commit']}; medians of {reps} repetition{'s' * (reps != 1)}. "
        f"Other work used more than {BUSY_CORES} cores during {disturbed} of {len(results)} measurements.\n",
        target_table(results), throughput_table(results), arrival_table(results),
        "Failed:\n\n" + "\n".join(f"    {text}" for text in failed) + "\n" if failed else "",
    ]
    return "\n".join(part for part in parts if part)
