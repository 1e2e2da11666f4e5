"""Runs into tables: medians over the repetitions, and the targets with what was reached."""

import statistics

BUSY_CORES = 0.25

TITLES = {
    "publish": "Publishing", "handle": "Take, handle, acknowledge", "flat": "The same beside what lies there", "both": "Both at once",
    "pace": "At a steady pace",
}
# What, (part, peer, name), the same of whom it is compared with, and the least that was asked for; persistence none and AOF alike.
RATES = [
    ("take + handle + ack, of the limit loop (64)", ("handle", "hokusai", "16 handlers"), ("handle", "limit", "64 at a time"), 0.8),
    ("take + handle + ack, of the limit loop (256)", ("handle", "hokusai", "16 handlers"), ("handle", "limit", "256 at a time"), None),
    ("take + handle + ack, of the bare redis crate", ("handle", "hokusai", "16 handlers"), ("handle", "bare redis crate", "64 at a time"), None),
    ("take + handle + ack, times omniqueue on lists", ("handle", "hokusai", "16 handlers"), ("handle", "omniqueue lists", "16 consumers"), 8),
    ("take + handle + ack, times omniqueue on streams", ("handle", "hokusai", "16 handlers"), ("handle", "omniqueue streams", "16 consumers"), None),
    ("take + handle + ack, times BullMQ", ("handle", "hokusai", "16 handlers"), ("handle", "BullMQ", "64 handlers"), 25),
    ("take + handle + ack, times redis-py, one worker each", ("handle", "hokusai", "16 handlers"), ("handle", "redis-py", "1 worker"), 90),
    ("take + handle + ack, times Celery", ("handle", "hokusai", "16 handlers"), ("handle", "Celery", "16 threads"), 400),
    ("publishing in batches of 64, of the limit loop", ("publish", "hokusai", "batches of 64"), ("publish", "limit", "batches of 64"), 0.8),
    ("publishing in batches of 256, of the limit loop", ("publish", "hokusai", "batches of 256"), ("publish", "limit", "batches of 256"), 0.8),
    ("64 awaiting publishers, of the bare redis crate", ("publish", "hokusai", "64 awaiting"), ("publish", "bare redis crate", "64 awaiting"), 1.0),
    ("1 awaiting publisher, of the raw round trip", ("publish", "hokusai", "1 awaiting"), ("publish", "limit", "1 awaiting"), 0.95),
    ("both at once, of the limit loop", ("both", "hokusai", "batches of 64, 16 handlers"), ("both", "limit", "batches of 64"), 0.8),
    ("10,000 in processing: of the limit loop beside the same", ("flat", "hokusai", "stranded in processing"), ("flat", "limit", "stranded in processing"), None),
    ("10,000 in processing: of our own speed without", ("flat", "hokusai", "stranded in processing"), ("handle", "hokusai", "16 handlers"), 0.5),
    ("a million in main: of the limit loop beside the same", ("flat", "hokusai", "waiting in main"), ("flat", "limit", "waiting in main"), 0.8),
    ("a million in main: of our own speed without", ("flat", "hokusai", "waiting in main"), ("handle", "hokusai", "16 handlers"), 0.9),
]
# The same for CPU time per message, ours over theirs: it tells on a busy machine too, and has no target of its own.
COSTS = [RATES[index] for index in (0, 2, 8, 9, 10, 12)]
# At a steady pace, of the limit's; at most.
LATENCIES = [("latency", "publish to handler", 1.3), ("publish_latency", "publish", 1.3)]


def failures(result):
    """How many messages went wrong in any way."""
    if "error" in result:
        return 1
    return result.get("missing", 0) + result.get("repeated", 0) + abs(result.get("left", 0))


def line(result):
    """One run, for someone who watches."""
    place = f"{result['persistence']:4} {result['part']:7} {result['peer']:17} {result['name']:26}"
    if "error" in result:
        return f"{place} FAILED: {result['error']}"
    wrong = "  FAILED: " + ", ".join(f"{kind} {result[kind]}" for kind in ("missing", "repeated", "left") if result.get(kind)) if failures(result) else ""
    busy = f"  (others use {result['others_cores']:.2f} cores)" if result["others_cores"] > BUSY_CORES else ""
    if result["part"] == "pace":
        there, sent = result["latency"], result["publish_latency"]
        return (f"{place} publish p50 {sent['p50_us']:,.0f} p99 {sent['p99_us']:,.0f} µs, to handler p50 {there['p50_us']:,.0f}"
                f" p99 {there['p99_us']:,.0f} µs{busy}{wrong}")
    return (f"{place} {result['per_s']:11,.0f}/s  client {result['client_cpu_s_per_10k']:.3f}  redis {result['redis_cpu_s_per_10k']:.3f} s/10k"
            f"  {result['peak_rss_mib']:.1f} MiB{busy}{wrong}")


def number(value, digits=0, scale=1.0):
    return "" if value is None else f"{value * scale:,.{digits}f}"


def of(results, field, inner=None):
    values = [result.get(field) if inner is None else (result.get(field) or {}).get(inner) for result in results]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def groups(results, part):
    """Runs that differ in their repetition alone, in the order they were first made."""
    found = {}
    for result in results:
        if result["part"] == part and "error" not in result:
            found.setdefault((result["persistence"], result["peer"], result["name"]), []).append(result)
    return found.items()


def table(head, rows):
    marks = ["---" if index < 3 else "--:" for index, _ in enumerate(head)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows]) + "\n"


def rate_table(results, part):
    head = ["persistence", "peer", "how", "messages/s", "min-max", "client CPU s/10k", "Redis CPU s/10k", "peak RSS MiB", "missing", "repeated", "others' cores"]
    rows = []
    for (persistence, peer, name), runs in groups(results, part):
        rates = [run["per_s"] for run in runs]
        rows.append([persistence, peer, name, number(statistics.median(rates)), f"{min(rates):,.0f}-{max(rates):,.0f}",
                     number(of(runs, "client_cpu_s_per_10k"), 3), number(of(runs, "redis_cpu_s_per_10k"), 3), number(of(runs, "peak_rss_mib"), 1),
                     str(sum(run["missing"] for run in runs)), str(sum(run["repeated"] for run in runs)), number(of(runs, "others_cores"), 2)])
    return f"{TITLES[part]}\n\n{table(head, rows)}" if rows else ""


def pace_table(results):
    head = ["persistence", "peer", "how", "sent/s", "publish p50 µs", "p99 µs", "to handler p50 µs", "p99 µs", "max µs", "client CPU s/10k", "Redis CPU s/10k",
            "peak RSS MiB", "missing", "repeated", "others' cores"]
    rows = []
    for (persistence, peer, name), runs in groups(results, "pace"):
        spreads = [number(of(runs, field, inner)) for field, inner in (("publish_latency", "p50_us"), ("publish_latency", "p99_us"), ("latency", "p50_us"),
                                                                       ("latency", "p99_us"), ("latency", "max_us"))]
        rows.append([persistence, peer, name, number(of(runs, "sent_per_s")), *spreads, number(of(runs, "client_cpu_s_per_10k"), 3),
                     number(of(runs, "redis_cpu_s_per_10k"), 3), number(of(runs, "peak_rss_mib"), 1), str(sum(run["missing"] for run in runs)),
                     str(sum(run["repeated"] for run in runs)), number(of(runs, "others_cores"), 2)])
    return f"{TITLES['pace']}\n\n{table(head, rows)}" if rows else ""


def ratios(results, persistence, ours, theirs, value):
    """Ours over theirs, repetition by repetition: both were measured within the same minutes."""
    def values(which):
        return {run["rep"]: value(run) for run in results if (run["part"], run["peer"], run["name"]) == which and run["persistence"] == persistence and "error" not in run}

    ours, theirs = values(ours), values(theirs)
    return [ours[rep] / theirs[rep] for rep in ours if theirs.get(rep)]


def targets(results):
    """What was asked for, and what was reached."""
    found = []

    def add(persistence, what, reached, least=None, most=None):
        if not reached:
            return
        value = statistics.median(reached)
        bound = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else None
        met = value >= least if least is not None else value <= most if most is not None else None
        found.append({"persistence": persistence, "what": what, "target": bound, "reached": round(value, 2), "range": [round(min(reached), 2), round(max(reached), 2)],
                      "met": met})

    for persistence in dict.fromkeys(result["persistence"] for result in results):
        for what, ours, theirs, least in RATES:
            add(persistence, what, ratios(results, persistence, ours, theirs, lambda run: run["per_s"]), least=least)
        for what, ours, theirs, _ in COSTS:
            for field, whose in (("client_cpu_s_per_10k", "client"), ("redis_cpu_s_per_10k", "Redis")):
                add(persistence, f"{whose} CPU a message: {what}", ratios(results, persistence, ours, theirs, lambda run: run[field]))
        for field, name, most in LATENCIES:
            for quantile in ("p50_us", "p99_us"):
                reached = ratios(results, persistence, ("pace", "hokusai", "16 handlers"), ("pace", "limit", "one at a time"), lambda run: run[field][quantile])
                add(persistence, f"steady pace, {name}: {quantile[:3]} of the limit loop's", reached, most=most)
    return found


def target_table(results):
    words = {True: "yes", False: "NO", None: "-"}
    rows = [[found["persistence"], found["what"], found["target"] or "-", number(found["reached"], 2), "{}-{}".format(*found["range"]), words[found["met"]]]
            for found in targets(results)]
    return "Ratios\n\n" + table(["persistence", "what", "target", "reached", "min-max", "met"], rows) if rows else ""


def markdown(about, results):
    reps = len({result["rep"] for result in results})
    disturbed = sum(result.get("others_cores", 0) > BUSY_CORES for result in results)
    failed = [line(result) for result in results if failures(result)]
    parts = [
        f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['filesystem']}, Redis {about['redis']}; commit {about['commit']}; "
        f"medians of {reps} repetition{'s' * (reps != 1)}. Other work used more than {BUSY_CORES} cores during {disturbed} of {len(results)} measurements.\n",
        target_table(results), *(rate_table(results, part) for part in TITLES if part != "pace"), pace_table(results),
        "Failed\n\n" + "\n".join(f"    {text}" for text in failed) + "\n" if failed else "",
    ]
    return "\n".join(part for part in parts if part)
