"""Who is compared: how each is called, where it keeps its messages, and the cases it takes part in."""

import dataclasses
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
QUEUE = "hokusai:model_ready_queue"
LISTS = (("LLEN", QUEUE), ("LLEN", QUEUE + ":processing"))
OURS = (*LISTS, ("ZCARD", QUEUE + ":delayed"), ("LLEN", QUEUE + ":dlq"))


@dataclasses.dataclass(frozen=True)
class Peer:
    """`depths`: what is waiting, then what is taken, delayed or given up. `ours_to_read`: whether main holds bare messages."""

    name: str
    depths: tuple
    ours_to_read: bool = True

    def words(self, tools, port, verb, numbers, flags):
        program = {"hokusai": "ours", "bare redis crate": "bare", "omniqueue lists": "omni", "omniqueue streams": "omni"}.get(self.name, self.name)
        if self.name == "redis-py":
            return [tools.python, HERE / "py" / "plain.py", port, "consume" if verb == "receive" else verb, *numbers]
        if self.name == "BullMQ":
            more = [flags.get("concurrency", 64)] if verb in ("consume", "receive") else []
            return ["node", HERE / "node" / "bullmq.js", port, "consume" if verb == "receive" else verb, *numbers, *more]
        if self.name == "Celery":
            if verb in ("consume", "receive"):
                return [tools.python.with_name("celery"), "-q", "-A", "celery_peer", "worker", "-P", "threads", "-c", flags.get("concurrency", 16),
                        "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "CRITICAL"]
            return [tools.python, HERE / "py" / "celery_peer.py", port, verb, *numbers]
        options = [word for name, value in flags.items() for word in (f"--{name}", value)]
        if program == "omni":
            options += ["--kind", self.name.split()[1].rstrip("s")]
        return [tools.bin / program, "--port", port, *options, verb, *numbers]


LIMIT = Peer("limit", LISTS)
BARE = Peer("bare redis crate", LISTS)
HOKUSAI = Peer("hokusai", OURS)
OMNI_LISTS = Peer("omniqueue lists", (("LLEN", "omni:q"), ("LLEN", "omni:q_processing")), ours_to_read=False)
# A stream keeps what was acknowledged, so there only the messages themselves are counted.
OMNI_STREAMS = Peer("omniqueue streams", (), ours_to_read=False)
PLAIN = Peer("redis-py", LISTS)
BULLMQ = Peer("BullMQ", (("LLEN", "bull:bench:wait"), ("LLEN", "bull:bench:active"), ("ZCARD", "bull:bench:delayed")), ours_to_read=False)
CELERY = Peer("Celery", (("LLEN", "celery"), ("HLEN", "unacked")), ours_to_read=False)
OPTIONAL = {"omniqueue lists", "omniqueue streams"}


@dataclasses.dataclass(frozen=True)
class Case:
    """`count` is that of a full run. `publish`: callers and batch. `stranded`, `waiting`: what lies in processing and beyond `count` in main."""

    part: str
    peer: Peer
    name: str
    count: int
    flags: tuple = ()
    publish: tuple = ()
    stranded: int = 0
    waiting: int = 0


def flags(**given):
    return tuple(given.items())


CASES = [
    Case("publish", LIMIT, "batches of 64", 1_000_000, publish=(2, 64)),
    Case("publish", BARE, "batches of 64", 600_000, publish=(2, 64)),
    Case("publish", HOKUSAI, "batches of 64", 600_000, publish=(2, 64)),
    Case("publish", LIMIT, "batches of 256", 1_000_000, publish=(2, 256)),
    Case("publish", BARE, "batches of 256", 600_000, publish=(2, 256)),
    Case("publish", HOKUSAI, "batches of 256", 600_000, publish=(2, 256)),
    Case("publish", LIMIT, "64 awaiting", 400_000, publish=(64, 1)),
    Case("publish", BARE, "64 awaiting", 300_000, publish=(64, 1)),
    Case("publish", HOKUSAI, "64 awaiting", 300_000, publish=(64, 1)),
    Case("publish", LIMIT, "1 awaiting", 30_000, publish=(1, 1)),
    Case("publish", BARE, "1 awaiting", 30_000, publish=(1, 1)),
    Case("publish", HOKUSAI, "1 awaiting", 30_000, publish=(1, 1)),
    Case("publish", OMNI_LISTS, "64 awaiting", 60_000, publish=(64, 1)),
    Case("publish", PLAIN, "1 awaiting", 15_000, publish=()),
    Case("publish", PLAIN, "pipelines of 100", 60_000, publish=(100,)),
    Case("publish", BULLMQ, "64 awaiting", 30_000, publish=(64, 1)),
    Case("publish", BULLMQ, "batches of 100", 30_000, publish=(1, 100)),
    Case("publish", CELERY, "1 awaiting", 3_000, publish=()),

    Case("handle", LIMIT, "64 at a time", 600_000, flags(batch=64)),
    Case("handle", HOKUSAI, "16 handlers", 400_000, flags(concurrency=16)),
    Case("handle", BARE, "64 at a time", 400_000, flags(batch=64)),
    Case("handle", LIMIT, "256 at a time", 600_000, flags(batch=256)),
    Case("handle", HOKUSAI, "1 handler", 400_000, flags(concurrency=1)),
    Case("handle", HOKUSAI, "64 handlers", 400_000, flags(concurrency=64)),
    Case("handle", OMNI_LISTS, "16 consumers", 60_000, flags(concurrency=16, batch=1)),
    Case("handle", OMNI_STREAMS, "16 consumers", 60_000, flags(concurrency=16, batch=64)),
    Case("handle", PLAIN, "1 worker", 15_000),
    Case("handle", BULLMQ, "64 handlers", 30_000, flags(concurrency=64)),
    Case("handle", CELERY, "16 threads", 4_000, flags(concurrency=16)),

    Case("flat", LIMIT, "stranded in processing", 300_000, flags(batch=64, kind="newest-first"), stranded=10_000),
    Case("flat", HOKUSAI, "stranded in processing", 300_000, flags(concurrency=16), stranded=10_000),
    Case("flat", LIMIT, "waiting in main", 300_000, flags(batch=64), waiting=1_000_000),
    Case("flat", HOKUSAI, "waiting in main", 300_000, flags(concurrency=16), waiting=1_000_000),

    Case("both", LIMIT, "batches of 64", 800_000, flags(batch=64), publish=(2, 64)),
    Case("both", HOKUSAI, "batches of 64, 16 handlers", 500_000, flags(concurrency=16), publish=(2, 64)),
    Case("both", BARE, "batches of 64", 500_000, flags(batch=64), publish=(2, 64)),
    Case("both", OMNI_LISTS, "16 awaiting, 16 consumers", 40_000, flags(concurrency=16, batch=1), publish=(16, 1)),
    Case("both", PLAIN, "1 awaiting, 1 worker", 10_000, publish=()),
    Case("both", BULLMQ, "64 awaiting, 64 handlers", 20_000, flags(concurrency=64), publish=(64, 1)),

    Case("pace", LIMIT, "one at a time", 0),
    Case("pace", HOKUSAI, "16 handlers", 0, flags(concurrency=16)),
    Case("pace", BARE, "one at a time", 0),
    Case("pace", OMNI_LISTS, "16 consumers", 0, flags(concurrency=16, batch=1)),
    Case("pace", PLAIN, "1 worker", 0),
    Case("pace", BULLMQ, "16 handlers", 0, flags(concurrency=16)),
    Case("pace", CELERY, "16 threads", 0, flags(concurrency=16)),
]
PARTS = list(dict.fromkeys(case.part for case in CASES))
