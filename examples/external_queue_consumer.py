"""A complete consumer of `model_ready_to_deploy` messages for a service of your own.

It has what a service needs: graceful shutdown (SIGTERM and SIGINT finish what is in hand), errors told apart (those that
another attempt may cure, and those it cannot), retries with growing pauses, a dead-letter queue and a way out of it, queue
statistics, a health endpoint, logs. Replace `handle`.

    export REDIS_URL=redis://localhost:6379/0
    python examples/external_queue_consumer.py                  # consume until told to stop
    python examples/external_queue_consumer.py --stats          # what waits where
    python examples/external_queue_consumer.py --redrive        # give what was given up another chance

    docker: CMD ["python", "external_queue_consumer.py"]        systemd: ExecStart=/usr/bin/python3 external_queue_consumer.py

Other services may consume the same queue at the same time, in plain redis-py too; each message goes to one of them. For a
copy of every message ask for a queue of your own: `hokusai subscription add`.
"""

import argparse
import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hokusai import HokusaiError, QueueConsumer

logger = logging.getLogger("consumer")


def handle(message):
    """Does this service's work for one message.

    True acknowledges it. False or an exception is a failed attempt: it comes again after a pause, three times unless
    MESSAGE_RETRY_MAX says otherwise, and is then given up into the dead-letter queue. A message may come more than once (its
    consumer may have died after the work and before saying so), so doing the work twice must be the same as once: here the
    work is known by `message.message_id`.
    """
    if message.improvement_percentage is not None and message.improvement_percentage < 0:
        logger.error("%s is below its baseline; nothing is done for it", message.model_id)
        return True
    logger.info(
        "listing %s as %s: %s went from %s to %s, contributed by %s",
        message.model_id,
        message.token_symbol,
        message.metric_name,
        message.baseline_value,
        message.current_value,
        message.contributor_address or "nobody named",
    )
    return True


def consume(consumer, options):
    logger.info("queue stats: %s", dict(consumer.get_queue_stats()))
    stop_telling = threading.Event()
    threading.Thread(target=tell_stats, args=(consumer, options.stats_interval, stop_telling), daemon=True).start()
    if options.health_port:
        threading.Thread(target=serve_health, args=(consumer, options.health_port), daemon=True).start()
    handled = consumer.consume(
        message_handler=handle, batch_size=options.batch_size, poll_interval=1, idle_timeout=options.idle_timeout
    )
    stop_telling.set()
    logger.info("handled %d messages; what was in hand is finished, the rest waits for the next consumer", handled)


def tell_stats(consumer, interval_s, stop):
    while not stop.wait(interval_s):
        try:
            logger.info("queue stats: %s", dict(consumer.get_queue_stats()))
        except HokusaiError as error:
            logger.warning("the queue cannot be asked: %s", error)


def serve_health(consumer, port):
    """GET /health: 200 with the queue's statistics, or 503 with the reason."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                status, body = 200, {"status": "healthy", "queue_stats": dict(consumer.get_queue_stats())}
            except HokusaiError as error:
                status, body = 503, {"status": "unhealthy", "error": str(error)}
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments):
            logger.debug(*arguments)

    ThreadingHTTPServer(("0.0.0.0", port), Health).serve_forever()


def redrive(consumer):
    """Puts everything that was given up back into the queue. `hokusai queue dlq redrive` does the same, atomically, and
    resets what each message has used up of its attempts."""
    again = 0
    while raw := consumer.redis_client.rpop(consumer.dlq_name):
        entry = json.loads(raw)
        logger.info("given up at %s because %s", entry["failed_at"], entry["error"])
        consumer.redis_client.lpush(consumer.queue_name, entry["original_message"])
        again += 1
    logger.info("%d messages are in the queue again", again)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queue", help="the queue [default: MESSAGE_QUEUE_NAME, else hokusai:model_ready_queue]")
    parser.add_argument("--batch-size", type=int, default=4, help="messages handled at once")
    parser.add_argument("--processing-timeout", type=float, default=300, help="seconds a message may be handled")
    parser.add_argument("--idle-timeout", type=float, help="end when none has come for so many seconds")
    parser.add_argument("--stats-interval", type=float, default=60, help="seconds between two lines of statistics")
    parser.add_argument("--health-port", type=int, help="answer GET /health on this port")
    parser.add_argument("--stats", action="store_true", help="print what waits where, and end")
    parser.add_argument("--redrive", action="store_true", help="put what was given up back into the queue, and end")
    options = parser.parse_args()
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO").upper(), format="%(asctime)s - %(name)s - %(levelname)s - %(message)s"
    )
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    consumer = QueueConsumer(url, options.queue, options.processing_timeout)
    if options.stats:
        print(json.dumps(dict(consumer.get_queue_stats())))
    elif options.redrive:
        redrive(consumer)
    else:
        consume(consumer, options)


if __name__ == "__main__":
    main()
